"""Transfers in pieces: retried, downloaded ahead of the reader, sent in blocks."""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import BinaryIO, TypeVar

import msgspec

from tandem.errors import StorageError
from tandem.storage.store import Progress

ATTEMPTS = 5
PATIENCE = 30.0
"""Seconds that one Retry-After may ask for; more is told to the person instead of slept."""
RANGE = 8 * 2**20
"""Bytes of one ranged request of a download."""
BLOCK = 16 * 2**20
"""Bytes of one block of an upload (S3 takes 10,000 of them, and none below 5 MiB but the last)."""
AT_ONCE = 2
"""Requests under way at once in one transfer: with the blocks' size, this bounds its memory."""

Result = TypeVar("Result")


class FailedAttempt(msgspec.Struct, frozen=True):
    """What went wrong; `again` when a retry can help, after `wait` seconds."""

    error: StorageError
    again: bool = False
    wait: float | None = None


def attempt(
    operation: Callable[[], Result],
    explain: Callable[[Exception], FailedAttempt],
    *,
    attempts: int = ATTEMPTS,
    sleep: Callable[[float], None] = time.sleep,
) -> Result:
    """The operation's result, tried again while `explain` says that it can help.

    Raises the error that `explain` makes of the last failure.
    """
    for number in range(1, attempts + 1):
        try:
            return operation()
        except StorageError:
            raise
        except Exception as problem:  # noqa: BLE001 - each SDK has its own; explain raises what it does not know
            failure = explain(problem)
            wait = failure.wait if failure.wait is not None else 0.2 * 2**number * random.random()  # noqa: S311
            if not failure.again or number == attempts or wait > PATIENCE:
                raise failure.error from None
        sleep(wait)
    raise AssertionError("not reached")


def download(
    fetch: Callable[[int, int], tuple[bytes, int]], start: int = 0, *, ahead: int = AT_ONCE
) -> Iterator[bytes]:
    """An object's bytes from `start` on, the next ranges fetched meanwhile.

    `fetch(at, length)` gives a range and the object's size; it retries by itself, and it makes sure
    that all ranges are of one and the same object.
    """
    first, size = fetch(start, RANGE)
    at = start + len(first)
    if not first:
        return
    yield first
    del first  # used up: it must not stay in memory beside those that follow
    if at >= size:
        return
    with ThreadPoolExecutor(max_workers=ahead) as pool:
        waiting: deque[Future[tuple[bytes, int]]] = deque()
        try:
            while waiting or at < size:
                while at < size and len(waiting) < ahead:
                    waiting.append(pool.submit(fetch, at, min(RANGE, size - at)))
                    at += RANGE
                yield waiting.popleft().result()[0]
        finally:
            for future in waiting:
                future.cancel()


def upload(
    data: BinaryIO,
    first: bytes,
    send: Callable[[int, bytes], None],
    *,
    progress: Progress | None = None,
) -> int:
    """Send the stream in numbered blocks, `first` first; returns their number.

    A block stays in memory until it is sent, so that a retry needs nothing of the stream.
    """
    with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
        waiting: deque[tuple[Future[None], int]] = deque()

        def finish() -> None:
            future, size = waiting.popleft()
            future.result()
            if progress:
                progress(size)

        number = 0
        content = first
        while content:
            waiting.append((pool.submit(send, number, content), len(content)))
            number += 1
            if len(waiting) >= AT_ONCE:
                finish()
            content = read_full(data, BLOCK)
        while waiting:
            finish()
        return number


def read_full(data: BinaryIO, size: int) -> bytes:
    """The next `size` bytes, fewer only at the end."""
    content = data.read(size)
    if len(content) in (0, size):
        return content
    parts = [content]
    missing = size - len(content)
    while missing and (part := data.read(missing)):
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


def retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header (RFC 9110: a number, or a date)."""
    if not value:
        return None
    if value.strip().isdigit():
        return float(value)
    from email.utils import parsedate_to_datetime

    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None
