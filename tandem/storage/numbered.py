"""Numbered records in an object store: written once, found in few requests.

    PREFIX/000017.json   record 17; its number is taken by creating it, so no two writers share one
    PREFIX.latest        a copy of the newest record, so that finding it needs no listing

The pointer may be behind (its writer was killed in between) and never decides anything: whoever
reads it looks whether the next number is there too, and puts it right.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from tandem.errors import Conflict, NotFound, StorageError
from tandem.storage.store import Store

DIGITS = 6
AT_ONCE = 8
"""Records that are read side by side where all are wanted."""


class NumberedLog:
    """Records `PREFIX/000001.json`, `PREFIX/000002.json`, … of one kind."""

    def __init__(self, store: Store, prefix: str) -> None:
        self.store = store
        self.prefix = prefix
        self._pointer = f"{prefix}.latest"

    def key(self, number: int) -> str:
        """Where record `number` is."""
        return f"{self.prefix}/{number:0{DIGITS}}.json"

    def append(
        self,
        make: Callable[[int], bytes],
        *,
        same: Callable[[tuple[int, bytes] | None], tuple[int, bytes] | None] | None = None,
    ) -> tuple[int, bytes]:
        """Write the next record, made by `make`; returns its number and its bytes.

        Lost races are tried again: `make` then gets the number after. What `make` returns carries
        a mark of its writer, so that equal bytes are its own and nobody else's. `same` is asked
        before each try with the newest record; what it returns is taken instead of writing one.
        """
        failures = 0
        while True:
            newest, etag = self._newest()
            if same is not None and (existing := same(newest)) is not None:
                return existing
            number = newest[0] + 1 if newest else 1
            data = make(number)
            try:
                self.store.put(self.key(number), data, if_absent=True)
            except Conflict:
                # A try whose answer was lost may have written it: the next finds its own record.
                if self._read(number) == data:
                    self._point(number, data, etag)
                    return number, data
                failures += 1
                # Fifty at once would all try the same number again and again: spread out.
                time.sleep(random.random() * min(0.02 * 2**failures, 2.0))  # noqa: S311 - no secret
                continue
            except StorageError:
                # The answer may have been lost on the way: what counts is whether it is there.
                if self._read(number) != data:
                    raise
            self._point(number, data, etag)
            return number, data

    def latest(self) -> tuple[int, bytes] | None:
        """Number and bytes of the newest record: two requests, however many there are."""
        return self._newest()[0]

    def _newest(self) -> tuple[tuple[int, bytes] | None, str | None]:
        """The newest record, and the pointer's ETag where it is known."""
        pointed = self._pointed()
        if pointed is None:
            # Never written, or lost: the one case that needs a listing.
            numbers = list(self.numbers())
            if not numbers:
                return None, None
            newest = numbers[-1], self.read(numbers[-1])
            self._point(*newest)
            return newest, None
        number, data, etag = pointed
        if self.store.head(self.key(number + 1)) is None:
            return (number, data), etag
        while (following := self._read(number + 1)) is not None:
            number, data = number + 1, following
        self._point(number, data)
        return (number, data), None

    def read(self, number: int) -> bytes:
        """Record `number`; raises `NotFound`."""
        return self.store.read(self.key(number))[0]

    def numbers(self, after: int = 0) -> Iterator[int]:
        """The numbers that are there, smallest first, by listing."""
        for stat in self.store.list(f"{self.prefix}/", after=self.key(after)):
            if named := re.fullmatch(r"(\d+)\.json", stat.key.removeprefix(f"{self.prefix}/")):
                yield int(named[1])

    def walk_back(self, start: int | None = None) -> Iterator[tuple[int, bytes]]:
        """Records newest first (from `start` on), read when asked for, gaps skipped."""
        newest = self.latest()
        if newest is None:
            return
        number = newest[0] if start is None else min(start, newest[0])
        if number == newest[0]:
            yield newest
            number -= 1
        while number > 0:
            data = self._read(number)
            if data is None:
                # Pruned: go on with the next one below that is there.
                below = [n for n in self.numbers() if n < number]
                for number in reversed(below):
                    if (data := self._read(number)) is not None:
                        yield number, data
                return
            yield number, data
            number -= 1

    def all(self) -> list[tuple[int, bytes]]:
        """All records, newest first, read side by side; those removed are skipped.

        For whoever needs all of them: `walk_back` asks for no more than is looked at.
        """
        numbers = list(self.numbers())
        with ThreadPoolExecutor(AT_ONCE) as pool:
            read = pool.map(self._read, numbers)
            records = [(n, data) for n, data in zip(numbers, read, strict=True) if data is not None]
        return records[::-1]

    def delete(self, number: int) -> None:
        """Remove an old record; the newest stays, so that no number is given twice."""
        newest = self.latest()
        if newest is not None and number >= newest[0]:
            raise StorageError(f"{self.key(number)}: the newest record is not removed")
        self.store.delete(self.key(number))

    def _read(self, number: int) -> bytes | None:
        try:
            return self.read(number)
        except NotFound:
            return None

    def _pointed(self) -> tuple[int, bytes, str] | None:
        """Number, record and ETag of the pointer."""
        try:
            data, etag = self.store.read(self._pointer)
        except NotFound:
            return None
        head, _, record = data.partition(b"\n")
        # A damaged pointer is no pointer: the listing puts it right.
        return (int(head), record, etag) if head.isdigit() and record else None

    def _point(self, number: int, data: bytes, etag: str | None = None) -> None:
        """Move the pointer forward to `number`, unless another is further already.

        `etag` is of a pointer that is known to be behind: it is replaced without being read again.
        """
        content = b"%d\n%b" % (number, data)
        if etag is not None:
            try:
                self.store.put(self._pointer, content, if_match=etag)
            except Conflict:
                pass
            else:
                return
        for _ in range(10):
            pointed = self._pointed()
            if pointed is not None and pointed[0] >= number:
                return
            try:
                if pointed is not None:
                    self.store.put(self._pointer, content, if_match=pointed[2])
                else:
                    damaged = self.store.head(self._pointer)
                    if damaged is None:
                        self.store.put(self._pointer, content, if_absent=True)
                    else:
                        self.store.put(self._pointer, content, if_match=damaged.etag)
                return
            except Conflict:
                continue
        # Others move it as fast as we look; whoever reads it finds the newest all the same.
