"""A package's folder, made whole or not at all."""

from __future__ import annotations

import contextlib
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from tandem.errors import PackageError, one_line
from tandem.model.package import (
    GOLDEN,
    MANIFEST,
    Evaluation,
    Manifest,
    Package,
    Picture,
    Task,
    check_manifest,
    check_name,
    load_skops,
    read,
    refuse_pickle,
)
from tandem.model.package.runtimes import runtime_of
from tandem.model.writing.draft import Draft
from tandem.model.writing.from_estimator import draft_of_estimator
from tandem.model.writing.from_files import manifest_of_files
from tandem.model.writing.from_onnx import draft_of_onnx
from tandem.model.writing.golden import golden_of
from tandem.model.writing.held_out import feature_names_of, file_of, keep_held_out
from tandem.model.writing.sample import table_of
from tandem.model.writing.statistics import statistics_of


def write(
    folder: Path | str,
    estimator: Any,
    *,
    name: str,
    sample: Any = None,
    labels: Sequence[str] | None = None,
    metrics: Mapping[str, float] | None = None,
    parameters: Mapping[str, Any] | None = None,
    training_commit: str | None = None,
    data_digest: str | None = None,
    image: Picture | None = None,
    publisher: str = "",
    task: Task | None = None,
    training: Any = None,
    held_out: tuple[Any, Any] | None = None,
    evaluation: Evaluation | None = None,
    feature_names: Sequence[str] | None = None,
    onnx: bool = True,
    trust: Sequence[str] = (),
    runtime: Literal["files"] | None = None,
    output: str | None = None,
) -> Package:
    """Make the package of a fitted estimator, or of an ONNX or skops file.

    A file is given by its path. `output` names the ONNX output that answers; logits are taken as
    such. With `runtime="files"` the path is a file or a folder of files that only the application
    opens.

    `sample`: rows like those to be asked: a 2-D array, a data frame, a dict of columns, a
    structured array, or texts. Golden rows come out of it, and ONNX is taken only when its answers
    match the estimator's on it. `training`: rows for the drift statistics (default: `sample`).
    `held_out`: rows and truth that training never saw, on which it is judged. `folder` must be
    absent or empty; it appears whole or not at all. Raises `PackageError`.
    """
    folder = Path(folder)
    check_name(name)
    if folder.exists() and any(folder.iterdir()):
        raise PackageError(f"{folder}: not empty; a package is written into a new folder")
    staging = folder.parent / f".{folder.name}.{secrets.token_hex(4)}.tmp"
    staging.mkdir(parents=True)
    try:
        if isinstance(estimator, str | Path) and runtime == "files":
            manifest = manifest_of_files(staging, Path(estimator), name)
        else:
            if isinstance(estimator, str | Path):
                estimator = _model_in(Path(estimator))
            if isinstance(estimator, Path):
                draft = draft_of_onnx(
                    *(staging, estimator, name, sample, labels, task, feature_names), output
                )
            else:
                draft = draft_of_estimator(
                    *(staging, estimator, name, sample, labels, task, feature_names),
                    onnx=onnx,
                    trust=tuple(trust),
                )
            manifest = _complete(staging, draft, training, held_out, evaluation)
        manifest = msgspec.structs.replace(
            manifest,
            publisher=publisher,
            training_commit=training_commit,
            metrics={key: float(value) for key, value in sorted((metrics or {}).items())},
            parameters=_plain(dict(parameters or {})),
            data_digest=data_digest,
            image=image,
        )
        check_manifest(manifest)
        (staging / MANIFEST).write_bytes(encode_manifest(manifest))
        package = read(staging)
        package.golden()
        folder.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            folder.rmdir()
        staging.rename(folder)
    except OSError as problem:
        raise PackageError(f"{folder}: {problem.strerror or problem}") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return Package(folder, package.manifest, package.digest)


def encode_manifest(manifest: Manifest) -> bytes:
    """The manifest as it is in a package's folder: for people too."""
    return (
        msgspec.json.format(msgspec.json.encode(manifest, order="deterministic"), indent=1) + b"\n"
    )


def _model_in(path: Path) -> Any:
    """A skops file's estimator, or an ONNX file's path; raises `PackageError`."""
    refuse_pickle(path)
    if path.suffix == ".skops":
        return load_skops(path)
    if path.suffix != ".onnx":
        raise PackageError(
            f"{path.name}: expected an .onnx file, a .skops file, a "
            'package\'s folder, or runtime="files" for what the application opens by itself'
        )
    return path


def _complete(
    folder: Path,
    draft: Draft,
    training: Any,
    held_out: tuple[Any, Any] | None,
    evaluation: Evaluation | None,
) -> Manifest:
    """Golden answers, statistics, held-out rows; then the list of files."""
    manifest = draft.manifest
    (folder / GOLDEN).write_bytes(msgspec.json.encode(golden_of(draft)))
    if held_out is not None:
        evaluation = keep_held_out(folder, manifest, held_out, evaluation or Evaluation())
    rows = draft.rows if training is None else table_of(training, feature_names_of(manifest))[2]
    present = [
        path for path in (*runtime_of(manifest.runtime).FILES, GOLDEN) if (folder / path).exists()
    ]
    return msgspec.structs.replace(
        manifest,
        statistics=statistics_of(manifest, rows, draft),
        evaluation=evaluation,
        files=[file_of(folder / path) for path in present],
    )


def _plain(value: Any) -> Any:
    try:
        return msgspec.json.decode(
            msgspec.json.encode(value, enc_hook=_hook, order="deterministic")
        )
    except (msgspec.MsgspecError, TypeError, ValueError) as problem:
        raise PackageError(f"parameters: not plain values: {one_line(problem)}") from None


def _hook(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    return repr(value)
