"""A folder as an object store: created by hard link, replaced by rename.

Both after an fsync.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from tandem.errors import Conflict, NotFound, StorageError
from tandem.storage.store import Progress, Stat, check_key
from tandem.util.files import locked

CHUNK = 2**20
STALE = 24 * 3600.0
"""Seconds after which a temporary file belongs to nobody any more."""


class FolderStore:
    """Objects are files; what is being written is in `.tmp`, so none is ever half."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = f"file:{root}"
        self._swept = False

    def head(self, key: str) -> Stat | None:
        path = self._path(key)
        with self._errors(key):
            try:
                return _stat(key, path.stat()) if path.is_file() else None
            except (FileNotFoundError, NotADirectoryError):
                return None

    def read(self, key: str) -> tuple[bytes, str]:
        with self._errors(key), self._open(key) as stream:
            return stream.read(), _stat(key, os.fstat(stream.fileno())).etag

    def get(self, key: str, *, start: int = 0, if_match: str | None = None) -> Iterator[bytes]:
        with self._errors(key), self._open(key) as stream:
            # Replaced by rename, never in place: what was opened stays the object that it was.
            if if_match is not None and _stat(key, os.fstat(stream.fileno())).etag != if_match:
                raise Conflict(f"{self.url}: {key} was replaced meanwhile")
            stream.seek(start)
            while chunk := stream.read(CHUNK):
                yield chunk

    def put(
        self,
        key: str,
        data: bytes | BinaryIO,
        *,
        if_absent: bool = False,
        if_match: str | None = None,
        progress: Progress | None = None,
    ) -> Stat:
        path = self._path(key)
        with self._errors(key):
            if if_absent and path.exists():
                raise Conflict(f"{self.url}: {key} is there already")
            temporary = self._write(data, progress)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                written = _stat(key, temporary.stat())
                if if_absent:
                    self._create(temporary, path, key)
                else:
                    with self._lock(key):
                        if if_match is not None:
                            current = self.head(key)
                            if current is None or current.etag != if_match:
                                raise Conflict(f"{self.url}: {key} was replaced meanwhile")
                        temporary.rename(path)
                _sync_folder(path.parent)
                return written
            finally:
                temporary.unlink(missing_ok=True)

    def list(self, prefix: str = "", *, after: str = "") -> Iterator[Stat]:
        with self._errors(prefix):
            yield from self._walk(self.root, "", prefix, after)

    def delete(self, key: str) -> None:
        path = self._path(key)
        with self._errors(key), self._lock(key), contextlib.suppress(FileNotFoundError):
            path.unlink()

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    def _open(self, key: str) -> BinaryIO:
        try:
            return self._path(key).open("rb")
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise NotFound(f"{self.url}: no object {key}") from None

    def _write(self, data: bytes | BinaryIO, progress: Progress | None) -> Path:
        folder = self.root / ".tmp"
        folder.mkdir(parents=True, exist_ok=True)
        if not self._swept:
            self._swept = True
            _sweep(folder)
        temporary = folder / secrets.token_hex(16)
        try:
            with temporary.open("xb") as stream:
                if isinstance(data, bytes):
                    stream.write(data)
                    if progress:
                        progress(len(data))
                else:
                    while chunk := data.read(CHUNK):
                        stream.write(chunk)
                        if progress:
                            progress(len(chunk))
                stream.flush()
                os.fsync(stream.fileno())
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        return temporary

    def _create(self, temporary: Path, path: Path, key: str) -> None:
        try:
            os.link(temporary, path)
        except FileExistsError:
            raise Conflict(f"{self.url}: {key} is there already") from None
        except PermissionError:
            # A file system without hard links: the lock makes the look and the rename one step.
            with self._lock(key):
                if path.exists():
                    raise Conflict(f"{self.url}: {key} is there already") from None
                temporary.rename(path)

    @contextlib.contextmanager
    def _lock(self, key: str) -> Iterator[None]:
        """Writers of one key take turns, also between processes; a killed one lets go."""
        folder = self.root / ".locks"
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / f"{zlib.crc32(key.encode()) % 64:02}"):
            yield

    def _walk(self, folder: Path, base: str, prefix: str, after: str) -> Iterator[Stat]:
        try:
            entries = [e for e in os.scandir(folder) if not e.name.startswith(".")]
        except (FileNotFoundError, NotADirectoryError):
            return
        # As keys sort: "a-b" comes before "a/b", so a folder sorts with its slash.
        for name, entry in sorted((e.name + "/" * e.is_dir(), e) for e in entries):
            key = base + name
            if not (key.startswith(prefix) or prefix.startswith(key)):
                continue
            if entry.is_dir():
                if key > after or after.startswith(key):
                    yield from self._walk(folder / entry.name, key, prefix, after)
            elif key > after and key.startswith(prefix):
                with contextlib.suppress(FileNotFoundError):
                    yield _stat(key, entry.stat())

    @contextlib.contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        try:
            yield
        except OSError as problem:
            where = problem.filename or key
            raise StorageError(f"{self.url}: {problem.strerror or problem} ({where})") from None


def _stat(key: str, stat: os.stat_result) -> Stat:
    etag = f"{stat.st_ino:x}-{stat.st_mtime_ns:x}-{stat.st_size:x}"
    return Stat(key, stat.st_size, etag, stat.st_mtime)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sweep(folder: Path) -> None:
    """Remove what killed writers left behind."""
    for entry in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if entry.stat().st_mtime < time.time() - STALE:
                entry.unlink()
