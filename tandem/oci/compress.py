"""gzip streams of layers: one fast, one small and threaded; both reproducible."""

from __future__ import annotations

import os
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from isal import isal_zlib

from tandem.oci.blobs import CHUNK


def compress_fast(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """gzip by isal at its best level."""
    # isal-zlib keeps zlib's names; wbits 31 is a gzip header without a name and without a date.
    packer = isal_zlib.compressobj(3, isal_zlib.DEFLATED, 31)
    for block in chunks:
        if out := packer.compress(block):
            yield out
    yield packer.flush()


def compress_small(chunks: Iterable[bytes], threads: int | None = None) -> Iterator[bytes]:
    """gzip by zlib level 5, in threads; the same bytes however many there are.

    Each piece starts with the 32 KB before it as its dictionary and ends on a byte boundary, so
    that the pieces joined are one deflate stream (RFC 1951) that any gunzip reads.
    """
    threads = threads or os.cpu_count() or 1
    yield b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
    crc = size = 0
    waiting: deque[Future[bytes]] = deque()
    before = b""
    with ThreadPoolExecutor(threads) as pool:
        for piece in _pieces(chunks, CHUNK):
            crc = isal_zlib.crc32(piece, crc)
            size += len(piece)
            waiting.append(pool.submit(_deflate, piece, before))
            before = piece[-32768:]
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    # An empty final block, then the trailer.
    yield b"\x03\0" + crc.to_bytes(4, "little") + (size & 0xFFFFFFFF).to_bytes(4, "little")


def _deflate(piece: bytes, before: bytes) -> bytes:
    packer = zlib.compressobj(5, zlib.DEFLATED, -15, 9, zlib.Z_DEFAULT_STRATEGY, before)
    return packer.compress(piece) + packer.flush(zlib.Z_SYNC_FLUSH)


def _pieces(chunks: Iterable[bytes], size: int) -> Iterator[bytes]:
    """The same bytes in pieces of `size`: boundaries depend on the content alone."""
    rest = bytearray()
    for block in chunks:
        rest += block
        while len(rest) >= size:
            yield bytes(rest[:size])
            del rest[:size]
    if rest:
        yield bytes(rest)
