"""Blobs by content: their digests, and how their bytes are opened and read."""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import BinaryIO

from tandem.errors import RegistryError
from tandem.oci import Registry

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
CHUNK = 1 << 20
LARGEST_CONFIG = 4 << 20
"""Bytes; the distribution specification asks registries to take manifests of at least this size."""

BlobSource = Callable[[], AbstractContextManager[BinaryIO]]
"""Opens a blob's bytes from the start, as often as it takes."""


def digest_of(data: bytes) -> str:
    """The sha256 digest of some bytes, as a registry writes it."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def checked_digest(digest: str) -> str:
    """The digest itself; raises `RegistryError` for anything else."""
    if not DIGEST.fullmatch(digest):
        raise RegistryError(f"invalid digest {digest!r}: expected sha256: and 64 hex digits")
    return digest


def checked_tag(tag: str) -> str:
    """The tag itself; raises `RegistryError` for anything else."""
    if not TAG.fullmatch(tag):
        raise RegistryError(f"invalid tag {tag!r}: expected letters, digits, . _ or -")
    return tag


def bytes_source(data: bytes) -> BlobSource:
    """Bytes in memory as the source of a blob."""
    return lambda: io.BytesIO(data)


def registry_source(registry: Registry, digest: str) -> BlobSource:
    """A blob in another registry as the source of a blob."""
    return lambda: contextlib.closing(reader(registry.get_blob(digest)))


def read_blob(registry: Registry, digest: str, size: int) -> bytes:
    """A small blob whole."""
    if size > LARGEST_CONFIG:
        raise RegistryError(
            f"{registry.url}: {digest} has {size} bytes, too many for a configuration"
        )
    return b"".join(registry.get_blob(digest))


def blocks(file: BinaryIO) -> Iterator[bytes]:
    """A file in chunks."""
    while block := file.read(CHUNK):
        yield block


class _Reader(io.RawIOBase):
    """A readable file over an iterator of chunks."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._rest:
            block = next(self._chunks, None)
            if block is None:
                return 0
            self._rest = memoryview(block)
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


def reader(chunks: Iterator[bytes]) -> BinaryIO:
    """A readable, unseekable file over an iterator of chunks."""
    return io.BufferedReader(_Reader(chunks), CHUNK)
