"""A package's folder, read and verified: each name, size and sha256."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from tandem.errors import PackageError
from tandem.model.package.checks import check_manifest
from tandem.model.package.format import (
    EVALUATION,
    FORMAT,
    GOLDEN,
    MANIFEST,
    MAX_EVALUATION,
    MAX_GOLDEN,
    MAX_MANIFEST,
    File,
    Golden,
    HeldOut,
    Manifest,
)
from tandem.model.package.golden_checks import check_golden_agrees
from tandem.model.package.rows import check_rows


class Package:
    """A verified folder; `digest` names its content.

    The same model and metadata always have the same digest.
    """

    def __init__(self, folder: Path, manifest: Manifest, digest: str) -> None:
        self.folder = folder
        self.manifest = manifest
        self.digest = digest

    def __repr__(self) -> str:
        return f"Package({self.manifest.name!r}, {self.digest!r})"

    @property
    def size(self) -> int:
        """Bytes of all files but the manifest."""
        return sum(file.size for file in self.manifest.files)

    def has(self, path: str) -> bool:
        """Whether the package holds that file."""
        return any(file.path == path for file in self.manifest.files)

    def golden(self) -> Golden:
        """The recorded questions and answers, which agree; raises `PackageError`.

        There are none where only the application can ask the model.
        """
        if self.manifest.task == "opaque":
            return Golden(inputs=[], answers=[], predictions=[], tolerance=0.0)
        golden: Golden = _decode(self.folder / GOLDEN, Golden, MAX_GOLDEN)
        check_golden_agrees(self.manifest, golden)
        return golden

    def held_out(self) -> HeldOut | None:
        """The held-out rows, where the package names some and they are in the folder."""
        evaluation = self.manifest.evaluation
        path = self.folder / EVALUATION
        if evaluation is None or evaluation.file is None or not path.exists():
            return None
        held_out: HeldOut = _decode(path, HeldOut, MAX_EVALUATION)
        check_rows(self.manifest, held_out.rows)
        if len(held_out.rows) != len(held_out.truth):
            raise PackageError(
                f"{EVALUATION}: {len(held_out.rows)} rows with {len(held_out.truth)} answers"
            )
        return held_out


def read(folder: Path | str) -> Package:
    """The package in `folder`, verified.

    Raises `PackageError` that names the file and what is wrong with it.
    """
    folder = Path(folder)
    manifest, digest = decode_manifest(_small(folder / MANIFEST, MAX_MANIFEST))
    wanted = {file.path: file for file in manifest.files}
    optional = manifest.evaluation.file if manifest.evaluation else None
    if optional is not None and (folder / EVALUATION).exists():
        wanted[EVALUATION] = optional
    for entry in sorted(folder.iterdir()):
        if entry.name not in wanted and entry.name != MANIFEST:
            raise PackageError(f"{entry.name}: not in the manifest of {folder}")
    for name, file in wanted.items():
        verify_file(folder / name, file)
    return Package(folder, manifest, digest)


def decode_manifest(data: bytes) -> tuple[Manifest, str]:
    """A manifest that makes sense, and its digest; raises `PackageError`."""
    try:
        raw = msgspec.json.decode(data)
        if not isinstance(raw, dict):
            raise PackageError(f"{MANIFEST}: not a JSON object")
        if raw.get("format") != FORMAT:
            raise PackageError(
                f"{MANIFEST}: format {raw.get('format')!r}, this Tandem reads format {FORMAT}"
            )
        manifest = msgspec.convert(raw, Manifest, strict=True)
        digest = _digest(raw)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as problem:
        raise PackageError(f"{MANIFEST}: {problem}") from None
    check_manifest(manifest)
    return manifest, digest


def verify_file(path: Path, file: File) -> None:
    """Size and sha256, streamed; raises `PackageError`."""
    try:
        if path.is_symlink() or not path.is_file():
            raise PackageError(
                f"{path.name}: missing" if not path.exists() else f"{path.name}: not a plain file"
            )
        size = path.stat().st_size
        if size != file.size:
            raise PackageError(f"{path.name}: {size} bytes, the manifest says {file.size}")
        with path.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as problem:
        raise PackageError(f"{path}: {problem.strerror}") from None
    if sha256 != file.sha256:
        raise PackageError(
            f"{path.name}: changed: sha256 {sha256[:12]}…, the manifest says {file.sha256[:12]}…"
        )


def _digest(manifest: Mapping[str, Any]) -> str:
    # Who published it, when, and from which commit is not what it is: a retrained equal model is
    # the same model.
    content = {
        k: v for k, v in manifest.items() if k not in {"created", "publisher", "training_commit"}
    }
    return (
        "sha256:" + hashlib.sha256(msgspec.json.encode(content, order="deterministic")).hexdigest()
    )


def _small(path: Path, limit: int) -> bytes:
    try:
        if path.is_symlink():
            raise PackageError(f"{path.name}: not a plain file")
        with path.open("rb") as stream:
            data = stream.read(limit + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise PackageError(f"{path.name}: missing; {path.parent} is not a model package") from None
    except OSError as problem:
        raise PackageError(f"{path}: {problem.strerror}") from None
    if len(data) > limit:
        raise PackageError(f"{path.name}: larger than {limit} bytes")
    return data


def _decode(path: Path, kind: type[Any], limit: int) -> Any:
    try:
        return msgspec.json.decode(_small(path, limit), type=kind)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as problem:
        raise PackageError(f"{path.name}: {problem}") from None
