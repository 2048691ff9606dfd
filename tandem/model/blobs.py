"""The files of a model's versions in the store, each named by its content."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, cast

import msgspec

from tandem.errors import Conflict, NotFound, PackageError
from tandem.model.package import File
from tandem.storage import Progress, Store

SMALL = 2**20
"""Bytes up to which a file is sent without asking first whether it is there."""


class Blobs:
    """The files below `prefix`; safe to use from several threads."""

    def __init__(self, store: Store, prefix: str) -> None:
        self.store = store
        self.prefix = prefix

    def key(self, sha256: str) -> str:
        """Where the file with that content is."""
        return f"{self.prefix}/blobs/sha256/{sha256}"

    def upload(
        self, folder: Path, files: Sequence[File], progress: Progress | None, look: bool = False
    ) -> list[File]:
        """Upload what is missing; returns the files that were there already.

        With `look`, nothing is sent before the store was asked whether it has it; without, a small
        file is simply sent, create-only: one request instead of two.
        """
        lock = threading.Lock()

        def moved(count: int) -> None:
            if progress:
                with lock:
                    progress(count)

        # The small ones go along with the large ones, which go one by one: each of those takes as
        # much memory as a transfer may.
        with ThreadPoolExecutor(max_workers=1) as pool:
            small = [file for file in files if file.size <= SMALL]
            beside = pool.map(lambda file: self._upload_one(folder, file, moved, look), small)
            large = [file for file in files if file.size > SMALL]
            done = [self._upload_one(folder, file, moved, look) for file in large]
            return [file for file in (*done, *beside) if file is not None]

    def _upload_one(self, folder: Path, file: File, progress: Progress, look: bool) -> File | None:
        """Upload a file unless it is there; then it is returned."""
        key = self.key(file.sha256)
        if (look or file.size > SMALL) and self.store.head(key) is not None:
            return file
        try:
            with (folder / file.path).open("rb") as stream:
                if file.size <= SMALL:
                    self._send(key, file, stream.read(), progress)
                else:
                    self._stream(key, file, stream, progress)
        except Conflict:
            return file
        return None

    def _send(self, key: str, file: File, content: bytes, progress: Progress | None) -> None:
        if hashlib.sha256(content).hexdigest() != file.sha256:
            raise PackageError(f"{file.path}: changed while it was being published")
        self.store.put(key, content, if_absent=True, progress=progress)

    def _stream(self, key: str, file: File, stream: BinaryIO, progress: Progress | None) -> None:
        # Hashed as it is sent: what changed since it was read must not keep this name.
        counted = _Hashed(stream)
        conflict: Conflict | None = None
        try:
            self.store.put(key, cast(BinaryIO, counted), if_absent=True, progress=progress)
        except Conflict as problem:
            conflict = problem
            if not counted.used:
                raise
        if counted.hexdigest() != file.sha256:
            # After a lost answer the conflict may be with our own write; another's is right.
            if conflict is None or not self._is_whole(key, file.sha256):
                self.store.delete(key)
            raise PackageError(f"{file.path}: changed while it was being published")
        if conflict is not None:
            raise conflict

    def _is_whole(self, key: str, sha256: str) -> bool:
        """Whether the store has just that content; read in chunks."""
        found = hashlib.sha256()
        try:
            for chunk in self.store.get(key):
                found.update(chunk)
        except NotFound:
            return True
        return found.hexdigest() == sha256

    def download(self, file: File, path: Path, progress: Callable[[int], None]) -> None:
        """Fetch the file to `path`; raises `PackageError` where it is gone or changed."""
        sha256, size = hashlib.sha256(), 0
        try:
            with path.open("xb") as target:
                for chunk in self.store.get(self.key(file.sha256)):
                    size += len(chunk)
                    if size > file.size:
                        break
                    sha256.update(chunk)
                    target.write(chunk)
                    progress(len(chunk))
        except NotFound:
            raise PackageError(
                f"{file.path}: its content is missing in {self.store.url}; publish it again"
            ) from None
        if size != file.size or sha256.hexdigest() != file.sha256:
            raise PackageError(f"{file.path}: changed in {self.store.url}: it has another sha256")

    def sweep(self, grace: float, named: Callable[[], Iterable[str]]) -> int:
        """Remove files that `named` has not listed for `grace` seconds; returns how many."""
        stored = {
            stat.key.rsplit("/", 1)[1] for stat in self.store.list(f"{self.prefix}/blobs/sha256/")
        }
        # Versions are listed after the files: one published meanwhile names files that we know.
        stored.difference_update(named())
        marks_key = f"{self.prefix}/unused.json"
        try:
            marks = msgspec.json.decode(self.store.read(marks_key)[0], type=dict[str, float])
        except (NotFound, msgspec.MsgspecError):
            marks = {}
        # By the store's clock, which all who prune share: one's own may be wrong.
        self.store.put(marks_key, msgspec.json.encode(marks))
        told = self.store.head(marks_key)
        now = told.modified if told and told.modified is not None else time.time()
        marks = {sha256: marks.get(sha256, now) for sha256 in sorted(stored)}
        due = [sha256 for sha256, since in marks.items() if now - since >= grace]
        for sha256 in due:
            self.store.delete(self.key(sha256))
            del marks[sha256]
        self.store.put(marks_key, msgspec.json.encode(marks))
        return len(due)


class _Hashed:
    """A stream that is hashed as it is read, once and in order."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._sha256 = hashlib.sha256()
        self.used = False

    def read(self, size: int = -1) -> bytes:
        """The next bytes of the stream."""
        self.used = True
        data = self._stream.read(size)
        self._sha256.update(data)
        return data

    def hexdigest(self) -> str:
        """The sha256 of what was read."""
        return self._sha256.hexdigest()
