"""Rows between people's JSON and the model's arrays, and answers as predictions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tandem.errors import PackageError
from tandem.model.package.format import DTYPES, Feature, Manifest, Prediction


def check_rows(manifest: Manifest, rows: Sequence[Any]) -> None:
    """Refuse rows of another shape than the features'.

    Raises `PackageError` that names the row.
    """
    if manifest.layout == "tensors":
        _check_tensors(manifest, rows)
        return
    shape = row_shape(manifest)
    for number, row in enumerate(rows):
        if _shape_of(row) != shape:
            raise PackageError(
                f"row {number}: shape {list(_shape_of(row))}, expected {list(shape)}"
            )


def _check_tensors(manifest: Manifest, rows: Sequence[Any]) -> None:
    shapes = [tuple(feature.shape) for feature in manifest.features]
    for number, row in enumerate(rows):
        if not isinstance(row, list | tuple) or len(row) != len(shapes):
            raise PackageError(f"row {number}: expected a list of {len(shapes)} tensors")
        for feature, cell, shape in zip(manifest.features, row, shapes, strict=True):
            if _shape_of(cell) != shape:
                raise PackageError(
                    f"row {number}: {feature.name} has shape {list(_shape_of(cell))}, "
                    f"expected {list(shape)}"
                )


def as_array(manifest: Manifest, rows: Any) -> NDArray[Any]:
    """JSON-like rows as the array that `Predictor.predict` takes.

    `null` is a missing value: NaN for a number, and for a text what it was in training. Raises
    `PackageError` when a row has another shape, or a value another type, than the features say.
    """
    shape = row_shape(manifest)
    try:
        if manifest.layout == "matrix":
            dtype = DTYPES[manifest.features[0].dtype]
            array = np.asarray(rows, dtype=dtype)
        else:
            check_rows(manifest, rows)
            array = np.empty((len(rows), *shape), dtype=object)
            for column, feature in enumerate(manifest.features):
                if manifest.layout == "tensors":
                    dtype = DTYPES[feature.dtype]
                    for number, row in enumerate(rows):
                        array[number, column] = np.asarray(row[column], dtype=dtype)
                    continue
                array[:, column] = [_value(feature, row[column]) for row in rows]
    except (TypeError, ValueError, OverflowError) as problem:
        raise PackageError(f"rows are not what the features say: {problem}") from None
    if array.shape[1:] != shape:
        raise PackageError(f"rows have shape {list(array.shape[1:])}, expected {list(shape)}")
    return array


def as_rows(array: NDArray[Any]) -> list[list[Any]]:
    """The opposite of `as_array`: rows as JSON can hold them."""
    return [_jsonable(row) for row in array.tolist()]


def _jsonable(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return _jsonable(value.tolist())
    if isinstance(value, list):
        return [_jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value.item() if isinstance(value, np.generic) else value


def _value(feature: Feature, value: Any) -> Any:
    if feature.dtype == "str":
        if value is None:
            return math.nan if feature.missing == "nan" else None
        if isinstance(value, str):
            return value
        raise TypeError(f"{feature.name} is {value!r}, expected a text")
    if isinstance(value, str) or (value is None and not feature.dtype.startswith("float")):
        raise TypeError(f"{feature.name} is {value!r}, expected {feature.dtype}")
    return math.nan if value is None else DTYPES[feature.dtype](value).item()


def row_shape(manifest: Manifest) -> tuple[int, ...]:
    """One row's shape as an array."""
    first = manifest.features[0]
    return (
        tuple(first.shape)
        if len(manifest.features) == 1 and first.shape
        else (len(manifest.features),)
    )


def _shape_of(row: Any) -> tuple[int, ...]:
    shape = []
    while isinstance(row, list | tuple):
        shape.append(len(row))
        row = row[0] if row else None
    return tuple(shape)


def predictions_of(manifest: Manifest, answers: NDArray[Any], top: int = 3) -> list[Prediction]:
    """Answers as the service gives them: the `top` labels, best first, or the value."""
    if manifest.task == "regression":
        return [Prediction(value=value) for value in answers.tolist()]
    order = np.argsort(-answers, axis=1, kind="stable")[:, :top]
    best = np.take_along_axis(answers, order, axis=1)
    labels = manifest.labels
    return [
        Prediction(labels=[labels[i] for i in places], probabilities=values)
        for places, values in zip(order.tolist(), best.tolist(), strict=True)
    ]
