"""Asking a running service: is it ready, which version is it, and are its answers the golden
ones."""

from __future__ import annotations

import http.client
import math
import time
import urllib.parse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from tandem.contract import Version
from tandem.errors import ImageFault, TargetError

if TYPE_CHECKING:
    from tandem.model.package import Golden, Prediction

TIMEOUT = 10.0
"""Seconds in which one answer must begin."""
POLL = 0.005
MOST = 16 * 2**20


class AskReport(msgspec.Struct, frozen=True):
    """Golden questions asked and answered as recorded."""

    questions: int
    largest_difference: float
    """Between a recorded and an answered number."""
    milliseconds: float
    """For the one request that asked them all."""


def get(url: str, path: str, *, timeout: float = TIMEOUT) -> tuple[int, bytes]:
    """Status and body of one GET on a connection of its own. Raises `OSError` or
    `HTTPException`."""
    return _request("GET", url, path, None, timeout)


def wait_ready(
    url: str, deadline: float, ended: Callable[[], TargetError | None] = lambda: None
) -> float:
    """Wait until `GET /readyz` answers 200; returns the seconds that took.

    Raises `TargetError` once `deadline` seconds have passed (the machine may be busy), and at once
    when `ended()` tells how the service ended: an error of that class, so an `ImageFault` only
    where that says so.
    """
    started = time.monotonic()
    last = "nothing answered"
    while True:
        end = ended()
        try:
            status, _ = get(url, "/readyz", timeout=max(0.1, min(TIMEOUT, deadline)))
            # What has ended answers nobody: that was another one, which has taken its port.
            if status == 200 and end is None:
                return time.monotonic() - started
            last = f"/readyz answered {status}"
        except (OSError, http.client.HTTPException) as problem:
            last = f"/readyz: {_words(problem)}"
        waited = time.monotonic() - started
        # The request itself may have taken all the time there was.
        end = end or (ended() if waited > deadline else None)
        if end is not None:
            raise type(end)(f"the service at {url} stopped before it was ready: {end} ({last})")
        if waited > deadline:
            raise TargetError(f"the service at {url} was not ready within {deadline:g} s ({last})")
        # Tight at first, where most services are a moment away; slower for those that take long.
        time.sleep(POLL if waited < 5 else 20 * POLL)


def version(url: str) -> Version:
    """What the service at `url` says of itself; raises `TargetError` when it does not, or not in
    that shape."""
    said = _json("GET", url, "/version", None)
    try:
        return msgspec.convert(said, Version, strict=True)
    except msgspec.ValidationError as problem:
        raise ImageFault(f"{url}/version is not in the shape it should be: {problem}") from None


def check_version(url: str, *, digest: str) -> Version:
    """As `version`, of a service that was started from the image `digest`.

    Raises `ImageFault` when it names no image, and `TargetError` when it names another one: that
    may be an old instance, or one that took the port.
    """
    said = version(url)
    if said.image.digest != digest:
        fault = TargetError if said.image.digest else ImageFault
        raise fault(f"{url}/version says image {said.image.digest}, not {digest}")
    return said


def ask_golden(url: str, golden: Golden) -> AskReport:
    """Ask a package's golden questions over HTTP and compare the answers with the recorded ones.

    Raises `ImageFault` that names the first answer which differs by more than the golden
    tolerance.
    """
    started = time.monotonic()
    body = _json("POST", url, "/score", msgspec.json.encode({"rows": golden.inputs}))
    took = time.monotonic() - started
    answers = body.get("predictions") if isinstance(body, dict) else None
    if not isinstance(answers, list) or len(answers) != len(golden.predictions):
        raise ImageFault(
            f"{url}/score: want {len(golden.predictions)} predictions, got "
            f"{len(answers) if isinstance(answers, list) else 'none'}"
        )
    largest = 0.0
    for number, (want, got) in enumerate(zip(golden.predictions, answers, strict=True)):
        largest = max(
            largest, _compare(f"{url}/score, golden question {number}", want, got, golden.tolerance)
        )
    return AskReport(len(answers), largest, took * 1000)


