"""What runtimes of boosted trees share: steps before them, checks of one tree."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tandem.errors import PackageError, one_line
from tandem.model.package.format import SKOPS, Manifest
from tandem.model.package.runtimes.answers import flat
from tandem.model.package.skops_file import load_skops

MAX_TREES_FILE = 2**29
"""Bytes: a thousand deep trees are some ten million."""


class NativePredictor:
    """Answers with `ask`, the trees' own library, after a pipeline's other steps."""

    def __init__(
        self,
        runtime: str,
        manifest: Manifest,
        steps: Any,
        ask: Callable[[Any], NDArray[Any]],
    ) -> None:
        self.runtime = runtime
        self._manifest = manifest
        self._steps = steps
        self._ask = ask

    def predict(self, rows: Any) -> NDArray[Any]:
        """Probabilities (rows x labels) or values."""
        if self._steps is not None:
            rows = rows[:, 0] if self._manifest.layout == "series" else rows
            rows = self._steps.transform(rows)
        elif rows.dtype.kind == "O":
            rows = rows.astype(np.float64)
        answers = np.asarray(self._ask(rows), dtype=np.float64)
        if self._manifest.task == "regression":
            return np.asarray(flat(answers))
        if answers.ndim == 1:
            # Of two classes there is one number, the second's.
            return np.stack([1 - answers, answers], axis=1)
        return answers


def steps_before(folder: Path, trusted: Iterable[str]) -> Any:
    """The steps before the trees, where the package has some; raises `PackageError`."""
    path = folder / SKOPS
    return load_skops(path, trusted) if path.exists() else None


def check_width(name: str, width: int, manifest: Manifest, steps: Any) -> None:
    """Refuse trees of another number of columns than the rows have.

    Steps before them may change that number. Raises `PackageError`.
    """
    columns = sum(int(np.prod(feature.shape or [1])) for feature in manifest.features)
    if steps is None and width != columns:
        raise PackageError(f"{name}: trees of {width} columns for {columns} features")


def imported(library: str, file: str) -> Any:
    """The library's module; raises `PackageError` that says what is missing."""
    import importlib

    try:
        return importlib.import_module(library)
    except ImportError as problem:
        raise PackageError(
            f"{file}: needs {library}; add it to the application's requirements "
            f"({one_line(problem)})"
        ) from None


class Trees:
    """Checks of one tree's arrays: compiled code follows them without looking."""

    def __init__(self, name: str, width: int) -> None:
        self.name = name
        self.width = width

    def check(
        self,
        number: int,
        left: NDArray[np.int64],
        right: NDArray[np.int64],
        column: NDArray[np.int64],
        leaves: int | None = None,
    ) -> None:
        """Children come after their parents and are there, and columns are there.

        With `leaves` a negative child is a leaf, numbered from -1 down; without, -1 is none and a
        leaf is a node. Raises `PackageError`.
        """
        count = len(left)
        if not len(right) == len(column) == count or (leaves is None and not count):
            raise PackageError(f"{self.name}: tree {number} has lists of different lengths")
        places = np.arange(count)
        inner = np.ones(count, dtype=bool) if leaves is not None else left != -1
        fits = leaves is not None or bool(np.array_equal(inner, right != -1))
        for child in (left, right):
            there = (child > places) & (child < count)
            if leaves is not None:
                there |= (child < 0) & (~child < leaves)
            fits = fits and bool(np.all(there[inner]))
        fits = fits and bool(np.all((column[inner] >= 0) & (column[inner] < self.width)))
        if not fits:
            raise PackageError(f"{self.name}: tree {number} points outside of itself")
