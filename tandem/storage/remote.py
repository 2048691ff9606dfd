"""What a cloud's stores share: a client opened late, retries, blocks."""

from __future__ import annotations

import abc
import functools
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, TypeVar

from tandem.errors import Conflict, NotFound
from tandem.storage import transfer
from tandem.storage.store import Progress, Stat, check_key
from tandem.storage.transfer import FailedAttempt, attempt, download, read_full

CONNECT, READ = 10, 60
"""Seconds after which a connection that does not come, or brings nothing, is given up."""
PAGE = 1000
AGAIN = frozenset({408, 429, 500, 502, 503, 504})
"""Statuses after which a request is tried again."""

Result = TypeVar("Result")


class RemoteStore(abc.ABC):
    """A container, a bucket, or a prefix in one; each SDK fills in its requests.

    The methods that begin with an underscore raise the SDK's exceptions, which `_explain` turns
    into this package's.
    """

    def __init__(self, place: str, prefix: str) -> None:
        self.prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self.url = place + (f"/{prefix.strip('/')}" if self.prefix else "")
        self.sleep: Callable[[float], None] = time.sleep
        self._opening = threading.Lock()

    def head(self, key: str) -> Stat | None:
        check_key(key)
        try:
            return self._do(key, lambda: self._head(key))
        except NotFound:
            return None

    def read(self, key: str) -> tuple[bytes, str]:
        check_key(key)
        return self._do(key, lambda: self._read(key))

    def get(self, key: str, *, start: int = 0, if_match: str | None = None) -> Iterator[bytes]:
        check_key(key)
        etag = if_match

        def part(at: int, length: int) -> tuple[bytes, int]:
            nonlocal etag
            try:
                content, of, etag = self._range(key, at, length, etag)
            except Exception as problem:
                # Nothing behind the end: an empty object, or a start that is just its size.
                if self._status(problem) == 416:
                    return b"", at
                raise
            # "bytes 0-8388607/67108864"
            whole = re.search(r"/(\d+)$", of)
            return content, int(whole[1]) if whole else at + len(content)

        yield from download(lambda at, length: self._do(key, lambda: part(at, length)), start)

    def put(
        self,
        key: str,
        data: bytes | BinaryIO,
        *,
        if_absent: bool = False,
        if_match: str | None = None,
        progress: Progress | None = None,
    ) -> Stat:
        check_key(key)
        condition = self._condition(if_absent, if_match)
        first = data if isinstance(data, bytes) else read_full(data, transfer.BLOCK)
        try:
            if not isinstance(data, bytes) and len(first) == transfer.BLOCK:
                return self._put_in_blocks(key, data, first, condition, progress)
            etag = self._do(key, lambda: self._put(key, first, condition))
        except NotFound:
            if if_match is None:
                raise
            # What is not there any more is not the object that was read, either.
            raise Conflict(f"{self.url}: {key} was removed meanwhile") from None
        if progress:
            progress(len(first))
        return Stat(key, len(first), etag)

    def delete(self, key: str) -> None:
        check_key(key)
        try:
            self._do(key, lambda: self._delete(key))
        except NotFound:
            pass

    def _do(self, key: str, operation: Callable[[], Result]) -> Result:
        """What the operation gives, tried again as `_explain` says. Raises `StorageError`."""
        return attempt(operation, lambda problem: self._explain(key, problem), sleep=self.sleep)

    @property
    def _client(self) -> Any:
        with self._opening:
            return self._opened

    @functools.cached_property
    def _opened(self) -> Any:
        return self._open()

    # --- what each has in its own way -------------------------------------------------------------

    @abc.abstractmethod
    def list(self, prefix: str = "", *, after: str = "") -> Iterator[Stat]:
        """As `Store` says."""

    @abc.abstractmethod
    def _open(self) -> Any:
        """The SDK's client, which nothing has asked for anything yet."""

    @abc.abstractmethod
    def _head(self, key: str) -> Stat: ...

    @abc.abstractmethod
    def _read(self, key: str) -> tuple[bytes, str]: ...

    @abc.abstractmethod
    def _range(self, key: str, at: int, length: int, etag: str | None) -> tuple[bytes, str, str]:
        """At most `length` bytes from `at` on, with the Content-Range and the ETag.

        Only of the object with ETag `etag`, where that is given.
        """

    @abc.abstractmethod
    def _condition(self, if_absent: bool, if_match: str | None) -> dict[str, Any]:
        """The arguments of a write that is only to happen then."""

    @abc.abstractmethod
    def _put(self, key: str, content: bytes, condition: dict[str, Any]) -> str:
        """Write in one request; the ETag."""

    @abc.abstractmethod
    def _put_in_blocks(
        self,
        key: str,
        data: BinaryIO,
        first: bytes,
        condition: dict[str, Any],
        progress: Progress | None,
    ) -> Stat:
        """Write block by block, `first` first; visible once all are there."""

    @abc.abstractmethod
    def _delete(self, key: str) -> object: ...

    @abc.abstractmethod
    def _status(self, problem: Exception) -> int | None:
        """The HTTP status that an exception of the SDK tells of."""

    @abc.abstractmethod
    def _explain(self, key: str, problem: Exception) -> FailedAttempt:
        """What went wrong, in words for a person; raises what is no error of the store."""


def short(problem: Exception) -> str:
    """An SDK's message on one line, without an address's query: it may hold a SAS."""
    text = re.sub(r"\?[^\s'\")]*", "?…", " ".join(str(problem).split()))
    return text[:160] or type(problem).__name__
