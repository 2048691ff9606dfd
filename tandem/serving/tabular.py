"""What an app's code hands in (arrays, frames, dicts, lists) as rows of the model."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from tandem.serving.model import Model
from tandem.serving.problems import Problem


def as_rows(given: Any, model: Model) -> list[Any]:
    """Rows as `Model.rows` takes them; a single row makes a list of one.

    Takes a numpy array (rows by features, or one row), a pandas DataFrame or Series (columns by
    name, in any order; others are left out), a mapping or a list of mappings by feature, a list of
    rows, or one row. Raises Problem (422).
    """
    pandas = sys.modules.get("pandas")  # whoever hands in a frame has imported it
    if pandas is not None and isinstance(given, pandas.DataFrame):
        given = _of_frame(given, model)
    elif pandas is not None and isinstance(given, pandas.Series):
        named = set(model.names) <= set(given.index)
        given = given[model.names].to_dict() if named else given.tolist()
    if isinstance(given, np.ndarray):
        given = given.tolist()
    if isinstance(given, str | Mapping):
        given = [given]
    elif isinstance(given, Iterable):
        given = list(given)
        if given and _is_one_row(given, model):
            given = [given]
    else:
        given = [[given]]
    if not given:
        raise Problem(422, "There is nothing to score: the list is empty.")
    return [_plain(row, model) for row in given]


def _of_frame(frame: Any, model: Model) -> list[Any]:
    if missing := [name for name in model.names if name not in frame.columns]:
        if len(frame.columns) != model.width:
            raise Problem(422, f"The frame lacks the column {missing[0]!r}.")
        columns = frame
    else:
        columns = frame[model.names]
    rows: list[Any] = columns.to_numpy(dtype=object).tolist()
    return rows


def _is_one_row(given: list[Any], model: Model) -> bool:
    """Whether these are the values of one row, and not rows."""
    first = given[0]
    if isinstance(first, Mapping):
        return False
    if model.manifest.layout == "series":
        return False
    depth = max(1, len(model.features[0].shape)) if len(model.features) == 1 else 1
    for _ in range(depth):
        if isinstance(first, np.ndarray):
            first = first.tolist()
        if not isinstance(first, list | tuple):
            return True
        first = first[0] if first else None
    return False


def _plain(row: Any, model: Model) -> Any:
    """A row of Python's own values: a dict, text or list; NaN is a missing value."""
    if isinstance(row, Mapping):
        return {name: _value(row[name]) for name in row}
    if isinstance(row, str):
        return row
    if isinstance(row, np.ndarray):
        row = row.tolist()
    if not isinstance(row, Iterable):
        return [_value(row)]
    return [_value(value) for value in row]


def _value(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, list | tuple):
        return [_value(part) for part in value]
    # The one test that holds for NaN, pandas.NaT and no other value.
    if isinstance(value, float) and value != value:
        return None
    return value
