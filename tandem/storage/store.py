"""What every object store can do, and which keys all of them can hold."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import BinaryIO, Protocol

import msgspec

from tandem.errors import StorageError

Progress = Callable[[int], None]
"""Called with the number of bytes just moved."""


class Stat(msgspec.Struct, frozen=True):
    """What the store knows of one object.

    `size` in bytes; `etag` opaque, another one with other content; `modified` by the store's own
    clock, in seconds since 1970 (None after a `put`, where not every store tells it).
    """

    key: str
    size: int
    etag: str
    modified: float | None = None


class Store(Protocol):
    """Keys are `/`-separated relative paths; every write is whole or not there.

    All methods raise `StorageError` when the store cannot be used (retried first when that can
    help). Safe to use from several threads.
    """

    url: str
    """What the settings call it, without any secret."""

    def head(self, key: str) -> Stat | None:
        """The object's size and ETag, or None where there is none."""

    def read(self, key: str) -> tuple[bytes, str]:
        """A small object whole, with its ETag. Raises `NotFound`."""

    def get(self, key: str, *, start: int = 0, if_match: str | None = None) -> Iterator[bytes]:
        """The object in chunks from byte `start`, resumed when a connection breaks.

        Raises `NotFound`, and `Conflict` when it is no longer the one with ETag `if_match`.
        """

    def put(
        self,
        key: str,
        data: bytes | BinaryIO,
        *,
        if_absent: bool = False,
        if_match: str | None = None,
        progress: Progress | None = None,
    ) -> Stat:
        """Write the object, streaming; raises `Conflict` when the condition does not hold."""

    def list(self, prefix: str = "", *, after: str = "") -> Iterator[Stat]:
        """Objects whose key starts with `prefix` and sorts behind `after`, sorted by key."""

    def delete(self, key: str) -> None:
        """Remove the object; no error when it is not there."""


def check_key(key: str) -> str:
    """The key, when every store can hold it under that name; raises `StorageError`."""
    segments = key.split("/")
    right = re.fullmatch(r"[A-Za-z0-9._/@+=-]{1,512}", key)
    if not right or any(part in ("", ".", "..") or part.startswith(".") for part in segments):
        raise StorageError(f"key {key[:100]!r}: not a relative path of plain names")
    return key
