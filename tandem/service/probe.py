"""Asking a started instance all that its recipe says, in one call.

An app with the extension speaks the contract (`tandem.contract`): it is asked which image it is and
its model's golden questions. Any other app is asked its health path only. Both are then asked the
questions of their own.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from tandem.contract import READY_PATH, Version
from tandem.errors import ImageFault, TargetError
from tandem.service import client
from tandem.service.http import BUSY, TIMEOUT, ask
from tandem.service.questions import Question, ask_questions

if TYPE_CHECKING:
    from tandem.model.package import Golden


class Answers(msgspec.Struct, frozen=True, kw_only=True):
    """What an instance was asked and answered right; `str()` is a sentence."""

    milliseconds: float
    version: Version | None = None
    """Of an app with the extension."""
    golden: int = 0
    """The model's recorded questions."""
    largest_difference: float = 0.0
    questions: int = 0
    """The app's own questions."""
    health: str = ""
    """The path that was asked, of an app without the extension."""

    def __str__(self) -> str:
        asked = []
        if self.golden:
            asked.append(f"gave {self.golden} of {self.golden} golden predictions")
        if self.questions:
            asked.append(f"answered {self.questions} of {self.questions} questions")
        if not asked:
            return f"is alive ({self.health or '/'}); it has no questions to be asked"
        return f"{' and '.join(asked)} in {self.milliseconds:.0f} ms"


def ask_instance(
    url: str,
    *,
    digest: str,
    golden: Golden | None,
    health: str = READY_PATH,
    questions: Sequence[Question] = (),
) -> Answers:
    """Ask the instance at `url`, started from the image `digest`, all there is to ask.

    `golden` is the model's where the app uses the extension, and None where it does not: such an
    app is not asked who it is. Raises `ImageFault` that names the first wrong answer, and
    `TargetError` where none came, the service is busy, or it is another image's.
    """
    started = time.monotonic()
    running, report = None, client.AskReport(0, 0.0, 0.0)
    if golden is None:
        ask_health(url, health)
    else:
        running = client.check_version(url, digest=digest)
        report = client.ask_golden(url, golden)
    asked = ask_questions(url, questions)
    return Answers(
        milliseconds=round((time.monotonic() - started) * 1000, 3),
        version=running,
        golden=report.questions,
        largest_difference=report.largest_difference,
        questions=asked.questions,
        health=health if golden is None else "",
    )


def ask_private_instance(
    url: str,
    *,
    digest: str,
    golden: Golden | None,
    health: str = READY_PATH,
    questions: Sequence[Question] = (),
) -> Answers:
    """As `ask_instance`, but an instance that stops answering is asked once more.

    Raises `ImageFault` when it answers wrongly or ended over the questions, `TargetError` when it
    lives and is only slow.
    """
    try:
        return ask_instance(url, digest=digest, golden=golden, health=health, questions=questions)
    except ImageFault:
        raise
    except TargetError as problem:
        try:
            client.wait_ready(url, TIMEOUT, path=health)
        except TargetError:
            raise ImageFault(f"stopped while it was asked: {problem}") from None
    return ask_instance(url, digest=digest, golden=golden, health=health, questions=questions)


def ask_health(url: str, path: str) -> None:
    """Ask the health path once.

    Raises `ImageFault` where it answers an error, `TargetError` where it does not answer.
    """
    answer = ask("GET", url, path or "/")
    if not client.is_healthy(answer.status, path):
        fault = TargetError if answer.status in BUSY else ImageFault
        raise fault(f"{url}{path} answered {answer.status}: {answer.excerpt()}")
