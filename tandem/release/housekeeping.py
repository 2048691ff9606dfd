"""Removes from this machine's disk what nobody used lately and can be made again."""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from tandem.errors import SourceError
from tandem.release.project import Project

log = logging.getLogger("tandem")

KEEP = 5
"""The latest used of a kind stay, however old."""
UNUSED = 3 * 24 * 3600.0
"""Seconds without use after which the others go: longer than anything may be in use."""
EVERY = 24 * 3600.0


class Tidied(msgspec.Struct, frozen=True):
    """What went: folders and files, and their bytes."""

    entries: int
    bytes: int


def tidy(project: Project, *, unused: float = UNUSED) -> Tidied:
    """Remove models, environments and layers that nobody used lately.

    Packs the mirror of the source, too.
    """
    before = time.time() - unused
    entries = size = 0
    for old in [
        *_unfinished(project.state, before),
        *(entry for folder in _kinds(project.state) for entry in _unused(folder, before)),
    ]:
        bytes_ = _size(old)
        with contextlib.suppress(OSError):
            shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
            entries, size = entries + 1, size + bytes_
    with contextlib.suppress(SourceError):
        project.source.tidy()
    (project.state / _STAMP).touch()
    return Tidied(entries, size)


def tidy_daily(project: Project) -> None:
    """As `tidy`, when that was a day ago."""
    stamp = project.state / _STAMP
    try:
        due = time.time() - stamp.stat().st_mtime > EVERY
    except FileNotFoundError:
        due = False
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.touch()
    if due:
        done = tidy(project)
        if done.entries:
            log.info("removed %d unused caches (%.1f MB)", done.entries, done.bytes / 1e6)


_STAMP = ".tidied"


def _kinds(state: Path) -> Iterator[Path]:
    """The folders whose entries are each made, used and removed as a whole."""
    yield state / "models"
    yield state / "models" / "judged"
    yield state / "environments"
    yield state / "locks"
    yield state / "modules"
    yield state / "layers"
    yield state / "cache" / "layers"
    yield state / "cache" / "configs"


_UNFINISHED = re.compile(r"\.partial-.*|\.making-.*|\..*\.tmp")
"""What is filled beside its place, and was not put there: its maker was killed."""


def _unfinished(state: Path, before: float) -> Iterator[Path]:
    folders = [*_kinds(state), state / "target" / "roots", state / "target" / "layers"]
    for folder in folders:
        for entry in folder.iterdir() if folder.is_dir() else ():
            with contextlib.suppress(OSError):
                if _UNFINISHED.fullmatch(entry.name) and entry.lstat().st_mtime < before:
                    yield entry


def _unused(folder: Path, before: float) -> list[Path]:
    if not folder.is_dir():
        return []
    used: dict[Path, float] = {}
    for entry in folder.iterdir():
        with contextlib.suppress(OSError):
            stat = entry.lstat()
            # A folder's time is set by whoever uses it; a file is only read.
            used[entry] = max(stat.st_mtime, stat.st_atime if entry.is_file() else 0.0)
    used = {entry: at for entry, at in used.items() if entry.name != "judged"}
    used = {entry: at for entry, at in used.items() if not _UNFINISHED.fullmatch(entry.name)}
    locks = [entry for entry in used if entry.suffix == ".lock"]
    latest = sorted(used.keys() - {*locks}, key=lambda entry: used[entry], reverse=True)
    return [entry for entry in [*latest[KEEP:], *locks] if used[entry] < before]


def _size(path: Path) -> int:
    if path.is_symlink() or path.is_file():
        return path.lstat().st_size
    return sum(entry.lstat().st_size for entry in path.rglob("*") if entry.is_file())
