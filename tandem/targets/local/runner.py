"""What runs instances of images on one machine, and what every such runner shares."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import msgspec

from tandem.errors import TargetError
from tandem.targets.local.state import Instance
from tandem.targets.protocol import DeployRequest, Say

A_MOMENT = 0.5
LOG_LINES = 15
DRAIN_SECONDS = "2"
"""For the service, unless the request says otherwise: no load balancer has to notice anything
here."""
TAKEN = "address already in use"
"""How a service tells that its port was taken."""


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """How an instance is started, and known to be ready; as in a `DeployRequest`."""

    env: Mapping[str, str]
    deadline: float
    health: str
    port: int
    command: tuple[str, ...]


class PortLost(TargetError):
    """Another program took the port of an instance: worth another try at once."""


class Runner(Protocol):
    """Runs instances of images on this machine."""

    scheme: str

    def prepare(self, request: DeployRequest, progress: Say) -> Any:
        """Do all that can be done before it starts; the result is handed to `start`."""

    def start(self, instance: Instance, prepared: Any) -> Instance:
        """Start it, listening on `HOST:instance.port`; returns it with what identifies it."""

    def alive(self, instance: Instance) -> bool:
        """Whether it runs."""

    def ended(self, instance: Instance) -> TargetError | None:
        """None while it runs; else how it ended, judged by what ended it.

        An `ImageFault` when it did so by itself, `PortLost` when its port was taken, and a plain
        `TargetError` when something outside of it did.
        """

    def terminate(self, instance: Instance) -> None:
        """Ask it to finish its work and end; does not wait."""

    def kill(self, instance: Instance) -> None:
        """End it and all that it started, now.

        Also where it was recorded and its identity was not.
        """

    def log_tail(self, instance: Instance) -> str:
        """The last lines it wrote."""

    def describe(self, instance: Instance) -> dict[str, Any]:
        """What to show of it."""

    def tidy(self, digests: set[str]) -> None:
        """Forget what is kept for images other than these and the latest ones."""

    def sweep(self) -> list[str]:
        """End the private checks (see `run_once`) whose process is gone; a line each."""


@contextlib.contextmanager
def judged_by_its_end(ended: Callable[[], TargetError | None]) -> Iterator[None]:
    """Blame an error on the end of the instance that was asked, where it has ended."""
    try:
        yield
    except TargetError as problem:
        # It closes its connections before it counts as ended.
        wait_until(lambda: ended() is not None, A_MOMENT)
        if end := ended():
            raise type(end)(f"{problem}: it has stopped, {end}") from None
        raise


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether the condition came true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True
