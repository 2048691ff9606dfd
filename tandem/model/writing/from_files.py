"""The manifest of a package of opaque files, which only the application can open."""

from __future__ import annotations

import shutil
from pathlib import Path

from tandem.errors import PackageError
from tandem.model.package import Manifest
from tandem.model.writing.held_out import file_of
from tandem.util.clock import now


def manifest_of_files(folder: Path, source: Path, name: str) -> Manifest:
    """Copy the file, or the folder's files, to `folder`; raises `PackageError`."""
    paths = sorted(source.iterdir()) if source.is_dir() else [source]
    for path in paths:
        if path.is_dir():
            raise PackageError(f"{path}: a folder in a package; pack it into one file, as with tar")
        if path.is_symlink() or not path.is_file():
            raise PackageError(f"{path}: not a plain file")
        shutil.copyfile(path, folder / path.name)
    if not paths:
        raise PackageError(f"{source}: no files")
    return Manifest(
        name=name,
        created=now(),
        task="opaque",
        layout="matrix",
        features=[],
        runtime="files",
        runtime_reason="published as files, for the application to open",
        files=[file_of(folder / path.name) for path in paths],
    )
