"""An estimator as the image can load it: without pandas, processes and caches."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any


def portable(estimator: Any) -> Any:
    """The estimator, or a copy, as the image can load it.

    One that was fitted on a data frame takes columns by position: the image has no pandas. Nearest
    neighbours are searched one by one: their search trees cannot be checked after loading. What
    training had of processes, caches and progress is left behind.
    """
    if any(map(_left_behind, parts(estimator))) or _named(estimator):
        estimator = copy.deepcopy(estimator)
        for part in parts(estimator):
            part.__dict__.update(_left_behind(part))
    return _by_position(estimator)


def _left_behind(part: Any) -> dict[str, Any]:
    """Attributes that a service has no use for, and what they become."""
    held = part.__dict__
    changed: dict[str, Any] = {}
    if held.get("_tree") is not None:
        changed |= {"_tree": None, "_fit_method": "brute"}
    if held.get("n_jobs") not in (None, 1):
        changed["n_jobs"] = None
    if held.get("memory") is not None:
        changed["memory"] = None
    if held.get("verbose"):
        changed["verbose"] = type(held["verbose"])(0)
    if held.get("_stop_words_id") is not None:
        changed["_stop_words_id"] = None
    return changed


def _by_position(estimator: Any) -> Any:
    """Names of columns become their positions, wherever they were learned."""
    if not _named(estimator):
        return estimator
    for part in parts(estimator):
        names = part.__dict__.get("feature_names_in_")
        if names is not None and type(part).__name__ == "ColumnTransformer":
            at = {name: place for place, name in enumerate(names.tolist())}
            columns = [_places(item, at) for item in part._columns]
            part._columns = columns
            part.transformers = [
                (step[0], step[1], where)
                for step, where in zip(part.transformers, columns, strict=False)
            ]
            part.transformers_ = [
                (key, step, _places(where, at)) for key, step, where in part.transformers_
            ]
    for part in parts(estimator):
        part.__dict__.pop("feature_names_in_", None)
        part.__dict__.pop("_sklearn_output_config", None)
    return estimator


def _places(columns: Any, at: Mapping[str, int]) -> Any:
    if isinstance(columns, str):
        return at[columns]
    if isinstance(columns, slice):
        first = at[columns.start] if isinstance(columns.start, str) else columns.start
        last = at[columns.stop] + 1 if isinstance(columns.stop, str) else columns.stop
        return slice(first, last, columns.step)
    values = list(columns) if not isinstance(columns, slice) else []
    return [at[value] if isinstance(value, str) else value for value in values]


def _named(estimator: Any) -> bool:
    return any("feature_names_in_" in part.__dict__ for part in parts(estimator))


def parts(root: Any) -> list[Any]:
    """Every estimator in an estimator, itself included."""
    seen: dict[int, Any] = {}
    waiting = [root]
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        if isinstance(value, list | tuple):
            waiting.extend(value)
        elif isinstance(value, Mapping):
            waiting.extend(value.values())
        elif hasattr(value, "get_params") and not isinstance(value, type):
            seen[id(value)] = value
            waiting.extend(value.__dict__.values())
    return list(seen.values())
