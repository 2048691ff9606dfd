"""The identity of a process: start of the machine, PID namespace, pid, its start, the machine.

None of it hangs on the clock: a stepped clock, a reused pid or an equal host name in another
container makes no process another. The machine's own name is for one thing only: to tell that a
process ran before this machine was started last.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
from pathlib import Path

_FIRST_NAMESPACE = "4026531836"
"""The PID namespace of the machine itself, the same on every Linux; a container has another."""


def identity(pid: int | None = None) -> str:
    """`BOOT/NAMESPACE/PID/TICKS/MACHINE` of a process, by default this one.

    MACHINE is missing in a container and where the machine has no id. Raises `OSError` when gone.
    """
    number = os.getpid() if pid is None else pid
    machine = _machine()
    return f"{_here()}/{number}/{_start_ticks(number)}" + (f"/{machine}" if machine else "")


def alive(mark: str) -> bool | None:
    """Whether that process runs; None where this process cannot know: another machine or container.

    What ran before this machine was started last has ended.
    """
    boot, _, rest = mark.partition("/")
    namespace, _, rest = rest.partition("/")
    pid, _, rest = rest.partition("/")
    ticks, _, machine = rest.partition("/")
    if not (pid.isdecimal() and ticks.isdecimal()):
        return None
    if f"{boot}/{namespace}" != _here():
        restarted = machine and machine == _machine() and boot != _here().partition("/")[0]
        return False if restarted else None
    try:
        return _start_ticks(int(pid)) == int(ticks) and not _is_zombie(int(pid))
    except OSError:
        return False


def kill(mark: str) -> None:
    """End that process at once, where it is one of ours that can be asked about and lives."""
    if alive(mark):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(int(mark.split("/")[2]), signal.SIGKILL)


def _here() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    # Two containers of one machine may have the same host name, but never the same PID namespace.
    namespace = str(Path("/proc/self/ns/pid").readlink()).removeprefix("pid:").strip("[]")
    return f"{boot}/{namespace}"


def _machine() -> str:
    """This machine by its id and name; empty in a container, whose image may bring any id."""
    namespace = _here().partition("/")[2]
    try:
        number = Path("/etc/machine-id").read_text().strip()
    except OSError:
        return ""
    if namespace != _FIRST_NAMESPACE or not number or number == "uninitialized":
        return ""
    return hashlib.sha256(f"{number}/{os.uname().nodename}".encode()).hexdigest()[:12]


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the name, which may hold spaces: field 3 comes first."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _start_ticks(pid: int) -> int:
    return int(_stat(pid)[19])


def _is_zombie(pid: int) -> bool:
    return _stat(pid)[0] in "ZX"
