"""HTTP questions of an app's own: what is sent, and what must be answered."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from tandem.errors import ImageFault, TargetError
from tandem.service.http import BUSY, TIMEOUT, Answer, ask

RELATIVE = 1e-6
"""By which numbers may differ in any case, as a part of the expected one."""


class Expected(msgspec.Struct, frozen=True, kw_only=True):
    """What must be true of an answer."""

    status: tuple[int, ...] = (200,)
    json: Any = None
    """Parts of the JSON answer: of an object the members named; a list as a whole."""
    tolerance: float = 0.0
    text: tuple[str, ...] = ()


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """One request, ready to be sent, and what is expected; `str()` names it."""

    method: str = "GET"
    path: str = "/"
    headers: Mapping[str, str] = {}
    body: bytes | None = None
    seconds: float = TIMEOUT
    expected: Expected = Expected()

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


class QuestionReport(msgspec.Struct, frozen=True):
    """Questions asked and answered as expected."""

    questions: int
    milliseconds: float


def ask_questions(url: str, questions: Sequence[Question]) -> QuestionReport:
    """Ask them one after the other.

    Raises `ImageFault` that names the first wrong answer, and `TargetError` where none came or the
    service is busy.
    """
    started = time.monotonic()
    for question in questions:
        answer = ask(
            question.method,
            url,
            question.path,
            body=question.body,
            headers=question.headers,
            timeout=question.seconds,
        )
        if wrong := mismatch(question.expected, answer):
            is_busy = answer.status in BUSY and answer.status not in question.expected.status
            raise (TargetError if is_busy else ImageFault)(f"{question} at {url}: {wrong}")
    return QuestionReport(len(questions), (time.monotonic() - started) * 1000)


def mismatch(expected: Expected, answer: Answer) -> str:
    """What is not as expected, in one line; empty where all is."""
    if answer.status not in expected.status:
        right = " or ".join(map(str, expected.status))
        return f"expected status {right}, got {answer.status}: {answer.excerpt()}"
    if expected.json is not None:
        try:
            body = msgspec.json.decode(answer.body)
        except msgspec.DecodeError:
            return f"expected JSON, got {answer.excerpt()!r}"
        if wrong := _difference(expected.json, body, expected.tolerance, ""):
            return wrong
    text = answer.body.decode(errors="replace")
    for part in expected.text:
        if part not in text:
            return f"expected {part!r} in the answer, got {answer.excerpt()!r}"
    return ""


def _difference(expected: Any, answered: Any, tolerance: float, where: str) -> str:
    """The first difference between the expected parts and the answered ones."""
    at = where.removeprefix(".") or "the answer"
    if isinstance(expected, Mapping):
        if not isinstance(answered, dict):
            return f"expected an object as {at}, got {_short(answered)}"
        for key, part in expected.items():
            if key not in answered:
                return f"expected {key!r} in {at}, got {_short(sorted(answered))}"
            if wrong := _difference(part, answered[key], tolerance, f"{where}.{key}"):
                return wrong
        return ""
    if isinstance(expected, Sequence) and not isinstance(expected, str | bytes):
        if not isinstance(answered, list) or len(answered) != len(expected):
            return f"expected a list of {len(expected)} as {at}, got {_short(answered)}"
        for number, (part, value) in enumerate(zip(expected, answered, strict=True)):
            if wrong := _difference(part, value, tolerance, f"{where}[{number}]"):
                return wrong
        return ""
    if _same(expected, answered, tolerance):
        return ""
    return f"expected {_short(expected)} as {at}, got {_short(answered)}"


def _same(expected: Any, answered: Any, tolerance: float) -> bool:
    if isinstance(expected, bool) or isinstance(answered, bool):
        return expected is answered
    if isinstance(expected, int | float) and isinstance(answered, int | float):
        return math.isclose(answered, expected, rel_tol=RELATIVE, abs_tol=tolerance)
    return bool(expected == answered)


def _short(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 80 else text[:77] + "..."
