"""What happened when in a rollout, reported as it happens."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec


class Moment(msgspec.Struct, frozen=True):
    """One line of a rollout's timeline; `second` since it began."""

    second: float
    what: str


class Timeline:
    """What happened when, told as it happens."""

    def __init__(self, progress: Callable[[str], None]) -> None:
        self.began = time.monotonic()
        self.moments: list[Moment] = []
        self._progress = progress

    def say(self, what: str) -> None:
        """One more line, unless it is the last one again."""
        if not self.moments or self.moments[-1].what != what:
            self.moments.append(Moment(round(time.monotonic() - self.began, 2), what))
            self._progress(what)
