"""Reads whole request bodies, bounded in size, in time and in memory.

Each that is still coming holds a thread, which cannot be interrupted: what ends it is the end of
its connection, for which serving/connections.py looks at what is noted here.
"""

from __future__ import annotations

import time
from threading import Lock, get_ident
from typing import Any

from tandem.serving.problems import Problem

HEARD_OUT = 4
"""Bodies up to this multiple of the limit are read, and then refused."""
PART_BYTES = 1 << 16
JSON = "application/json"


class Bodies:
    """Which requests are at work, and which of these still wait for their body."""

    def __init__(self, most: int, seconds: float) -> None:
        self.most = most
        self.seconds = seconds
        # When each began, by its thread: all requests, and those whose body is being read.
        self.began: dict[int, float] = {}
        self.reading: dict[int, float] = {}
        self.pressed = False  # whether more than `most` come slowly
        self.ended = 0  # connections of slow senders, so far
        self._held = 0  # bytes of bodies that are not whole yet, beyond the first part of each
        self._lock = Lock()

    def read(self, stream: Any, length: int | None, limit: int) -> bytes:
        """The body, of `length` bytes where the caller said so.

        Raises Problem: 400 cut short, 408 too slow, 413 too long, 503 too many at once.
        """
        # Most clients send all before they listen: what is only somewhat too long is taken and
        # thrown away, so that they hear why and not just that the connection broke.
        if length is not None and length > HEARD_OUT * limit:
            raise _too_long(length, limit)
        me = get_ident()
        ended = self.ended
        began = self.reading[me] = time.perf_counter()
        try:
            first: bytes = b""
            if length is not None and length <= PART_BYTES and length <= limit:
                first = stream.read(length)
                if len(first) == length and time.perf_counter() - began <= self.seconds:
                    return first  # nearly all
            parts, size = self._parts(stream, length, limit, began, first)
        finally:
            del self.reading[me]
        if size > limit:
            raise _too_long(length, limit)
        if time.perf_counter() - began > self.seconds:
            raise Problem(408, f"The body did not arrive within {self.seconds:g} seconds.")
        if length is not None and size != length:
            if ended != self.ended:
                raise Problem(408, "The body came too slowly; send it at once.")
            raise Problem(400, f"The body ended after {size} of {length} bytes.")
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _parts(
        self, stream: Any, length: int | None, limit: int, began: float, first: bytes
    ) -> tuple[list[bytes], int]:
        """The body from `first` on (no parts where it is too long), and its size."""
        parts = [first] if first else []
        size, held = len(first), 0
        most = HEARD_OUT * limit
        # No more than what is still to come: for more the server waits until the body's end.
        left = most + 1 if length is None else length
        try:
            while size != length and (part := stream.read(min(left - size, PART_BYTES))):
                size += len(part)
                if size <= limit:
                    if parts:
                        held += len(part)
                        self._hold(len(part), self.most * limit)
                    parts.append(part)
                else:
                    parts.clear()
                if size > most or time.perf_counter() - began > self.seconds:
                    break
        finally:
            if held:
                self._hold(-held, self.most * limit)
        return parts, size

    def _hold(self, size: int, most: int) -> None:
        with self._lock:
            self._held += size
            full = size > 0 and self._held > most
        if full:
            raise Problem(
                503,
                "Too many long requests are still being sent; try again.",
                {"Retry-After": "1"},
            )


def _too_long(length: int | None, limit: int) -> Problem:
    size = "more than that" if length is None else f"{length} bytes"
    return Problem(413, f"At most {limit} bytes are taken, the body has {size}.")


def json_body(environ: dict[str, Any]) -> bytes:
    """The body of a scoring request, which was read before. Raises Problem (415)."""
    kind = environ.get("CONTENT_TYPE", "").partition(";")[0].strip().lower()
    if kind != JSON or "HTTP_CONTENT_ENCODING" in environ:
        raise Problem(415, f"The body must be sent as {JSON}, not compressed.")
    if "HTTP_INFERENCE_HEADER_CONTENT_LENGTH" in environ:
        raise Problem(
            415, "Send tensors as JSON: the binary tensor data extension is not supported."
        )
    body: bytes = environ["tandem.body"]
    return body


def content_length(environ: dict[str, Any]) -> int | None:
    """What the caller says the body has, in bytes."""
    text = environ.get("CONTENT_LENGTH") or ""
    return int(text) if text.isdecimal() and len(text) < 20 else None


def has_body(environ: dict[str, Any]) -> bool:
    """Whether the request may have a body."""
    return environ.get("CONTENT_LENGTH", "") not in ("", "0") or (
        "HTTP_TRANSFER_ENCODING" in environ
    )
