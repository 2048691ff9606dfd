"""The identity of a process: start of the machine, PID namespace, pid, start of the process.

None of it hangs on the clock: a stepped clock, a reused pid or an equal host name in another
container makes no process another.
"""

from __future__ import annotations

import os
from pathlib import Path


def identity(pid: int | None = None) -> str:
    """`BOOT/NAMESPACE/PID/TICKS` of a process, by default this one. Raises `OSError` when gone."""
    number = os.getpid() if pid is None else pid
    return f"{_here()}/{number}/{_start_ticks(number)}"


def alive(mark: str) -> bool | None:
    """Whether that process runs; None where this process cannot know: another machine or container.

    What ran before this machine was started last has ended.
    """
    boot, _, rest = mark.partition("/")
    namespace, _, rest = rest.partition("/")
    pid, _, ticks = rest.partition("/")
    if not (pid.isdecimal() and ticks.isdecimal()):
        return None
    if f"{boot}/{namespace}" != _here():
        return None
    try:
        return _start_ticks(int(pid)) == int(ticks) and not _is_zombie(int(pid))
    except OSError:
        return False


def _here() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    # Two containers of one machine may have the same host name, but never the same PID namespace.
    namespace = str(Path("/proc/self/ns/pid").readlink()).removeprefix("pid:").strip("[]")
    return f"{boot}/{namespace}"


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the name, which may hold spaces: field 3 comes first."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _start_ticks(pid: int) -> int:
    return int(_stat(pid)[19])


def _is_zombie(pid: int) -> bool:
    return _stat(pid)[0] in "ZX"
