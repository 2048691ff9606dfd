"""Retries with back-off, beside the client that sends the requests."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from tandem.errors import RegistryError

PATIENCE = 45.0
"""Seconds without any progress after which a failing registry is given up."""
LONGEST_PAUSE = 5.0
LONGEST_RETRY_AFTER = 60.0
"""Seconds of a Retry-After that are honoured; more is an error that says so."""

T = TypeVar("T")
log = logging.getLogger("tandem.oci")


class Unavailable(Exception):
    """The registry cannot answer now: wait and try again.

    `retry_after` is what it asked for, in seconds; `permanent` means that waiting cannot help.
    """

    def __init__(
        self, reason: str, retry_after: float | None = None, *, permanent: bool = False
    ) -> None:
        super().__init__(reason)
        self.retry_after = retry_after
        self.permanent = permanent
        self.progressed = False


class Retry:
    """The policy for one registry; `patience` in seconds of `clock`."""

    def __init__(
        self,
        host: str,
        *,
        patience: float = PATIENCE,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.host = host
        self.patience = patience
        self.clock = clock
        self.sleep = sleep

    def call(self, attempt: Callable[[], T], what: str) -> T:
        """What `attempt` returns, repeated after each `Unavailable` while patience lasts.

        Raises `RegistryError`, which names `what`, when it ends.
        """
        backoff = Backoff(self, what)
        while True:
            try:
                return attempt()
            except Unavailable as problem:
                if problem.progressed:
                    backoff.reset()
                backoff.wait(problem)


class Backoff:
    """How long one operation has been failing, and the pause before its next try."""

    def __init__(self, policy: Retry, what: str) -> None:
        self._policy = policy
        self._what = what
        self._since: float | None = None
        self._tries = 0

    def reset(self) -> None:
        """Something moved: patience starts anew."""
        self._since, self._tries = None, 0

    def wait(self, problem: Unavailable) -> None:
        """Wait with growing, jittered pauses; raises `RegistryError` when patience ends."""
        policy = self._policy
        now = policy.clock()
        self._since = now if self._since is None else self._since
        given_up = ""
        if now - self._since > policy.patience:
            given_up = f"; given up after {self._tries + 1} tries in {now - self._since:.0f} s"
        elif problem.retry_after and problem.retry_after > LONGEST_RETRY_AFTER:
            given_up = f"; it asks to come back in {problem.retry_after:.0f} s: run again then"
        if given_up or problem.permanent:
            raise RegistryError(
                f"registry {policy.host}: {self._what}: {problem}{given_up}"
            ) from None
        pause = min(LONGEST_PAUSE, 0.1 * 2**self._tries) * random.uniform(0.5, 1.0)  # noqa: S311
        if problem.retry_after:
            # Not all who got the same answer come back in the same moment.
            pause = problem.retry_after * random.uniform(1.0, 1.1)  # noqa: S311
        self._tries += 1
        log.warning("registry %s: %s: %s; trying again", policy.host, self._what, problem)
        policy.sleep(pause)