def _compare(where: str, want: Prediction, got: Any, tolerance: float) -> float:
    """The largest difference between a recorded prediction and an answered one."""
    if not isinstance(got, dict):
        raise ImageFault(f"{where}: want an object, got {type(got).__name__}")
    if want.labels:
        return _compare_labels(where, want, got, tolerance)
    wants, gots = _values(want.value), _values(got.get("value"))
    if len(wants) != len(gots):
        raise ImageFault(f"{where}: answered {len(gots)} values, recorded were {len(wants)}")
    # A part in a thousand besides: values have no scale of their own, as probabilities do.
    return max(
        _difference(f"{where}, value {number}", one, other, tolerance + abs(one) / 1000)
        for number, (one, other) in enumerate(zip(wants, gots, strict=True))
    )


def _values(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _compare_labels(where: str, want: Prediction, got: dict[str, Any], tolerance: float) -> float:
    labels, probabilities = got.get("labels"), got.get("probabilities")
    if not isinstance(labels, list) or not isinstance(probabilities, list) or not labels:
        raise ImageFault(f"{where}: want labels and probabilities, got {sorted(got)}")
    if len(labels) != len(probabilities):
        raise ImageFault(f"{where}: {len(labels)} labels with {len(probabilities)} probabilities")
    recorded = dict(zip(want.labels, want.probabilities, strict=True))
    largest = 0.0
    # Rank by rank, so that a tie which falls the other way is still the same answer.
    for rank, expected in enumerate(want.probabilities[: len(labels)]):
        label = labels[rank]
        largest = max(
            largest,
            _difference(f"{where}: probability {rank}", expected, probabilities[rank], tolerance),
        )
        tied = label in recorded and abs(recorded[label] - expected) <= 2 * tolerance
        beyond = label not in recorded and abs(want.probabilities[-1] - expected) <= 2 * tolerance
        if label != want.labels[rank] and not (tied or beyond):
            raise ImageFault(f"{where}: answered {label!r}, recorded was {want.labels[rank]!r}")
    return largest


def _difference(where: str, want: Any, got: Any, tolerance: float) -> float:
    if not isinstance(got, int | float) or not math.isfinite(got):
        raise ImageFault(f"{where}: want a number, got {got!r}")
    difference = abs(float(want) - float(got))
    if not difference <= tolerance:
        raise ImageFault(f"{where}: answered {got:.6g}, recorded was {want:.6g}")
    return difference


def _json(method: str, url: str, path: str, body: bytes | None) -> Any:
    try:
        status, data = _request(method, url, path, body, TIMEOUT)
    except (OSError, http.client.HTTPException) as problem:
        raise TargetError(f"{url}{path} does not answer: {_words(problem)}") from None
    if status != 200:
        # A service that refuses for a moment (429, 503) is busy; any other answer is its own.
        raise (TargetError if status in (408, 429, 503) else ImageFault)(
            f"{url}{path} answered {status}: {data[:200].decode(errors='replace').strip()}"
        )
    try:
        return msgspec.json.decode(data)
    except msgspec.DecodeError as problem:
        raise ImageFault(f"{url}{path} answered something that is not JSON: {problem}") from None


def _request(
    method: str, url: str, path: str, body: bytes | None, timeout: float
) -> tuple[int, bytes]:
    parts = urllib.parse.urlsplit(url)
    connect = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = connect(parts.hostname or "", parts.port, timeout=timeout)
    try:
        headers = {"Connection": "close"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        connection.request(method, parts.path.rstrip("/") + path, body, headers)
        answer = connection.getresponse()
        data = answer.read(MOST + 1)
        if len(data) > MOST:
            raise ImageFault(f"{url}{path} answered more than {MOST} bytes")
        return answer.status, data
    finally:
        connection.close()


def _words(problem: BaseException) -> str:
    return (getattr(problem, "strerror", None) or str(problem) or type(problem).__name__).strip()
