"""One HTTP request to a service, on a connection of its own."""

from __future__ import annotations

import http.client
import urllib.parse
from collections.abc import Mapping

import msgspec

from tandem.errors import ImageFault, TargetError

TIMEOUT = 10.0
"""Seconds in which one answer must begin."""
MOST = 16 * 2**20
"""Bytes that an answer may have."""
BUSY = frozenset({408, 429, 503})
"""Statuses of a service that refuses for a moment; any other answer is its own."""
FAILURES = (OSError, http.client.HTTPException)
"""What `request` raises where no answer came."""


class Answer(msgspec.Struct, frozen=True):
    """What a service answered."""

    status: int
    body: bytes

    def excerpt(self) -> str:
        """The beginning of the body on one line, to end an error with."""
        return " ".join(self.body[:200].decode(errors="replace").split())


def request(
    method: str,
    url: str,
    path: str,
    *,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    timeout: float = TIMEOUT,
) -> Answer:
    """The answer, no redirect followed.

    Raises `OSError` or `HTTPException` where none came, and `ImageFault` where it has no end.
    """
    parts = urllib.parse.urlsplit(url)
    connect = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = connect(parts.hostname or "", parts.port, timeout=timeout)
    try:
        sent = {"Connection": "close", **(headers or {})}
        connection.request(method, parts.path.rstrip("/") + path, body, sent)
        response = connection.getresponse()
        data = response.read(MOST + 1)
        if len(data) > MOST:
            raise ImageFault(f"{url}{path} answered more than {MOST} bytes")
        return Answer(response.status, data)
    finally:
        connection.close()


def ask(
    method: str,
    url: str,
    path: str,
    *,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    timeout: float = TIMEOUT,
) -> Answer:
    """As `request`; raises `TargetError` where no answer came."""
    try:
        return request(method, url, path, body=body, headers=headers, timeout=timeout)
    except FAILURES as problem:
        raise TargetError(f"{url}{path} does not answer: {reason(problem)}") from None


def reason(problem: BaseException) -> str:
    """Why no answer came, on one line."""
    strerror = problem.strerror if isinstance(problem, OSError) else None
    return (strerror or str(problem) or type(problem).__name__).strip()
