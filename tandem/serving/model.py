"""The one model that this process answers with: its rows and its answers."""

from __future__ import annotations

import contextlib
import math
import time
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from tandem.errors import PackageError
from tandem.model.package import (
    TRUSTED,
    Feature,
    Package,
    as_array,
    check_libraries,
    open_predictor,
    predictions_of,
    read,
)
from tandem.model.package.runtimes import Predictor
from tandem.serving.problems import Problem

TOP = 3
FEW = 64
"""So many numbers Python is done with before numpy has begun."""
QUICK_SECONDS = 0.001
"""A model that answers a row in less gains nothing from a second thread."""


class Prediction(msgspec.Struct, frozen=True):
    """The best labels of one row with their probabilities, most probable first."""

    labels: list[str]
    probabilities: list[float]


class Value(msgspec.Struct, frozen=True):
    """The answer of a regression to one row; a list where it has several targets."""

    value: float | list[float]


def scalar(feature: Feature) -> Any:
    """The JSON type of one value of a feature; null is a missing one."""
    if feature.dtype == "str":
        return str | None
    if feature.dtype == "bool":
        return bool
    return float | None if feature.dtype.startswith("float") else int


def row_type(package: Package) -> Any:
    """The JSON types of one row: a list in the features' order, or an object by name."""
    manifest = package.manifest
    first = manifest.features[0]
    if manifest.layout == "series":
        return str | list[str]
    if len(manifest.features) == 1 and first.shape:
        shaped = scalar(first)
        for _ in first.shape:
            shaped = list[shaped]  # type: ignore[valid-type]
        return shaped
    if manifest.layout == "tensors":
        return list[Any] | dict[str, Any]  # of which shape each must be, `rows` looks at
    if manifest.layout == "matrix":
        return list[scalar(first)] | dict[str, scalar(first)]  # type: ignore[misc]
    kinds = {scalar(feature) for feature in manifest.features}
    if len(kinds) == 1:
        value = kinds.pop()
    elif float | None in kinds:
        value = float | str | bool | None
    else:
        value = int | str | bool | None
    return list[value] | dict[str, value]  # type: ignore[valid-type]


