"""Processes that outlive their starter: remembered, asked after, ended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time

import msgspec

from tandem.util import processes

EXIT_WAIT = 5.0
CLOCK_SLACK = 2.0


class Process(msgspec.Struct, frozen=True):
    """A process that is this one and no other: a number alone is used again."""

    pid: int
    created: float = 0.0
    """In epoch seconds; only of what an edition before `mark` wrote down."""
    mark: str = ""
    """Its identity, see `tandem.util.processes`."""


_children: dict[str, subprocess.Popen[bytes]] = {}
"""Started by this process, by their identity; they outlive it on purpose, but must be reaped while
it lives, and how they ended is known to it alone."""


def known(pid: int) -> Process:
    """A running process as one to write down. Raises `OSError` when it is gone."""
    return Process(pid, mark=processes.identity(pid))


def remember(child: subprocess.Popen[bytes]) -> Process:
    """The identity of a child that was just started."""
    # It is there, running or not, until it is reaped.
    process = known(child.pid)
    _children[process.mark] = child
    return process


def exit_code(process: Process) -> int | None:
    """How a child of this process ended; None where that is not known.

    A signal is a negative number.
    """
    child = _children.get(process.mark)
    if child is None:
        return None
    # It counts as ended once its first thread has; the kernel tells how when the last one has.
    with contextlib.suppress(subprocess.TimeoutExpired):
        return child.wait(EXIT_WAIT)
    return None


def process_alive(process: Process) -> bool:
    """Whether that very process still runs; one of another container is none of ours."""
    child = _children.get(process.mark)
    if child is not None and child.poll() is not None:
        return False
    if process.mark:
        return processes.alive(process.mark) is True
    return _was_written_down(process)


def _was_written_down(process: Process) -> bool:
    """Whether a process runs that was written down with the time of its start alone."""
    import psutil

    try:
        running = psutil.Process(process.pid)
        # A clock that is set by a second moves what psutil computes from it.
        same = abs(running.create_time() - process.created) < CLOCK_SLACK
        return same and running.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def terminate(process: Process) -> None:
    """Ask a process to end, if it is still there."""
    if process_alive(process):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGTERM)


def end_process(process: Process, *, grace: float = 2.0) -> None:
    """Terminate a process, wait for it, kill it after `grace` seconds."""
    end = time.monotonic() + grace
    sent = signal.SIGTERM if grace else signal.SIGKILL
    while process_alive(process):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, sent)
        while process_alive(process) and (time.monotonic() < end or sent == signal.SIGKILL):
            time.sleep(0.005)
        sent = signal.SIGKILL
