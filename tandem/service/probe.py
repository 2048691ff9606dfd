"""Asking a started instance all that its recipe says, in one call.

An app with the extension speaks the contract (`tandem.contract`): it is asked which image it is and
its model's golden questions. Any other app is asked its health path only. Both are then asked the
questions of their own.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

from tandem.contract import READY_PATH, Version
from tandem.errors import ImageFault, TargetError
from tandem.service import client
from tandem.service.http import BUSY, TIMEOUT, ask
from tandem.service.questions import Question, ask_questions

if TYPE_CHECKING:
    from tandem.model.package import Golden


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What an instance of an image is asked, beside what its model recorded."""

    contract: bool = True
    """Whether it speaks the contract (`tandem.contract`), as the extension does."""
    health: str = READY_PATH
    """The path that says that it is ready; empty where any answer at all will do."""
    questions: tuple[Question, ...] = ()
    """The app's own questions."""


CONTRACT = Asked()
"""Of a service that uses the extension and has no questions of its own."""


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
        right = []
        if self.golden:
            right.append(f"gave {self.golden} of {self.golden} golden predictions")
        if self.questions:
            right.append(f"answered {self.questions} of {self.questions} questions")
        if not right:
            return f"is alive ({self.health}); it has no questions to be asked"
        return f"{' and '.join(right)} in {self.milliseconds:.0f} ms"


def ask_instance(
    url: str,
    *,
    digest: str,
    golden: Golden | None,
    asked: Asked = CONTRACT,
) -> Answers:
    """Ask the instance at `url`, started from the image `digest`, all there is to ask.

    `golden` are its model's, which an app is asked that speaks the contract. Raises `ImageFault`
    that names the first wrong answer, and `TargetError` where none came, the service is busy, or it
    is another image's.
    """
    started = time.monotonic()
    running, report = None, client.AskReport(0, 0.0, 0.0)
    if asked.contract:
        running = client.check_version(url, digest=digest)
        if golden is not None:
            report = client.ask_golden(url, golden)
    else:
        ask_health(url, asked.health)
    own = ask_questions(url, asked.questions)
    return Answers(
        milliseconds=round((time.monotonic() - started) * 1000, 3),
        version=running,
        golden=report.questions,
        largest_difference=report.largest_difference,
        questions=own.questions,
        health="" if asked.contract else asked.health or "/",
    )


def ask_private_instance(
    url: str,
    *,
    digest: str,
    golden: Golden | None,
    asked: Asked = CONTRACT,
) -> Answers:
    """As `ask_instance`, but an instance that stops answering is asked once more.

    Raises `ImageFault` when it answers wrongly or ended over the questions, `TargetError` when it
    lives and is only slow.
    """
    try:
        return ask_instance(url, digest=digest, golden=golden, asked=asked)
    except ImageFault:
        raise
    except TargetError as problem:
        try:
            client.wait_ready(url, TIMEOUT, path=asked.health)
        except TargetError:
            raise ImageFault(f"stopped while it was asked: {problem}") from None
    return ask_instance(url, digest=digest, golden=golden, asked=asked)


def ask_health(url: str, path: str) -> None:
    """Ask the health path once.

    Raises `ImageFault` where it answers an error, `TargetError` where it does not answer.
    """
    answer = ask("GET", url, path or "/")
    if not client.is_healthy(answer.status, path):
        fault = TargetError if answer.status in BUSY else ImageFault
        raise fault(f"{url}{path} answered {answer.status}: {answer.excerpt()}")
