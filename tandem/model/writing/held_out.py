"""Held-out rows with the truth, as they are kept beside a package."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tandem.errors import PackageError
from tandem.model.package import (
    EVALUATION,
    MAX_EVALUATION,
    Evaluation,
    File,
    HeldOut,
    Manifest,
    as_rows,
    row_shape,
)
from tandem.model.writing.sample import table_of

EVALUATION_ROWS = 5_000


def keep_held_out(
    folder: Path, manifest: Manifest, held_out: tuple[Any, Any], evaluation: Evaluation
) -> Evaluation:
    """Write the held-out rows to `folder`; returns the evaluation that names the file."""
    given, truth = held_out
    layout, _, rows = table_of(given, feature_names_of(manifest))
    if layout != manifest.layout or rows.shape[1:] != row_shape(manifest):
        raise PackageError(
            f"held_out: rows of shape {list(rows.shape[1:])}, expected {list(row_shape(manifest))}"
        )
    answers = np.asarray(truth)
    if len(answers) != len(rows):
        raise PackageError(f"held_out: {len(rows)} rows with {len(answers)} answers")
    answered: list[Any]
    if manifest.task == "classification":
        answered = _names_of(manifest, answers)
    else:
        answered = np.asarray(answers, dtype=np.float64).tolist()
    # Evenly thinned out to what is read again, rather than cut: the order may mean something.
    keep = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), EVALUATION_ROWS)).astype(int))
    data = msgspec.json.encode(HeldOut(as_rows(rows[keep]), [answered[at] for at in keep]))
    while len(data) > MAX_EVALUATION and len(keep) > 1:
        keep = keep[::2]
        data = msgspec.json.encode(HeldOut(as_rows(rows[keep]), [answered[at] for at in keep]))
    (folder / EVALUATION).write_bytes(data)
    return msgspec.structs.replace(evaluation, rows=len(keep), file=file_of(folder / EVALUATION))


def feature_names_of(manifest: Manifest) -> list[str] | None:
    """The features' names, where there are several."""
    return [f.name for f in manifest.features] if len(manifest.features) > 1 else None


def _names_of(manifest: Manifest, truth: NDArray[Any]) -> list[str]:
    answered = [str(value) for value in truth.tolist()]
    if set(answered) <= set(manifest.labels):
        return answered
    # Class numbers where the labels were given other names.
    if truth.dtype.kind in "iub" and truth.min() >= 0 and truth.max() < len(manifest.labels):
        return [manifest.labels[value] for value in truth.tolist()]
    unknown = sorted(set(answered) - set(manifest.labels))[:3]
    raise PackageError(f"held_out: answers {unknown} are none of the labels")


def file_of(path: Path) -> File:
    """Name, sha256 and size of a file, streamed."""
    with path.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        return File(path.name, sha256, os.fstat(stream.fileno()).st_size)
