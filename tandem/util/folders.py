"""Folders for the length of one piece of work; what a killed one left is removed by the next."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tandem.util.files import locked


@contextlib.contextmanager
def clean_folder(home: Path, purpose: str) -> Iterator[Path]:
    """An empty folder of our own below `home`, removed afterwards.

    What a killed run left is removed first.
    """
    home = home / purpose
    home.mkdir(parents=True, exist_ok=True)
    _remove_dead(home)
    folder = home / f"{os.getpid()}-{secrets.token_hex(6)}"
    with locked(_lock_file(folder)):
        folder.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            _lock_file(folder).unlink(missing_ok=True)


@contextlib.contextmanager
def scratch(purpose: str) -> Iterator[Path]:
    """As `clean_folder`, where the system keeps what is temporary; nobody else's."""
    home = _temporary()
    home.mkdir(mode=0o700, exist_ok=True)
    if not _is_ours(home):
        # Somebody was here before us, and could change what is in it.
        with tempfile.TemporaryDirectory(prefix=f"{purpose}-") as folder:
            yield Path(folder)
        return
    with clean_folder(home, purpose) as folder:
        yield folder


def sweep_scratch() -> None:
    """Remove what killed processes left of `scratch`, for whatever purpose it was."""
    home = _temporary()
    if home.is_dir() and _is_ours(home):
        for purpose in home.iterdir():
            _remove_dead(purpose)


class beside:  # noqa: N801 - read as a word: with beside(place) as making
    """A folder to fill beside `place`, put there whole at the end; whoever was quicker wins."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __enter__(self) -> Path:
        self.place.parent.mkdir(parents=True, exist_ok=True)
        self.making = Path(tempfile.mkdtemp(prefix=".making-", dir=self.place.parent))
        return self.making

    def __exit__(self, kind: Any, value: Any, trace: Any) -> None:
        if kind is None:
            self.making.chmod(0o755)
            try:
                self.making.rename(self.place)
                return
            except OSError:
                if not self.place.is_dir():
                    shutil.rmtree(self.making, ignore_errors=True)
                    raise
        shutil.rmtree(self.making, ignore_errors=True)


def _temporary() -> Path:
    return Path(tempfile.gettempdir()).resolve() / f"tandem-{os.getuid()}"


def _is_ours(home: Path) -> bool:
    stat = home.lstat()
    return not home.is_symlink() and stat.st_uid == os.getuid() and not stat.st_mode & 0o077


def _remove_dead(home: Path) -> None:
    for old in [one for one in home.iterdir() if one.is_dir()]:
        # The lock goes with its process, in whatever container; a process number says little.
        with locked(_lock_file(old), wait=False) as free:
            if free:
                shutil.rmtree(old, ignore_errors=True)
                _lock_file(old).unlink(missing_ok=True)


def _lock_file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")
