"""Runtime `lightgbm`: trees in LightGBM's text, checked before they are loaded."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

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

NAME = "lightgbm"
FILE = "model.lightgbm.txt"
FILES: Mapping[str, int] = {FILE: MAX_TREES_FILE, SKOPS: MAX_MODEL}
SAME_VERSION: tuple[str, ...] = ()
NEEDED: tuple[str, ...] = ("lightgbm",)

_TREES_END = b"end of trees"


def open_model(
    folder: Path, manifest: Manifest, *, trusted: Iterable[str], threads: int
) -> NativePredictor:
    """The trees, after the steps before them; raises `PackageError`."""
    width = check_trees(folder / FILE)
    steps = steps_before(folder, trusted)
    check_width(FILE, width, manifest, steps)
    lightgbm = imported("lightgbm", FILE)
    try:
        booster = lightgbm.Booster(model_file=str(folder / FILE))
    except Exception as problem:  # noqa: BLE001 - whatever its library raises, it is refused
        raise PackageError(f"{FILE}: lightgbm refuses it: {one_line(problem)}") from None

    def ask(rows: Any) -> NDArray[Any]:
        return np.asarray(booster.predict(rows, num_threads=threads))

    return NativePredictor(NAME, manifest, steps, ask)


def handles(estimator: Any) -> bool:
    """Whether it is a model of this library's scikit-learn interface."""
    kinds = type(estimator).__mro__
    return any((k.__module__, k.__name__) == ("lightgbm.sklearn", "LGBMModel") for k in kinds)


def save(estimator: Any, folder: Path) -> None:
    """Write the trees that the estimator answers with; raises `PackageError`."""
    text = estimator.booster_.model_to_string()
    # What training was given has no use here, and names files of the machine that trained.
    text = re.sub(r"(?s)\nparameters:\n.*?\nend of parameters\n", "\n", text)
    (folder / FILE).write_bytes(text.encode())
    check_trees(folder / FILE)


def check_trees(path: Path) -> int:
    """Refuse a file whose trees point outside of themselves; raises `PackageError`.

    Returns how many columns they look at.
    """
    try:
        return _checked(path.read_bytes())
    except OSError as problem:
        raise PackageError(f"{path.name}: {problem.strerror}") from None
    except (LookupError, ValueError, OverflowError) as problem:
        raise PackageError(f"{FILE}: not a model of LightGBM's: {one_line(problem)}") from None


def _checked(data: bytes) -> int:
    head, *blocks = re.split(rb"(?m)^(?=Tree=)", data.partition(b"\n" + _TREES_END)[0] + b"\n")
    header = _fields(head)
    if not data.startswith(b"tree\n") or b"\n" + _TREES_END not in data:
        raise PackageError(f"{FILE}: not a model of LightGBM's")
    width = int(header[b"max_feature_idx"]) + 1
    classes, at_once = int(header[b"num_class"]), int(header[b"num_tree_per_iteration"])
    if not (0 < width < 2**31 and 0 < classes <= MAX_LABELS and at_once == classes):
        raise PackageError(f"{FILE}: {classes} classes, {at_once} trees a round, {width} columns")
    # Its library writes as many numbers a row as the objective says, and has room for as many as
    # there are classes.
    for token in header.get(b"objective", b"").split():
        if token.startswith(b"num_class:") and int(token.partition(b":")[2]) != classes:
            raise PackageError(f"{FILE}: its objective has another number of classes")
    # By these its library cuts the file, wherever that is.
    sizes = [int(size) for size in header.get(b"tree_sizes", b"").split()]
    if sizes != [len(block) for block in blocks] or len(blocks) % at_once:
        raise PackageError(f"{FILE}: its trees are of other sizes than it states")
    for name in (b"feature_names", b"feature_infos"):
        if len(header[name].split()) != width:
            raise PackageError(f"{FILE}: {name.decode()} of another number of columns")
    if re.search(rb"(?m)^pandas_categorical:(?!null|\[\])", data):
        raise PackageError(_CATEGORIES)
    check = Trees(FILE, width)
    for number, block in enumerate(blocks):
        _check_tree(check, number, _fields(block))
    return width


_CATEGORIES = f"{FILE}: categories are not supported; encode them, in a Pipeline say, and fit again"


def _check_tree(check: Trees, number: int, tree: Mapping[bytes, bytes]) -> None:
    leaves = int(tree[b"num_leaves"])
    if int(tree[b"num_cat"]):
        raise PackageError(_CATEGORIES)
    if tree.get(b"is_linear", b"0") != b"0":
        raise PackageError(f"{FILE}: linear trees are not supported")
    if len(tree[b"leaf_value"].split()) != leaves or leaves < 1:
        raise PackageError(f"{FILE}: tree {number} has lists of different lengths")
    inner = leaves - 1
    names = (b"left_child", b"right_child", b"split_feature", b"decision_type")
    left, right, column, decision = (_integers(tree.get(name, b"")) for name in names)
    if {len(left), len(decision), len(tree.get(b"threshold", b"").split())} != {inner}:
        raise PackageError(f"{FILE}: tree {number} has lists of different lengths")
    if np.any(decision & 1):
        raise PackageError(_CATEGORIES)
    check.check(number, left, right, column, leaves)


def _fields(text: bytes) -> dict[bytes, bytes]:
    """The `name=value` lines; raises ValueError where a name is there twice."""
    pairs = [line.partition(b"=") for line in text.split(b"\n") if b"=" in line]
    fields = {name: value for name, _, value in pairs}
    if len(fields) != len(pairs):
        raise ValueError("a field is there twice")
    return fields


def _integers(text: bytes) -> NDArray[np.int64]:
    return np.array([int(number) for number in text.split()], dtype=np.int64)