class Model:
    """A verified package with its predictor; safe to ask from several threads."""

    def __init__(self, package: Package, predictor: Predictor) -> None:
        self.package = package
        self.manifest = manifest = package.manifest
        self.digest = package.digest
        self.predictor = predictor
        self.features = manifest.features
        self.names = [feature.name for feature in manifest.features]
        self.row_type = row_type(package)
        # One flat vector of numbers is what nearly every request brings: it gets a path of its own.
        first = manifest.features[0]
        vector = len(manifest.features) > 1 or len(first.shape) == 1
        several = len(manifest.features) > 1 or not first.shape
        self.width = len(manifest.features) if several else first.shape[0]
        fast = manifest.layout == "matrix" and vector and first.dtype.startswith("float")
        self._fast_dtype = np.dtype(first.dtype) if fast else None
        self._by_numpy = predictor.runtime != "onnx"
        self.quick = False  # whether a row takes next to no time: `warm_up` finds out
        # The row's own numbers, for drift: which columns of a table they are.
        self.numeric = [
            at for at, feature in enumerate(manifest.features) if feature.dtype != "str"
        ]

    @property
    def classifies(self) -> bool:
        """Whether answers are labels with probabilities (else they are values)."""
        return self.manifest.task == "classification"

    def takes(self, array: np.ndarray) -> bool:
        """Whether these are rows as `predict` takes them, but for their precision."""
        return (
            self._fast_dtype is not None
            and array.dtype.kind in "fiub"
            and array.shape[1:] == (self.width,)
            and len(array) > 0
        )

    def rows(self, given: Sequence[Any]) -> np.ndarray:
        """Checked rows for `predict`. Raises Problem (422) that names the row at fault."""
        dtype = self._fast_dtype
        if dtype is not None:
            width = self.width
            if len(given) == 1 and len(given[0]) == width and type(given[0]) is list:
                # The same as below without what numpy does first: most requests have one row.
                try:
                    return np.frombuffer(array(dtype.char, given[0]), dtype).reshape(1, width)
                except (TypeError, OverflowError):
                    pass  # a missing value, or one that numpy has to round
            for row in given:
                if len(row) != width or type(row) is dict:
                    break
            else:
                # What is too large for float32 becomes infinite, as it would in the estimator.
                with contextlib.suppress(ValueError, OverflowError), np.errstate(over="ignore"):
                    return np.array(given, dtype=dtype)
        return self._checked([self._positional(number, row) for number, row in enumerate(given)])

    def _positional(self, number: int, row: Any) -> Any:
        if isinstance(row, dict):
            if missing := [name for name in self.names if name not in row]:
                raise Problem(422, f"Row {number} lacks the feature {missing[0]!r}.")
            if surplus := sorted(row.keys() - set(self.names)):
                raise Problem(422, f"Row {number} has an unknown feature {surplus[0][:80]!r}.")
            return [row[name] for name in self.names]
        if isinstance(row, str):
            return [row]
        if len(row) != self.width:
            raise Problem(422, f"Row {number} has {len(row)} values, the model takes {self.width}.")
        return row

    def _checked(self, rows: list[Any]) -> np.ndarray:
        try:
            with np.errstate(over="ignore"):
                return as_array(self.manifest, rows)
        except PackageError as error:
            raise Problem(422, f"The {str(error)[:300]}.") from None

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """Probabilities (rows by labels) or values. Raises Problem (422) for no answer."""
        try:
            if self._by_numpy:
                with np.errstate(all="ignore"):
                    output = self.predictor.predict(rows)
            else:
                output = self.predictor.predict(rows)
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - estimators raise anything on values they refuse
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise Problem(422, f"The model refuses these rows: {reason}") from None
        if not _finite(output):
            bad = int(np.flatnonzero(~np.isfinite(output).reshape(len(rows), -1).all(axis=1))[0])
            raise Problem(422, f"The model has no finite answer for row {bad}.")
        return output

    def answers(self, output: np.ndarray) -> list[Any]:
        """What people get for an output: the top labels of each row, or its value."""
        if not self.classifies:
            return [Value(value) for value in output.astype(float).tolist()]
        if len(output) == 1:
            # The same as below for the one row that most requests have, without numpy's set-up.
            row = output[0].tolist()
            best = sorted(range(len(row)), key=row.__getitem__, reverse=True)[:TOP]
            labels = self.manifest.labels
            return [Prediction([labels[at] for at in best], [row[at] for at in best])]
        return [
            Prediction(each.labels, each.probabilities)
            for each in predictions_of(self.manifest, output.astype(float), TOP)
        ]

    def warm_up(self) -> None:
        """Answer the recorded questions once, so that no caller waits for first use.

        Raises PackageError when they get no answer; whether it is the right one, a release asks.
        """
        inputs = self.package.golden().inputs
        try:
            self.answers(self.predict(self.rows(inputs)))
            taken = []
            for _ in range(3):
                began = time.perf_counter()
                self.answers(self.predict(self.rows(inputs[:1])))
                taken.append(time.perf_counter() - began)
            self.quick = min(taken) < QUICK_SECONDS
        except Problem as error:
            raise PackageError(
                f"{self.package.folder}: does not answer its own questions: {error.detail}"
            ) from None


def _finite(output: np.ndarray) -> bool:
    """Whether all numbers are finite; for few, numpy's way costs more than the model."""
    if output.size <= FEW:
        return all(map(math.isfinite, output.ravel().tolist()))
    return bool(np.isfinite(output).all())


def load(folder: Path, trust: Iterable[str] = ()) -> Model:
    """The verified and warm model of a package folder.

    `trust`: classes of the app's own that it may hold. Raises `PackageError`.
    """
    package = read(folder)
    check_libraries(package.manifest)
    model = Model(package, open_predictor(package, trusted=TRUSTED | {*trust}))
    model.warm_up()
    return model
