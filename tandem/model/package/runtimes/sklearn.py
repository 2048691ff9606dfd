"""Runtime `sklearn`: the estimator itself, out of a skops file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tandem.model.package.format import MAX_MODEL, MAX_ONNX, ONNX, SKOPS, Manifest
from tandem.model.package.runtimes.answers import flat, softmax
from tandem.model.package.skops_file import load_skops

NAME = "sklearn"
FILE = SKOPS
FILES: Mapping[str, int] = {SKOPS: MAX_MODEL, ONNX: MAX_ONNX}
SAME_VERSION: tuple[str, ...] = ("scikit-learn", "skops")
NEEDED: tuple[str, ...] = ()


def open_model(
    folder: Path, manifest: Manifest, *, trusted: Iterable[str], threads: int
) -> SklearnPredictor:
    """The estimator of `model.skops`; raises `PackageError`."""
    return SklearnPredictor(manifest, load_skops(folder / SKOPS, trusted))


class SklearnPredictor:
    """Answers with the estimator itself."""

    runtime = "sklearn"

    def __init__(self, manifest: Manifest, estimator: Any) -> None:
        self._manifest = manifest
        self._estimator = estimator

    def predict(self, rows: Any) -> NDArray[Any]:
        """Probabilities (rows x labels) or values."""
        return estimator_answers(self._estimator, self._manifest, rows)


def estimator_answers(estimator: Any, manifest: Manifest, rows: Any) -> NDArray[Any]:
    """Probabilities (rows x labels) or values of a fitted estimator."""
    rows = rows[:, 0] if manifest.layout == "series" else rows
    if manifest.task == "regression":
        return np.asarray(flat(np.asarray(estimator.predict(rows), dtype=np.float64)))
    if manifest.probabilities == "predict_proba":
        return np.asarray(estimator.predict_proba(rows), dtype=np.float64)
    return softmax(np.asarray(estimator.decision_function(rows), dtype=np.float64))
