"""`python -m tandem.dagster.watchdog PID`: restarts a dead code server.

PID is that of `dagster dev`, which by itself notices only the end of the server as a whole, and not
of the process inside it.
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
            for server in [p for p in parent.children() if "code-server" in p.cmdline()]:
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
    return any(child.status() != psutil.STATUS_ZOMBIE for child in server.children())


if __name__ == "__main__":
    main(int(sys.argv[1]))
