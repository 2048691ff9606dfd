"""Files named by their content: written whole or not at all, and swept when old."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from tandem.errors import BuildError
from tandem.oci import Descriptor

SPOOLED = 86_400.0
"""Seconds after which a spooled blob is surely pushed; one that is still wanted is made again."""


def spool(chunks: Iterable[bytes], into: Path, media_type: str) -> tuple[Path, Descriptor]:
    """Write chunks to a file in `into` named by their digest; whole or not there."""
    digest = hashlib.sha256()
    size = 0
    with writing(into, f"packing a layer into {into}") as (file, name):
        for block in chunks:
            digest.update(block)
            size += len(block)
            file.write(block)
        name(digest.hexdigest())
    descriptor = Descriptor(media_type=media_type, digest=f"sha256:{digest.hexdigest()}", size=size)
    return into / digest.hexdigest(), descriptor


def sweep(folder: Path, *, older: float = SPOOLED) -> None:
    """Remove blobs of pushes long over, and what killed processes left."""
    limit = time.time() - older
    with contextlib.suppress(FileNotFoundError):
        for path in folder.iterdir():
            if not re.fullmatch(r"[0-9a-f]{64}|\.partial-.*", path.name):
                continue
            # Another process may be sweeping as well.
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < limit:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextlib.contextmanager
def writing(
    folder: Path, what: str, error: type[Exception] = BuildError
) -> Iterator[tuple[BinaryIO, Callable[[str], None]]]:
    """A temporary file in `folder` that takes its name, durably, at the end.

    It goes away when the block raises, or gives it no name. A full disk or a folder that cannot
    be written is one line of type `error`.
    """
    names: list[str] = []
    temporary: Path | None = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, path = tempfile.mkstemp(prefix=".partial-", dir=folder)
        temporary = Path(path)
        with os.fdopen(handle, "wb") as file:
            yield file, names.append
            if names:
                file.flush()
                os.fchmod(handle, 0o644)
                os.fsync(handle)
        if names:
            temporary.replace(folder / names[-1])
            sync_folder(folder)
    except OSError as problem:
        raise error(f"{what}: {reason(problem)}") from None
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def reason(problem: OSError) -> str:
    """Why the operating system refused, in a few words."""
    if problem.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full; free some space and try again"
    return problem.strerror or str(problem)


def sync_folder(folder: Path) -> None:
    """Make a rename in this folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
