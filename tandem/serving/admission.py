"""How much is worked on at once: a little waits, the rest is refused at once."""

from __future__ import annotations

import math
import threading
import time
from queue import Empty, SimpleQueue

from tandem.serving.problems import Problem


def places(number: int) -> SimpleQueue[None]:
    """So many places, to be taken with `get` and given back with `put`."""
    free: SimpleQueue[None] = SimpleQueue()
    for _ in range(number):
        free.put(None)
    return free


class Gate:
    """Room for `slots` scorings at a time and `seats` waiting ones.

    A request is turned away when no seat is free, or when those before it will take longer than
    `patience` seconds by the recent mean: a caller who would give up anyway costs nothing then.
    """

    def __init__(self, slots: int, seats: int, patience: float) -> None:
        self._free = places(slots)
        self._lock = threading.Lock()
        self._slots = slots
        self._seats = seats
        self._patience = patience
        self._mean = 0.0
        self.waiting = 0

    def enter(self) -> float:
        """Take a slot; the answer is for `leave`. Raises Problem (503) with Retry-After."""
        try:
            self._free.get_nowait()
        except Empty:
            with self._lock:
                expected = (self.waiting + 1) * self._mean / self._slots
                if self.waiting >= self._seats or expected > self._patience:
                    raise self._refusal(expected) from None
                self.waiting += 1
            try:
                self._free.get(timeout=self._patience)
            except Empty:
                raise self._refusal(expected) from None
            finally:
                with self._lock:
                    self.waiting -= 1
        return time.perf_counter()

    def leave(self, entered: float) -> None:
        """Give the slot back."""
        spent = time.perf_counter() - entered
        self._mean += 0.1 * (spent - self._mean)
        self._free.put(None)

    def _refusal(self, expected: float) -> Problem:
        seconds = max(1, math.ceil(min(expected, 30)))
        return Problem(
            503,
            f"The service has more to do than it can; try again in {seconds} s.",
            {"Retry-After": str(seconds)},
        )
