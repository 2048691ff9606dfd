"""Runtime `files`: whatever files the application loads by itself, at `$TANDEM_MODEL`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from tandem.errors import PackageError
from tandem.model.package.format import MAX_MODEL, Manifest
from tandem.model.package.runtimes.onnx import OnnxPredictor

NAME = "files"
FILE = ""
FILES: Mapping[str, int] = {"*": MAX_MODEL}
SAME_VERSION: tuple[str, ...] = ()
NEEDED: tuple[str, ...] = ()


def open_model(
    folder: Path, manifest: Manifest, *, trusted: Iterable[str], threads: int
) -> OnnxPredictor:
    """Nothing here opens such files; raises `PackageError`."""
    raise PackageError(
        "runtime 'files': only the application can open them; it finds them at $TANDEM_MODEL"
    )
