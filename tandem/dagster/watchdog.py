"""`python -m tandem.dagster.watchdog PID`: lets `dagster dev`, of that PID, start its code server
again when the process inside it has died, which it does only for the server as a whole.
"""

import contextlib
import sys
import time

import psutil

LOOK_SECONDS = 2.0
PATIENCE = 3
"""Looks in a row at a code server with nothing inside, which is so while it reloads."""


def main(pid: int) -> None:
    """Watch until that process has ended."""
    parent = psutil.Process(pid)
    empty: dict[psutil.Process, int] = {}  # looks since something was inside
    while parent.is_running() and parent.status() != psutil.STATUS_ZOMBIE:
        with contextlib.suppress(psutil.Error):
            for server in [one for one in parent.children() if "code-server" in one.cmdline()]:
                if _is_filled(server):
                    empty[server] = 0
                elif server in empty:
                    empty[server] += 1
                if empty.get(server, 0) > PATIENCE:
                    print("the code server has died: starting it again", file=sys.stderr)
                    server.kill()
                    del empty[server]
        time.sleep(LOOK_SECONDS)


def _is_filled(server: psutil.Process) -> bool:
    return any(one.status() != psutil.STATUS_ZOMBIE for one in server.children())


if __name__ == "__main__":
    main(int(sys.argv[1]))
