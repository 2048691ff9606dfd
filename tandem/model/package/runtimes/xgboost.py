"""Runtime `xgboost`: trees in XGBoost's own JSON, checked before they are loaded."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tandem.errors import PackageError, one_line
from tandem.model.package.format import MAX_LABELS, MAX_MODEL, SKOPS, Manifest
from tandem.model.package.runtimes.native import (
    MAX_TREES_FILE,
    NativePredictor,
    Trees,
    check_width,
    imported,
    steps_before,
)

NAME = "xgboost"
FILE = "model.xgboost.json"
FILES: Mapping[str, int] = {FILE: MAX_TREES_FILE, SKOPS: MAX_MODEL}
SAME_VERSION: tuple[str, ...] = ()
NEEDED: tuple[str, ...] = ("xgboost", "xgboost-cpu")


def open_model(
    folder: Path, manifest: Manifest, *, trusted: Iterable[str], threads: int
) -> NativePredictor:
    """The trees, after the steps before them; raises `PackageError`."""
    width, thread_safe = check_trees(folder / FILE)
    steps = steps_before(folder, trusted)
    check_width(FILE, width, manifest, steps)
    xgboost = imported("xgboost", FILE)
    booster = xgboost.Booster()
    try:
        booster.load_model(str(folder / FILE))
        booster.set_param({"nthread": threads, "verbosity": 0})
    except Exception as problem:  # noqa: BLE001 - whatever its library raises, it is refused
        raise PackageError(f"{FILE}: xgboost refuses it: {one_line(problem)}") from None
    # Dropped trees are weighed in a buffer that all share.
    turn: Any = contextlib.nullcontext() if thread_safe else threading.Lock()

    def ask(rows: Any) -> NDArray[Any]:
        with turn:
            return np.asarray(booster.inplace_predict(rows, validate_features=False))

    return NativePredictor(NAME, manifest, steps, ask)


def handles(estimator: Any) -> bool:
    """Whether it is a model of this library's scikit-learn interface."""
    kinds = type(estimator).__mro__
    return any((k.__module__, k.__name__) == ("xgboost.sklearn", "XGBModel") for k in kinds)


def save(estimator: Any, folder: Path) -> None:
    """Write the trees that the estimator answers with; raises `PackageError`."""
    if not np.isnan(estimator.missing):
        raise PackageError(
            f"missing={estimator.missing}: expected NaN; mark missing numbers as NaN, and fit again"
        )
    booster = estimator.get_booster()
    best = booster.attr("best_iteration")
    booster = booster[: int(best) + 1] if best is not None else booster.copy()
    booster.feature_names = None
    booster.feature_types = None
    booster.save_model(str(folder / FILE))
    check_trees(folder / FILE)


def check_trees(path: Path) -> tuple[int, bool]:
    """Refuse a file whose trees point outside of themselves; raises `PackageError`.

    Returns how many columns they look at, and whether several threads may ask at once.
    """
    try:
        model = msgspec.json.decode(path.read_bytes())
        return _checked(model["learner"])
    except OSError as problem:
        raise PackageError(f"{path.name}: {problem.strerror}") from None
    except PackageError:
        raise
    except (msgspec.MsgspecError, LookupError, TypeError, ValueError, AttributeError) as problem:
        raise PackageError(f"{FILE}: not a model of XGBoost's: {one_line(problem)}") from None
    except (RecursionError, OverflowError):
        raise PackageError(f"{FILE}: not a model of XGBoost's") from None


def _checked(learner: Any) -> tuple[int, bool]:
    booster = learner["gradient_booster"]
    kind = booster["name"]
    if kind not in ("gbtree", "dart"):
        raise PackageError(f"{FILE}: booster {str(kind)[:40]!r} is not supported, expected gbtree")
    model = booster["gbtree"]["model"] if kind == "dart" else booster["model"]
    shape = learner["learner_model_param"]
    width = int(shape["num_feature"])
    groups = max(1, int(shape.get("num_class", 0)), int(shape.get("num_target", 1)))
    trees, of_group = model["trees"], _integers(model["tree_info"])
    if groups > MAX_LABELS or not 0 < width < 2**31:
        raise PackageError(f"{FILE}: {groups} classes and {width} columns")
    _check_outputs(learner, groups)
    if any(model.get("cats", {}).values()):
        raise PackageError(_CATEGORIES)
    if not len(trees) == len(of_group) == int(model["gbtree_model_param"]["num_trees"]):
        raise PackageError(f"{FILE}: {len(trees)} trees, another number than it states")
    if np.any((of_group < 0) | (of_group >= groups)):
        raise PackageError(f"{FILE}: a tree of a class that is not there")
    rounds = model.get("iteration_indptr")
    if rounds is not None:
        ends = _integers(rounds)
        if not len(ends) or ends[0] != 0 or ends[-1] != len(trees) or np.any(np.diff(ends) < 0):
            raise PackageError(f"{FILE}: its rounds are not of its trees")
    if kind == "dart" and len(booster["weight_drop"]) != len(trees):
        raise PackageError(f"{FILE}: {len(booster['weight_drop'])} weights for {len(trees)} trees")
    check = Trees(FILE, width)
    for number, tree in enumerate(trees):
        _check_tree(check, number, tree)
    return width, kind == "gbtree"


def _check_outputs(learner: Any, groups: int) -> None:
    """What is written for each row is as long as the classes are: compiled code counts on it."""
    start = msgspec.json.decode(learner["learner_model_param"]["base_score"])
    if isinstance(start, list) and len(start) not in (1, groups):
        raise PackageError(f"{FILE}: {len(start)} values to start from for {groups} classes")
    for parameters in learner["objective"].values():
        if isinstance(parameters, dict) and int(parameters.get("num_class", 0)) not in (0, groups):
            raise PackageError(f"{FILE}: its objective has another number of classes")


_NO_PARENT = 2**31 - 1
_CATEGORIES = f"{FILE}: categories are not supported; encode them, in a Pipeline say, and fit again"
_LISTS = (
    *("base_weights", "default_left", "loss_changes", "parents"),
    *("split_conditions", "split_type", "sum_hessian"),
)


def _check_tree(check: Trees, number: int, tree: Any) -> None:
    if np.any(_integers(tree["split_type"])) or any(
        tree[name] for name in tree if name.startswith("categories")
    ):
        raise PackageError(_CATEGORIES)
    size = tree["tree_param"]
    if int(size.get("size_leaf_vector", 1)) > 1:
        raise PackageError(f"{FILE}: trees with several targets in a leaf are not supported")
    left, right = _integers(tree["left_children"]), _integers(tree["right_children"])
    column = _integers(tree["split_indices"])
    parents = _integers(tree["parents"])
    lengths = {len(tree[name]) for name in _LISTS}
    if lengths != {len(left)} or int(size["num_nodes"]) != len(left):
        raise PackageError(f"{FILE}: tree {number} has lists of different lengths")
    if int(size["num_feature"]) != check.width:
        raise PackageError(f"{FILE}: tree {number} is of another number of columns")
    if np.any((parents < 0) | ((parents >= len(left)) & (parents != _NO_PARENT))):
        raise PackageError(f"{FILE}: tree {number} points outside of itself")
    check.check(number, left, right, column)


def _integers(values: Any) -> NDArray[np.int64]:
    array = np.asarray(values)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iub"):
        raise ValueError("a list of integers was expected")
    return array.astype(np.int64)
