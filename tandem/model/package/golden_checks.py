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
    told = predictions_of(manifest, answers if classifies or width > 1 else answers[:, 0])
    for number, (want, got) in enumerate(zip(told, golden.predictions, strict=True)):
        if problem := _contradiction(manifest, golden.answers[number], want, got):
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
    manifest: Manifest, answer: Sequence[float], want: Prediction, got: Prediction
) -> str:
    if manifest.task == "regression":
        if got.labels or got.probabilities or not _same(want.value, got.value):
            return f"value {str(got.value)[:60]}, the answer is {str(want.value)[:60]}"
        return ""
    if got.value is not None or not len(want.labels) == len(got.labels) == len(got.probabilities):
        return (
            f"{len(got.labels)} labels with {len(got.probabilities)} probabilities, "
            f"expected the best {len(want.labels)}"
        )
    if len(set(got.labels)) != len(got.labels):
        return f"labels {got.labels}: one is there twice"
    place = {label: at for at, label in enumerate(manifest.labels)}
    for label, given, best in zip(got.labels, got.probabilities, want.probabilities, strict=True):
        # Equally probable labels may stand in any order.
        if label not in place or not _same(answer[place[label]], best):
            return f"labels {got.labels}, the best are {want.labels}"
        if not _same(given, best):
            return f"{label!r} with probability {given}, the answer is {best}"
    return ""


def _same(one: float | list[float] | None, other: float | list[float] | None) -> bool:
    if isinstance(one, list) or isinstance(other, list):
        return (
            isinstance(one, list)
            and isinstance(other, list)
            and len(one) == len(other)
            and all(map(_same, one, other))
        )
    if one is None or other is None:
        return one is other
    return abs(one - other) <= _SAME * max(1.0, abs(one))
