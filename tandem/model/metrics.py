"""What a model does on held-out rows: metrics, confusion, calibration, speed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tandem.errors import PackageError
from tandem.model.package import HeldOut, Manifest

RESAMPLES = 1000
LIMIT = 100
"""Labels up to which a confusion matrix is made: more is nothing that a person could look at."""
BINS = 10

_CLASSES = ("accuracy", "balanced_accuracy", "f1_macro", "log_loss")
_NUMBERS = ("r2", "mae", "rmse")
SHARES = ("accuracy", "balanced_accuracy", "f1_macro")
"""Metrics that are a share of the rows, or a mean of such shares."""
_LOWER = ("log_loss", "mae", "rmse")


class Bin(msgspec.Struct, frozen=True):
    """The answers whose probability is in one tenth: its mean, the share right."""

    claimed: float
    right: float
    rows: int


class Speed(msgspec.Struct, frozen=True):
    """Microseconds for the answer to one row: the median of many."""

    onnx: float | None = None
    sklearn: float | None = None


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What a model did on `rows` held-out rows, and the champion on the same.

    `confusion[true][answered]` counts rows in the order of `labels`; empty for a regression, and
    where there are more than `LIMIT` labels.
    """

    rows: int = 0
    whose: str = ""
    """Who chose these rows."""
    metrics: dict[str, float] = {}
    champion: dict[str, float] = {}
    labels: list[str] = []
    confusion: list[list[int]] = []
    calibration: list[Bin] = []
    speed: Speed | None = None

    def is_whole(self) -> bool:
        """Whether its parts fit together, for one that somebody else wrote."""
        sides = {len(self.confusion), *map(len, self.confusion)}
        return (
            (not self.confusion or sides == {len(self.labels)})
            and len(self.labels) <= LIMIT
            and len(self.calibration) <= BINS
        )


def lower_is_better(metric: str) -> bool:
    """Whether the metric is an error."""
    return metric in _LOWER


def check_metric(metric: str) -> str:
    """The metric, if it can be measured here; raises `PackageError`."""
    if metric not in _CLASSES + _NUMBERS:
        raise PackageError(f"metric {metric!r}: expected one of {', '.join(_CLASSES + _NUMBERS)}")
    return metric


def evaluate(manifest: Manifest, held_out: HeldOut, answers: NDArray[Any]) -> Measured:
    """Metrics, confusion and calibration of `answers` (rows x labels, or values).

    Raises `PackageError` and `ValueError` for answers that do not fit the rows.
    """
    measured = Measured(rows=len(answers), metrics=metrics_of(manifest, held_out, answers))
    if manifest.task != "classification":
        return measured
    truth = [str(value) for value in held_out.truth]
    labels = [*manifest.labels, *sorted({*truth} - {*manifest.labels})]
    at = {label: number for number, label in enumerate(labels)}
    real, answered = np.array([at[label] for label in truth]), answers.argmax(axis=1)
    return msgspec.structs.replace(
        measured,
        calibration=calibration(answers.max(axis=1), real == answered),
        **(
            {"labels": labels, "confusion": confusion(real, answered, len(labels))}
            if len(labels) <= LIMIT
            else {}
        ),
    )


def metrics_of(manifest: Manifest, held_out: HeldOut, answers: NDArray[Any]) -> dict[str, float]:
    """All metrics of the model's task."""
    truth = Truth(manifest, held_out)
    names = _CLASSES if truth.classes else _NUMBERS
    losses_by_row = truth.losses(manifest, answers, names[0])
    found = {name: metric_of(losses_by_row, name, None) for name in names}
    # One that overflowed tells nothing, and JSON has no word for it.
    return {name: round(value, 6) for name, value in found.items() if math.isfinite(value)}


def confusion(real: NDArray[Any], answered: NDArray[Any], labels: int) -> list[list[int]]:
    """Counts of rows by their label's number (rows) and the answered one (columns)."""
    table = np.zeros((labels, labels), dtype=int)
    np.add.at(table, (real, answered), 1)
    return [[int(count) for count in row] for row in table]


