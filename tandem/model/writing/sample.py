"""Rows out of whatever people have: arrays, data frames, columns, texts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from tandem.errors import PackageError
from tandem.model.package import (
    DTYPES,
    Feature,
    Layout,
)


def table_of(
    sample: Any, names: Sequence[str] | None = None
) -> tuple[Layout, list[Feature], NDArray[Any]]:
    """Layout, features and rows of a sample in any form that people have.

    Raises `PackageError`.
    """
    if hasattr(sample, "columns") and hasattr(sample, "iloc"):
        columns = {str(name): np.asarray(sample[name]) for name in sample.columns}
    elif isinstance(sample, Mapping):
        columns = {str(name): np.asarray(column) for name, column in sample.items()}
    elif isinstance(sample, np.ndarray) and sample.dtype.names:
        columns = {name: sample[name] for name in sample.dtype.names}
    else:
        return _table_of_array(sample, names)
    if not columns or len({len(column) for column in columns.values()}) != 1:
        raise PackageError("sample: columns are missing, or not of one length")
    if any(column.ndim > 1 for column in columns.values()):
        return _tensors(columns)
    # In a data frame NaN is what stands for a text that is missing.
    frame = hasattr(sample, "iloc")
    typed = [_column(column, f"column {name!r}", frame) for name, column in columns.items()]
    features = [
        Feature(name, dtype, missing=missing)
        for name, (_, dtype, missing) in zip(columns, typed, strict=True)
    ]
    if len({feature.dtype for feature in features}) == 1 and features[0].dtype != "str":
        return "matrix", features, np.column_stack([column for column, _, _ in typed])
    return "table", features, _rows_of([column for column, _, _ in typed])


def _tensors(
    columns: Mapping[str, NDArray[Any]],
) -> tuple[Layout, list[Feature], NDArray[Any]]:
    if len(columns) == 1:
        return _table_of_array(next(iter(columns.values())), None)
    features = [
        Feature(name, _dtype_name(column, f"input {name!r}"), list(column.shape[1:]))
        for name, column in columns.items()
    ]
    rows = np.empty((len(next(iter(columns.values()))), len(columns)), dtype=object)
    for at, column in enumerate(columns.values()):
        for number, cell in enumerate(column):
            rows[number, at] = np.asarray(cell)
    return "tensors", features, rows


def _rows_of(columns: Sequence[NDArray[Any]]) -> NDArray[Any]:
    rows = np.empty((len(columns[0]), len(columns)), dtype=object)
    for at, column in enumerate(columns):
        rows[:, at] = column.tolist()
    return rows


def _column(
    values: NDArray[Any], where: str, frame: bool
) -> tuple[NDArray[Any], str, Literal["nan"] | msgspec.UnsetType]:
    """The column with missing values in one form, its dtype, and that form for texts."""
    if values.dtype.kind != "O":
        return values, _dtype_name(values, where), msgspec.UNSET
    holes = np.array([_is_missing(value) for value in values.tolist()], dtype=bool)
    dtype = _dtype_name(np.asarray(values[~holes].tolist()), where)
    if dtype != "str":
        if not holes.any():
            return values.astype(DTYPES[dtype]), dtype, msgspec.UNSET
        filled = np.full(len(values), math.nan)
        filled[~holes] = values[~holes].astype(np.float64)
        return filled, "float64", msgspec.UNSET
    kept = any(value is None for value in values.tolist())
    as_nan = not kept and (frame or bool(holes.any()))
    filled = values.copy()
    filled[holes] = math.nan if as_nan else None
    return filled, "str", "nan" if as_nan else msgspec.UNSET


def _is_missing(value: Any) -> bool:
    # pandas' own mark is not equal to anything, itself included, nor unequal.
    return (
        value is None
        or (isinstance(value, float) and math.isnan(value))
        or type(value).__name__ in ("NAType", "NaTType")
    )


def _table_of_array(
    sample: Any, names: Sequence[str] | None
) -> tuple[Layout, list[Feature], NDArray[Any]]:
    if hasattr(sample, "toarray"):
        sample = sample.toarray()
    try:
        rows = np.asarray(sample)
    except ValueError as problem:
        raise PackageError(f"sample: rows are not of one length ({problem})") from None
    if rows.size == 0:
        raise PackageError("sample: no rows")
    if rows.ndim == 1:
        if rows.dtype.kind not in "OU":
            raise PackageError("sample: one row is not enough; give a 2-D array, e.g. X[:100]")
        column = np.empty((len(rows), 1), dtype=object)
        column[:, 0] = rows.tolist()
        return "series", [Feature((names or ["text"])[0], "str")], column
    if names is not None and len(names) != rows.shape[1]:
        raise PackageError(f"feature_names: {len(names)} for {rows.shape[1]} columns")
    if rows.dtype.kind in "OU":
        titles = (
            [str(name) for name in names]
            if names is not None
            else [f"column_{n}" for n in range(rows.shape[1])]
        )
        if rows.ndim != 2:
            raise PackageError(f"sample: shape {list(rows.shape)}, expected rows and columns")
        rows = rows.astype(object)
        typed = [_column(rows[:, at], titles[at], frame=False) for at in range(rows.shape[1])]
        features = [
            Feature(title, dtype, missing=missing)
            for title, (_, dtype, missing) in zip(titles, typed, strict=True)
        ]
        return "table", features, _rows_of([column for column, _, _ in typed])
    dtype = _dtype_name(rows, "sample")
    rows = rows.astype(DTYPES[dtype])
    if names is not None and rows.ndim == 2:
        return "matrix", [Feature(str(name), dtype) for name in names], rows
    return "matrix", [Feature("row", dtype, list(rows.shape[1:]))], rows


def _dtype_name(values: NDArray[Any], where: str) -> str:
    kind = values.dtype.kind
    if kind in "OUT" or (kind == "f" and values.size == 0):
        return "str"
    by_kind = {
        "f": "float32" if values.dtype.itemsize <= 4 else "float64",
        "i": "int64",
        "u": "int64",
        "b": "bool",
    }
    if values.dtype in (np.uint8, np.int32):
        return values.dtype.name
    if kind not in by_kind:
        raise PackageError(
            f"{where}: dtype {values.dtype} is not served; give numbers, truth values or texts"
        )
    return by_kind[kind]
