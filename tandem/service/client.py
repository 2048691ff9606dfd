"""Asking a service that speaks the contract: readiness, version, golden answers."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from tandem.contract import (
    OWN_READY_PATH,
    OWN_SCORE_PATH,
    OWN_VERSION_PATH,
    READY_PATH,
    SCORE_PATH,
    VERSION_PATH,
    Version,
)
from tandem.errors import ImageFault, TargetError
from tandem.service.http import BUSY, FAILURES, Answer, ask, reason, request
from tandem.service.http import TIMEOUT as TIMEOUT

if TYPE_CHECKING:
    from tandem.model.package import Golden, Prediction

POLL = 0.005
NOT_THERE = frozenset({401, 403, 404, 405})
"""How a service answers at a path that it does not have, also where it guards what it has."""


class AskReport(msgspec.Struct, frozen=True):
    """Golden questions asked and answered as recorded."""

    questions: int
    largest_difference: float
    """Between a recorded and an answered number."""
    milliseconds: float
    """For the one request that asked them all."""


def get(url: str, path: str, *, timeout: float = TIMEOUT) -> tuple[int, bytes]:
    """Status and body of one GET. Raises `OSError` or `HTTPException`."""
    answer = request("GET", url, path, timeout=timeout)
    return answer.status, answer.body


def is_healthy(status: int, path: str) -> bool:
    """Whether a service that answers its health path so is ready.

    The contract's own paths answer 200. Another may redirect, as Kubernetes' probes allow; the
    empty path stands for "answers at all".
    """
    if path in (READY_PATH, OWN_READY_PATH):
        return status == 200
    return not path or 200 <= status < 400


def wait_ready(
    url: str,
    deadline: float,
    ended: Callable[[], TargetError | None] = lambda: None,
    *,
    path: str = READY_PATH,
) -> float:
    """Wait until the health path answers as `is_healthy` wants; returns the seconds.

    Raises `TargetError` once `deadline` seconds have passed (the machine may be busy), `ImageFault`
    where it answered to the end that there is no such path or no right to it, and at once
    when `ended()` tells how the service ended: an error of that class, so an `ImageFault` only
    where that says so.
    """
    started = time.monotonic()
    last, refused = "nothing answered", False
    asked = path or "/"
    while True:
        end = ended()
        try:
            status, _ = get(url, asked, timeout=max(0.1, min(TIMEOUT, deadline)))
            # What has ended answers nobody: that was another one, which has taken its port.
            if is_healthy(status, path) and end is None:
                return time.monotonic() - started
            last = f"{asked} answered {status}"
            refused = 400 <= status < 500 and status not in BUSY
        except FAILURES as problem:
            last, refused = f"{asked}: {reason(problem)}", False
        waited = time.monotonic() - started
        # The request itself may have taken all the time there was.
        end = end or (ended() if waited > deadline else None)
        if end is not None:
            raise type(end)(f"the service at {url} stopped before it was ready: {end} ({last})")
        if waited > deadline:
            # Who answers that there is no such thing is not busy: it will never be ready.
            fault = ImageFault if refused else TargetError
            raise fault(f"the service at {url} was not ready within {deadline:g} s ({last})")
        # Tight at first, where most services are a moment away; slower for those that take long.
        time.sleep(POLL if waited < 5 else 20 * POLL)


def version(url: str) -> Version:
    """What the service at `url` runs, by its own report.

    Raises `TargetError` where it does not answer, `ImageFault` where the answer is of another
    shape.
    """
    path, answer = _first_of("GET", url, (OWN_VERSION_PATH, VERSION_PATH))
    try:
        return msgspec.json.decode(_accepted(url, path, answer), type=Version)
    except msgspec.ValidationError as problem:
        raise ImageFault(f"{url}{path} is not in the shape it should be: {problem}") from None
    except msgspec.DecodeError as problem:
        raise _not_json(url, path, problem) from None


def check_version(url: str, *, digest: str) -> Version:
    """As `version`, of a service that was started from the image `digest`.

    Raises `ImageFault` when it names no image, and `TargetError` when it names another one: that
    may be an old instance, or one that took the port.
    """
    running = version(url)
    if running.image.digest != digest:
        fault = TargetError if running.image.digest else ImageFault
        raise fault(f"{url}/version says image {running.image.digest}, not {digest}")
    return running


def ask_golden(url: str, golden: Golden) -> AskReport:
    """Ask a package's golden questions; compare the answers with the recorded ones.

    Raises `ImageFault` that names the first answer which differs by more than the golden
    tolerance.
    """
    started = time.monotonic()
    rows = msgspec.json.encode({"rows": golden.inputs})
    path, answer = _first_of("POST", url, (OWN_SCORE_PATH, SCORE_PATH), rows)
    took = time.monotonic() - started
    try:
        body = msgspec.json.decode(_accepted(url, path, answer))
    except msgspec.DecodeError as problem:
        raise _not_json(url, path, problem) from None
    answers = body.get("predictions") if isinstance(body, dict) else None
    where = f"{url}{path}"
    if not isinstance(answers, list) or len(answers) != len(golden.predictions):
        count = len(answers) if isinstance(answers, list) else "none"
        raise ImageFault(f"{where}: expected {len(golden.predictions)} predictions, got {count}")
    differences = [
        _compare(f"{where}, golden question {number}", recorded, answered, golden.tolerance)
        for number, (recorded, answered) in enumerate(zip(golden.predictions, answers, strict=True))
    ]
    return AskReport(len(answers), max(differences, default=0.0), took * 1000)


def _first_of(
    method: str, url: str, paths: tuple[str, ...], body: bytes | None = None
) -> tuple[str, Answer]:
    """The answer at the first path that is there, and that path."""
    headers = {"Content-Type": "application/json"} if body is not None else {}
    for path in paths[:-1]:
        answer = ask(method, url, path, body=body, headers=headers)
        if answer.status not in NOT_THERE:
            return path, answer
    return paths[-1], ask(method, url, paths[-1], body=body, headers=headers)


def _accepted(url: str, path: str, answer: Answer) -> bytes:
    """The body of an answer with status 200; raises for any other."""
    if answer.status != 200:
        fault = TargetError if answer.status in BUSY else ImageFault
        raise fault(f"{url}{path} answered {answer.status}: {answer.excerpt()}")
    return answer.body


def _not_json(url: str, path: str, problem: msgspec.DecodeError) -> ImageFault:
    return ImageFault(f"{url}{path} answered something that is not JSON: {problem}")


def _compare(where: str, recorded: Prediction, answered: Any, tolerance: float) -> float:
    """The largest difference between a recorded prediction and an answered one."""
    if not isinstance(answered, dict):
        raise ImageFault(f"{where}: expected an object, got {type(answered).__name__}")
    if recorded.labels:
        return _compare_labels(where, recorded, answered, tolerance)
    expected, values = _values(recorded.value), _values(answered.get("value"))
    if len(expected) != len(values):
        raise ImageFault(f"{where}: answered {len(values)} values, recorded were {len(expected)}")
    # A part in a thousand besides: values have no scale of their own, as probabilities do.
    return max(
        _difference(f"{where}, value {number}", wanted, value, tolerance + abs(wanted) / 1000)
        for number, (wanted, value) in enumerate(zip(expected, values, strict=True))
    )


def _values(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _compare_labels(
    where: str, recorded: Prediction, answered: dict[str, Any], tolerance: float
) -> float:
    labels, probabilities = answered.get("labels"), answered.get("probabilities")
    if not isinstance(labels, list) or not isinstance(probabilities, list) or not labels:
        raise ImageFault(f"{where}: expected labels and probabilities, got {sorted(answered)}")
    if len(labels) != len(probabilities):
        raise ImageFault(f"{where}: {len(labels)} labels with {len(probabilities)} probabilities")
    by_label = dict(zip(recorded.labels, recorded.probabilities, strict=True))
    largest = 0.0
    # Rank by rank, so that a tie which falls the other way is still the same answer.
    for rank, expected in enumerate(recorded.probabilities[: len(labels)]):
        label = labels[rank]
        largest = max(
            largest,
            _difference(f"{where}: probability {rank}", expected, probabilities[rank], tolerance),
        )
        tied = label in by_label and abs(by_label[label] - expected) <= 2 * tolerance
        last = recorded.probabilities[-1]
        beyond = label not in by_label and abs(last - expected) <= 2 * tolerance
        if label != recorded.labels[rank] and not (tied or beyond):
            raise ImageFault(f"{where}: answered {label!r}, recorded was {recorded.labels[rank]!r}")
    return largest


def _difference(where: str, recorded: Any, answered: Any, tolerance: float) -> float:
    if not isinstance(answered, int | float) or not math.isfinite(answered):
        raise ImageFault(f"{where}: expected a number, got {answered!r}")
    difference = abs(float(recorded) - float(answered))
    if not difference <= tolerance:
        raise ImageFault(f"{where}: answered {answered:.6g}, recorded was {recorded:.6g}")
    return difference