def calibration(claimed: NDArray[Any], right: NDArray[Any]) -> list[Bin]:
    """How often answers are right, by tenths of the probability that they claim.

    Empty tenths are left out.
    """
    claimed = np.clip(claimed, 0, 1)
    bins = np.clip((claimed * BINS).astype(int), 0, BINS - 1)
    return [
        Bin(
            claimed=round(float(claimed[bins == one].mean()), 6),
            right=round(float(right[bins == one].mean()), 6),
            rows=int(np.count_nonzero(bins == one)),
        )
        for one in np.unique(bins)
    ]


def microseconds(call: Callable[[], Any], *, times: int = 500, seconds: float = 0.25) -> float:
    """The median time of a call, after a first one, over `times` or `seconds` at most."""
    call()
    took: list[float] = []
    until = time.perf_counter() + seconds
    while len(took) < times and (not took or time.perf_counter() < until):
        started = time.perf_counter()
        call()
        took.append(time.perf_counter() - started)
    return round(float(np.median(took)) * 1e6, 1)


class Truth:
    """The right answers, as numbers that any model's answers can be compared with."""

    def __init__(self, manifest: Manifest, held_out: HeldOut) -> None:
        self.classes = manifest.task == "classification"
        self.labels = sorted({str(value) for value in held_out.truth}) if self.classes else []
        at = {label: number for number, label in enumerate(self.labels)}
        self.values = (
            np.array([at[str(value)] for value in held_out.truth])
            if self.classes
            else np.asarray(held_out.truth, dtype=np.float64)
        )

    def losses(
        self, manifest: Manifest, answers: NDArray[Any], metric: str
    ) -> tuple[NDArray[Any], ...]:
        """What the metric is made of, by row: truth, answer, the truth's probability."""
        if self.classes != (metric in _CLASSES):
            raise PackageError(f"{metric} does not measure a {manifest.task}")
        if not self.classes:
            return self.values, answers.reshape(self.values.shape)
        # By name: another version may have its labels in another order, or lack one.
        at = {label: number for number, label in enumerate(self.labels)}
        names = np.array([at.get(label, -1) for label in manifest.labels])
        chance = np.full(len(answers), 1e-15)
        column = {label: number for number, label in enumerate(manifest.labels)}
        for number, label in enumerate(self.labels):
            if label in column:
                of = self.values == number
                chance[of] = answers[of, column[label]]
        return self.values, names[answers.argmax(axis=1)], np.clip(chance, 1e-15, 1.0)


def resamples(rows: int) -> NDArray[Any]:
    """Row numbers to measure again on (resamples x rows), for intervals."""
    # Seeded: the same package gets the same verdict.
    return np.random.default_rng(0).integers(0, rows, size=(RESAMPLES, rows))


def metric_of(
    losses_by_row: tuple[NDArray[Any], ...], metric: str, picks: NDArray[Any] | None
) -> Any:
    """The metric on all rows, or on each resample of them.

    Resamples are paired: the same rows for every model.
    """
    if picks is None:
        return float(metric_of(losses_by_row, metric, np.arange(len(losses_by_row[0]))[None, :])[0])
    truth, answer = losses_by_row[0], losses_by_row[1]
    if metric == "accuracy":
        return (truth == answer)[picks].mean(axis=1)
    if metric == "log_loss":
        return -np.log(losses_by_row[2])[picks].mean(axis=1)
    if metric in ("balanced_accuracy", "f1_macro"):
        return np.mean(list(_per_class(truth, answer, picks, metric)), axis=0)
    error = (truth - answer).reshape(len(truth), -1)
    if metric == "mae":
        return np.abs(error).mean(axis=1)[picks].mean(axis=1)
    squared = (error**2).mean(axis=1)[picks].mean(axis=1)
    if metric == "rmse":
        return np.sqrt(squared)
    spread = truth.reshape(len(truth), -1)[picks].var(axis=1).mean(axis=1)
    return 1 - squared / np.maximum(spread, 1e-300)


def _per_class(truth: NDArray[Any], answer: NDArray[Any], picks: NDArray[Any], metric: str) -> Any:
    for number in np.unique(truth):
        real, answered = (truth == number)[picks], (answer == number)[picks]
        hits = (real & answered).sum(axis=1)
        if metric == "balanced_accuracy":
            yield hits / np.maximum(real.sum(axis=1), 1)
        else:
            yield 2 * hits / np.maximum(real.sum(axis=1) + answered.sum(axis=1), 1)
