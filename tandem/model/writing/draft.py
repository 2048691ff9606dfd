"""A package being written: what is known of it, and whether its answers make sense."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tandem.errors import PackageError
from tandem.model.package import (
    Manifest,
)

CHECKED_ROWS = 2_000
"""Rows on which ONNX has to answer as the estimator does."""
TOLERANCE = 1e-4
"""How far ONNX's float32 may be from scikit-learn's float64: probabilities are in [0, 1], values
relative to their size.
"""


class Draft(msgspec.Struct):
    """What is known so far, the sample's rows and the answers to them."""

    manifest: Manifest
    rows: NDArray[Any]
    answers: NDArray[Any]
    tolerance: float


def check_answers(manifest: Manifest, answers: NDArray[Any], rows: int) -> None:
    """Refuse answers of another shape than the task's, or not finite.

    Raises `PackageError`.
    """
    if answers.shape[:1] != (rows,) or answers.ndim > 2:
        raise PackageError(f"answers have shape {list(answers.shape)} for {rows} rows")
    if manifest.task == "classification" and answers.shape != (rows, len(manifest.labels)):
        raise PackageError(
            f"{answers.shape[-1]} probabilities a row for {len(manifest.labels)} labels"
        )
    if not np.all(np.isfinite(answers)):
        bad = int(np.flatnonzero(~np.isfinite(answers).reshape(rows, -1).all(axis=1))[0])
        raise PackageError(f"the model answers NaN or infinity (first for row {bad} of its sample)")
    if manifest.task == "classification" and manifest.probabilities != "decision_function":
        sums = answers.sum(axis=1)
        if answers.min(initial=0) < -1e-3 or np.any(np.abs(sums - 1) > 1e-2):
            raise PackageError("probabilities are not between 0 and 1, or do not sum to 1")


def scale(manifest: Manifest, answers: NDArray[Any]) -> Any:
    """What differences are measured against: 1 for probabilities, else their size."""
    return (
        1.0
        if manifest.task == "classification"
        else np.maximum(np.abs(answers), np.abs(answers).mean() + 1e-12)
    )
