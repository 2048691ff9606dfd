"""Golden answers that agree with the manifest and with themselves, or are refused."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tandem.errors import PackageError
from tandem.model.package.format import (
    GOLDEN,
    MAX_GOLDEN_ROWS,
    MAX_LABELS,
    MAX_TOLERANCE,
    Golden,
    Manifest,
    Prediction,
)
from tandem.model.package.rows import check_rows, predictions_of

_SAME = 1e-6
"""How far a recorded prediction may be from the recorded answer: they are one number, and a writer
may have rounded one of them.
"""


def check_golden_agrees(manifest: Manifest, golden: Golden) -> None:
    """Refuse golden answers that disagree with the manifest or with themselves.

    And a tolerance that would let anything pass. Raises `PackageError`.
    """
    if not len(golden.inputs) == len(golden.answers) == len(golden.predictions):
        raise PackageError(f"{GOLDEN}: inputs, answers and predictions are not of one length")
    if not 1 <= len(golden.inputs) <= MAX_GOLDEN_ROWS:
        raise PackageError(f"{GOLDEN}: {len(golden.inputs)} rows, expected 1 to {MAX_GOLDEN_ROWS}")
    check_rows(manifest, golden.inputs)
    classifies = manifest.task == "classification"
    width = len(manifest.labels) if classifies else len(golden.answers[0])
    if not 1 <= width <= MAX_LABELS:
        raise PackageError(f"{GOLDEN}: answers of {width} values, expected 1 to {MAX_LABELS}")
    for number, answer in enumerate(golden.answers):
        if len(answer) != width:
            wanted = f"{width} labels" if classifies else f"{width} in the first"
            raise PackageError(f"{GOLDEN}: answer {number} has {len(answer)} numbers for {wanted}")
        if not all(map(math.isfinite, answer)):
            raise PackageError(f"{GOLDEN}: answer {number} is not finite")
    _check_tolerance(manifest, golden)
    if classifies:
        _check_probabilities(golden)
    # What the service would make of these answers; one target alone is a number there, not a list.
    answers = np.asarray(golden.answers, dtype=np.float64)
    expected = predictions_of(manifest, answers if classifies or width > 1 else answers[:, 0])
    for number, (right, recorded) in enumerate(zip(expected, golden.predictions, strict=True)):
        if problem := _contradiction(manifest, golden.answers[number], right, recorded):
            raise PackageError(f"{GOLDEN}: prediction {number} contradicts its answer: {problem}")


def _check_tolerance(manifest: Manifest, golden: Golden) -> None:
    allowed = MAX_TOLERANCE
    if manifest.task == "regression":
        # As it is written: relative to the largest answer, of which a zero still has one.
        allowed *= max(abs(value) for answer in golden.answers for value in answer) + 1e-12
    if not 0 <= golden.tolerance <= allowed:
        raise PackageError(
            f"{GOLDEN}: tolerance {golden.tolerance:g}, expected 0 to {allowed:g}: what is "
            "recorded is what the model answers"
        )


def _check_probabilities(golden: Golden) -> None:
    # As when they were written. A tolerance says something about probabilities alone.
    for number, answer in enumerate(golden.answers):
        if min(answer) < -1e-3 or abs(sum(answer) - 1) > 1e-2:
            raise PackageError(
                f"{GOLDEN}: answer {number} is not made of probabilities: they are below 0, or do "
                "not sum to 1"
            )


def _contradiction(
    manifest: Manifest, answer: Sequence[float], right: Prediction, recorded: Prediction
) -> str:
    if manifest.task == "regression":
        if recorded.labels or recorded.probabilities or not _same(right.value, recorded.value):
            return f"value {str(recorded.value)[:60]}, the answer is {str(right.value)[:60]}"
        return ""
    if recorded.value is not None or not len(right.labels) == len(recorded.labels) == len(
        recorded.probabilities
    ):
        return (
            f"{len(recorded.labels)} labels with {len(recorded.probabilities)} probabilities, "
            f"expected the best {len(right.labels)}"
        )
    if len(set(recorded.labels)) != len(recorded.labels):
        return f"labels {recorded.labels}: one is there twice"
    place = {label: at for at, label in enumerate(manifest.labels)}
    for label, given, best in zip(
        recorded.labels, recorded.probabilities, right.probabilities, strict=True
    ):
        # Equally probable labels may stand in any order.
        if label not in place or not _same(answer[place[label]], best):
            return f"labels {recorded.labels}, the best are {right.labels}"
        if not _same(given, best):
            return f"{label!r} with probability {given}, the answer is {best}"
    return ""


def _same(first: float | list[float] | None, other: float | list[float] | None) -> bool:
    if isinstance(first, list) or isinstance(other, list):
        return (
            isinstance(first, list)
            and isinstance(other, list)
            and len(first) == len(other)
            and all(map(_same, first, other))
        )
    if first is None or other is None:
        return first is other
    return abs(first - other) <= _SAME * max(1.0, abs(first))
