"""A model for tests and `flask run`: recorded answers, and no model file.

A folder with manifest.json and golden.json of a package, some kilobytes, stands beside the app in
its repository. Rows get the recorded answer of the row that is nearest to them. It never serves:
an image has the whole package.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from tandem.errors import PackageError
from tandem.model.package import (
    GOLDEN,
    MANIFEST,
    Golden,
    Manifest,
    Package,
    as_array,
    decode_manifest,
    read,
)
from tandem.serving.model import Model

RUNTIME = "recorded"


class RecordedPredictor:
    """Answers with what was recorded."""

    runtime = RUNTIME

    def __init__(self, manifest: Manifest, golden: Golden) -> None:
        self._inputs = as_array(manifest, golden.inputs)
        answers = np.array(golden.answers, dtype=float)
        one_value = manifest.task == "regression" and answers.shape[1] == 1
        self._answers = answers[:, 0] if one_value else answers

    def predict(self, rows: Any) -> np.ndarray:
        """The recorded answers of the nearest questions."""
        return np.asarray(self._answers[[self._nearest(row) for row in rows]])

    def _nearest(self, row: np.ndarray) -> int:
        axes = tuple(range(1, self._inputs.ndim))
        if self._inputs.dtype == object:
            return int((self._inputs == row).sum(axis=axes).argmax())
        distances = np.nan_to_num(np.abs(self._inputs.astype(float) - row.astype(float)))
        return int(distances.sum(axis=axes).argmin())


def load_recorded(folder: Path) -> Model:
    """The recorded model in this folder, warm. Raises PackageError."""
    try:
        manifest, digest = decode_manifest((folder / MANIFEST).read_bytes())
    except OSError as error:
        raise PackageError(f"{folder / MANIFEST}: {error.strerror}") from None
    package = Package(folder, manifest, digest)
    model = Model(package, RecordedPredictor(manifest, package.golden()))
    model.warm_up()
    return model


def record(package: Path, folder: Path) -> Path:
    """Keep of a whole package what `load_recorded` needs. Raises PackageError."""
    read(package)
    folder.mkdir(parents=True, exist_ok=True)
    for name in (MANIFEST, GOLDEN):
        shutil.copyfile(package / name, folder / name)
    return folder
