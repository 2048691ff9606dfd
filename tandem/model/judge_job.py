"""What passes between the judge and its process: the job, and what was found."""

from __future__ import annotations

from typing import Any

import msgspec

from tandem.model.metrics import Measured
from tandem.model.package import HeldOut

READY = b"ready\n"
"""Said once all is imported: what ends the process from then on is the package's doing."""
MACHINERY = 75
"""Exit code when the machine failed (EX_TEMPFAIL of sysexits.h): no verdict on the package."""


class Check(msgspec.Struct, frozen=True):
    """One question and its outcome: a line for people, details for programs."""

    name: str
    passed: bool
    summary: str
    details: dict[str, Any] = {}


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What the judge's process reads; `candidate` and `champion` are folders."""

    candidate: str
    number: int
    champion: str | None
    champion_number: int | None
    metric: str
    floor: float
    margin: float
    least_rows: int
    tolerance: float
    lock: dict[str, str] | None
    held_out: HeldOut | None = None
    """The application's own held-out rows."""
    trust: list[str] = []
    """The application's own types."""
    seconds: int = 0
    """Of computing, from when all is imported."""


class Found(msgspec.Struct, frozen=True):
    """What the judging process answers."""

    checks: list[Check]
    measured: Measured | None = None


def refused(why: str) -> Found:
    """All checks failed, because it does not load."""
    others = "not asked, because it does not load"
    return Found(
        [
            Check("good_enough", False, others),
            Check("loads_safely", False, why),
            Check("answers_match", False, others),
        ]
    )
