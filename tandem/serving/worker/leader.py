"""One thread answers all quick requests; others come in when it is busy.

Threads that all wait for requests hand Python's lock (the GIL) to each other several times a
request, which costs more than a quick prediction. With leader and followers (Schmidt et al.,
Pattern-Oriented Software Architecture 2) one thread waits for requests and answers them; before
what may take longer it makes a parked thread the leader, and parks itself when it is done.
"""

from __future__ import annotations

import threading
import time
from threading import get_ident

TICK = 0.01
"""Seconds: a leader that is still at the same request a tick later is replaced."""
QUIET = 50
"""Ticks without a request after which nobody looks any more until the next one."""


class Leader:
    """Which of the server's threads waits for requests: one, replaced when it is busy.

    Each thread calls `begin` when it has got a request and `end` when it has answered it; in
    between it may call `step_down`.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._leader: int | None = None
        self._parked: list[tuple[int, threading.Lock]] = []
        self._away: set[int] = set()  # threads with what takes longer
        self._closed = False
        self._turn = 0
        self._busy = False
        self._watched = threading.Event()

    def watch(self) -> None:
        """Begin to replace a leader that is stuck, in whatever it is."""
        threading.Thread(target=self._watch, name="leader", daemon=True).start()

    def begin(self) -> None:
        """This thread has got a request."""
        if self._leader == get_ident():
            self._turn += 1
            self._busy = True
            if not self._watched.is_set():
                self._watched.set()

    def step_down(self) -> None:
        """What this thread does next may take long: another one leads from here on."""
        me = get_ident()
        if self._leader == me:
            self._replace(me)
        else:
            self._away.add(me)

    def end(self, *, parks: bool = True) -> None:
        """Block until this thread should accept another request.

        Never blocks if `parks` is false.
        """
        me = get_ident()
        if self._leader == me:
            self._busy = False
            return
        self._away.discard(me)
        with self._lock:
            if self._away or self._closed or not parks:
                return
            if self._leader is None:
                self._leader = me
                return
            turn = threading.Lock()
            turn.acquire()
            self._parked.append((me, turn))
        turn.acquire()

    def close(self) -> None:
        """Let all threads go: none is parked from now on."""
        with self._lock:
            self._closed = True
            while self._parked:
                self._parked.pop()[1].release()

    def _replace(self, leader: int) -> None:
        with self._lock:
            if self._leader != leader:
                return
            self._busy = False
            self._away.add(leader)
            # The one that parked last: what it needs is in the caches. With none parked, the server
            # starts a thread for the next request, and the first to end its own becomes the leader.
            self._leader, turn = self._parked.pop() if self._parked else (None, None)
            if turn:
                turn.release()

    def _watch(self) -> None:
        while True:
            self._watched.wait()
            seen, quiet = -1, 0
            while quiet < QUIET:
                time.sleep(TICK)
                turn, leader = self._turn, self._leader
                if turn != seen:
                    seen, quiet = turn, 0
                elif self._busy and leader is not None:
                    self._replace(leader)
                else:
                    quiet += 1
            self._watched.clear()
            if self._turn != seen:  # begun between the last look and the clearing
                self._watched.set()
