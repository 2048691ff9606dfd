"""Several workers: forked, replaced when they die, ended together."""

from __future__ import annotations

import os
import signal
import threading
import time
import traceback
from collections.abc import Callable

from tandem.serving.worker.signals import Wakeup

FAILURES = 3
"""So many workers in a row that die within `SOON` seconds end the service."""
SOON = 5.0


def supervise(count: int, work: Callable[[int, Callable[[], object]], int]) -> int:
    """Fork `count` processes that do `work(index, ready)`; replace those that die.

    The first is waited for until it calls `ready`: what stops one stops all, said once.
    """
    children: dict[int, tuple[int, float]] = {}
    stopping = False
    # Open in this process only: a worker that reads its end learns that we are gone.
    alive, held = os.pipe()

    def forward(number: int, frame: object) -> None:
        nonlocal stopping
        stopping = True
        for pid in children:
            os.kill(pid, number)

    def fork(index: int, ready: Callable[[], object] = lambda: None) -> None:
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            os.close(held)
            threading.Thread(target=_end_with_parent, args=(alive,), daemon=True).start()
            code = 1
            try:
                code = work(index, ready)
            except Exception:  # noqa: BLE001 - a fork must end here, whatever happened in it
                traceback.print_exc()
            finally:
                os._exit(code)
        children[pid] = (index, time.monotonic())

    wakeup = Wakeup()
    signal.signal(signal.SIGTERM, forward)
    signal.signal(signal.SIGINT, forward)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)  # for the wakeup alone
    listening, reporting = os.pipe()
    fork(0, lambda: os.write(reporting, b"1"))
    os.close(reporting)
    started = os.read(listening, 1) == b"1"  # else it is dead
    quick = 0
    others = range(1, count) if started else ()
    for index in others:
        if not stopping:
            fork(index)
    worst = False
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            wakeup.wait()
            continue
        index, since = children.pop(pid)
        code = os.waitstatus_to_exitcode(status)
        if stopping:
            # One that was still loading has nothing to finish, and ends by the signal itself.
            worst = worst or code not in (0, -signal.SIGTERM, -signal.SIGINT)
            continue
        quick = quick + 1 if time.monotonic() - since < SOON else 1
        if quick >= FAILURES or (index == 0 and not others):
            worst = True
            forward(signal.SIGTERM, None)
            continue
        fork(index)
    return 1 if worst else 0


def _end_with_parent(alive: int) -> None:
    os.read(alive, 1)
    os._exit(1)
