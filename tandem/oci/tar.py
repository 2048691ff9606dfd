"""Reproducible tar streams: names in a fixed order, owned by 0:0 and dated 1970."""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec

from tandem.errors import BuildError
from tandem.oci.blobs import CHUNK


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One name in a layer: a file (on disk or as bytes), a link, else a folder."""

    path: str
    """Inside the image, without a leading slash."""
    mode: int
    file: Path | None = None
    data: bytes | None = None
    link: str = ""
    size: int = 0


def file_entry(path: str, file: Path, *, mode: int | None = None) -> Entry:
    """The entry of a file on disk; of its mode only the owner's x bit counts."""
    status = file.stat()
    if not stat.S_ISREG(status.st_mode):
        raise BuildError(
            f"{file} is not a regular file: an image layer takes files, folders and links"
        )
    if mode is None:
        mode = 0o755 if status.st_mode & 0o100 else 0o644
    return Entry(path=path, mode=mode, file=file, size=status.st_size)


def data_entry(path: str, data: bytes, *, mode: int = 0o644) -> Entry:
    """The entry of a file whose bytes are given here."""
    return Entry(path=path, mode=mode, data=data, size=len(data))


def folder_entries(
    folder: Path, prefix: str, *, skip: Callable[[str], bool] = lambda _: False
) -> Iterator[Entry]:
    """Entries for everything in a folder, under `prefix`.

    `skip` is called with each relative path. Raises `BuildError` for devices, sockets,
    and links that lead out of the folder.
    """
    pending = [""]
    while pending:
        here = pending.pop()
        with os.scandir(folder / here) as listing:
            for item in listing:
                relative = f"{here}/{item.name}" if here else item.name
                if skip(relative):
                    continue
                path = f"{prefix}/{relative}"
                if item.name.startswith(".wh."):
                    raise BuildError(
                        f"{path}: names that start with .wh. mean deletion in an image layer"
                    )
                if item.is_symlink():
                    yield link_entry(folder, relative, path)
                elif item.is_dir():
                    pending.append(relative)
                    yield Entry(path=path, mode=0o755)
                else:
                    yield file_entry(path, Path(item.path))


def link_entry(folder: Path, relative: str, path: str) -> Entry:
    """A symbolic link, when it leads to somewhere in the same folder."""
    target = str((folder / relative).readlink())
    leads_to = os.path.normpath(Path(relative).parent / target)
    if target.startswith("/") or leads_to.startswith(".."):
        raise BuildError(
            f"{relative} is a link to {target}: a link in an image must stay in its folder"
        )
    return Entry(path=path, mode=0o777, link=target)


def ordered(entries: Iterable[Entry]) -> list[Entry]:
    """Sorted, with the folders that lead to each entry; no name comes twice.

    Folders and links first, then files by suffix: like files side by side shrink more.
    """
    by_path: dict[str, Entry] = {}
    for entry in entries:
        path = entry.path.strip("/")
        if path != entry.path or any(part in ("", ".", "..") for part in path.split("/")):
            raise BuildError(f"{entry.path!r} is not a path for an image layer")
        if path in by_path:
            raise BuildError(f"{path} comes twice in one layer")
        by_path[path] = entry
    for path in list(by_path):
        parts = path.split("/")
        for count in range(1, len(parts)):
            above = "/".join(parts[:count])
            by_path.setdefault(above, Entry(path=above, mode=0o755))

    def place(entry: Entry) -> tuple[bool, str, str]:
        is_file = entry.file is not None or entry.data is not None
        name = entry.path.rpartition("/")[2]
        return is_file, name.rpartition(".")[2] if is_file else "", entry.path

    return sorted(by_path.values(), key=place)


def tar_stream(entries: Iterable[Entry]) -> Iterator[bytes]:
    """The tar archive of ordered entries, in chunks."""
    for entry in entries:
        yield _header(entry)
        if entry.data is not None:
            yield entry.data
        elif entry.file is not None:
            left = entry.size
            with entry.file.open("rb") as file:
                while block := file.read(min(CHUNK, left + 1)):
                    left -= len(block)
                    if left < 0:
                        break
                    yield block
            if left:
                raise BuildError(f"{entry.file} changed while it was being packed: try again")
        if padding := -entry.size % tarfile.BLOCKSIZE:
            yield bytes(padding)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _header(entry: Entry) -> bytes:
    info = tarfile.TarInfo(entry.path)
    info.mode = entry.mode
    info.size = entry.size
    if entry.link:
        info.type = tarfile.SYMTYPE
        info.linkname = entry.link
    elif entry.file is None and entry.data is None:
        info.type = tarfile.DIRTYPE
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
