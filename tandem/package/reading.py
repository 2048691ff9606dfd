"""A package's folder, read and verified: each name, size and sha256, and what the manifest says."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from tandem.errors import PackageError
from tandem.package.format import (
    DTYPES,
    EVALUATION,
    FORMAT,
    GOLDEN,
    MANIFEST,
    MAX_ELEMENTS,
    MAX_EVALUATION,
    MAX_FEATURES,
    MAX_GOLDEN,
    MAX_LABELS,
    MAX_MANIFEST,
    MAX_MODEL,
    ONNX,
    SKOPS,
    Feature,
    File,
    Golden,
    HeldOut,
    Manifest,
)
from tandem.package.rows import check_rows


class Package:
    """A verified folder. `digest` names the content: the same model and metadata always have the
    same one.
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
        """The recorded questions and answers."""
        golden: Golden = _decode(self.folder / GOLDEN, Golden, MAX_GOLDEN)
        check_rows(self.manifest, golden.inputs)
        width = len(self.manifest.labels) if self.manifest.task == "classification" else None
        if not len(golden.inputs) == len(golden.answers) == len(golden.predictions):
            raise PackageError(f"{GOLDEN}: inputs, answers and predictions are not of one length")
        for number, answer in enumerate(golden.answers):
            if width is not None and len(answer) != width:
                raise PackageError(
                    f"{GOLDEN}: answer {number} has {len(answer)} numbers for {width} labels"
                )
            if not all(map(math.isfinite, answer)):
                raise PackageError(f"{GOLDEN}: answer {number} is not finite")
        return golden

    def held_out(self) -> HeldOut | None:
        """The held-out rows, where the package says that it has some and they are in the folder."""
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
    """The package in `folder`, verified; raises `PackageError` that names the file and what is
    wrong with it.
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
    """A manifest that makes sense, and the digest of its content; raises `PackageError`."""
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


def check_name(name: str) -> str:
    """The name, when it can be part of a key, a tag and a URL; raises `PackageError`."""
    if not re.fullmatch(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?", name):
        raise PackageError(
            f"model name {name!r}: want at most 64 of a-z, 0-9, '.', '_', '-', "
            "with a letter or digit first and last"
        )
    return name


def check_manifest(manifest: Manifest) -> None:
    check_name(manifest.name)
    paths = [file.path for file in manifest.files]
    evaluation = manifest.evaluation.file if manifest.evaluation else None
    for file in [*manifest.files, *([evaluation] if evaluation else [])]:
        allowed = (
            {EVALUATION: MAX_EVALUATION}
            if file is evaluation
            else {ONNX: MAX_MODEL, SKOPS: MAX_MODEL, GOLDEN: MAX_GOLDEN}
        )
        if file.path not in allowed:
            raise PackageError(f"{file.path!r}: not a file of a model package")
        if not 0 <= file.size <= allowed[file.path]:
            raise PackageError(
                f"{file.path}: {file.size} bytes, at most {allowed[file.path]} are read"
            )
        if not re.fullmatch(r"[0-9a-f]{64}", file.sha256):
            raise PackageError(f"{file.path}: {file.sha256[:80]!r} is not a sha256")
    if len(set(paths)) != len(paths):
        raise PackageError(f"{MANIFEST}: names a file twice")
    if GOLDEN not in paths:
        raise PackageError(f"{GOLDEN}: missing from the manifest")
    needed = ONNX if manifest.runtime == "onnx" else SKOPS
    if needed not in paths:
        raise PackageError(
            f"{needed}: missing from the manifest, whose runtime is {manifest.runtime}"
        )
    if not 1 <= len(manifest.features) <= MAX_FEATURES:
        raise PackageError(
            f"{MANIFEST}: {len(manifest.features)} features, want 1 to {MAX_FEATURES}"
        )
    if len({feature.name for feature in manifest.features}) != len(manifest.features):
        raise PackageError(f"{MANIFEST}: two features have one name")
    for feature in manifest.features:
        if feature.dtype not in DTYPES:
            raise PackageError(
                f"feature {feature.name!r}: dtype {feature.dtype!r}, "
                f"want one of {', '.join(DTYPES)}"
            )
        if (
            any(not 0 < side <= MAX_ELEMENTS for side in feature.shape)
            or math.prod(feature.shape) > MAX_ELEMENTS
        ):
            raise PackageError(f"feature {feature.name!r}: absurd shape {feature.shape}")
    if manifest.layout == "matrix" and not _is_matrix(manifest.features):
        raise PackageError(
            f"{MANIFEST}: a matrix has one dtype, and one shaped feature or only numbers"
        )
    if manifest.layout == "series" and (len(manifest.features) != 1 or manifest.features[0].shape):
        raise PackageError(f"{MANIFEST}: a series has one feature without a shape")
    if manifest.layout == "table" and any(feature.shape for feature in manifest.features):
        raise PackageError(f"{MANIFEST}: a table's features have no shape")
    if manifest.task == "classification" and not 2 <= len(manifest.labels) <= MAX_LABELS:
        raise PackageError(f"{MANIFEST}: {len(manifest.labels)} labels, want 2 to {MAX_LABELS}")
    if len(set(manifest.labels)) != len(manifest.labels):
        raise PackageError(f"{MANIFEST}: a label is there twice")
    for name, value in manifest.metrics.items():
        if not math.isfinite(value):
            raise PackageError(f"{MANIFEST}: metric {name} is {value}")


def _is_matrix(features: Sequence[Feature]) -> bool:
    same = len({feature.dtype for feature in features}) == 1 and features[0].dtype != "str"
    return same and (
        (len(features) == 1 and len(features[0].shape) >= 1) or not any(f.shape for f in features)
    )


def _digest(manifest: Mapping[str, Any]) -> str:
    # Who published it, when, and from which commit is not what it is: a retrained equal model is
    # the same model.
    told = {
        k: v for k, v in manifest.items() if k not in {"created", "publisher", "training_commit"}
    }
    return "sha256:" + hashlib.sha256(msgspec.json.encode(told, order="deterministic")).hexdigest()


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
