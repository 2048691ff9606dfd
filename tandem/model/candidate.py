"""A package with its predictors opened: whether it loads safely, and answers as recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tandem.errors import PackageError
from tandem.model import package as packages
from tandem.model.judge_job import Check
from tandem.model.metrics import (
    Speed,
    microseconds,
)
from tandem.model.package import Manifest, Package


class Candidate:
    """A package with its predictors opened."""

    def __init__(
        self,
        package: Package,
        lock: Mapping[str, str] | None,
        *,
        trust: Sequence[str] = (),
        twice: bool = True,
    ) -> None:
        self.package = package
        self.manifest: Manifest = package.manifest
        packages.check_libraries(self.manifest, lock)
        trusted = packages.TRUSTED.union(trust)
        self.predictor = packages.open_predictor(package, trusted=trusted)
        self.other = None
        self.why_no_other = ""
        if twice and self.predictor.runtime == "onnx" and package.has(packages.SKOPS):
            try:
                estimator_needs = msgspec.structs.replace(self.manifest, runtime="sklearn")
                packages.check_libraries(estimator_needs, None)
            except PackageError as problem:
                self.why_no_other = str(problem)
            else:
                self.other = packages.open_predictor(package, runtime="sklearn", trusted=trusted)

    def answers(self, rows: NDArray[Any]) -> NDArray[Any]:
        """The predictor's answers, of the right shape and finite; raises `PackageError`."""
        return checked(self.manifest, self.predictor.predict(rows), len(rows))

    def loads(self, rows: NDArray[Any]) -> Check:
        """The check `loads_safely`, after one row was answered; raises `PackageError`."""
        self.answers(rows[:1])
        files = ", ".join(f"{file.path} {file.size} bytes" for file in self.manifest.files)
        held = (
            "the estimator holds only trusted types"
            if self.other is not None or self.predictor.runtime == "sklearn"
            else f"no estimator was opened ({self.why_no_other or 'there is none'})"
        )
        return Check(
            "loads_safely",
            True,
            f"every sha256 holds, {held}; answered by {self.predictor.runtime}",
            {"files": files, "libraries": dict(self.manifest.libraries)},
        )

    def speed(self, row: NDArray[Any]) -> Speed:
        """How long one row takes, as it would be served and as the estimator."""
        microseconds_taken = {
            self.predictor.runtime: microseconds(lambda: self.predictor.predict(row))
        }
        if (other := self.other) is not None:
            microseconds_taken[other.runtime] = microseconds(lambda: other.predict(row))
        return Speed(onnx=microseconds_taken.get("onnx"), sklearn=microseconds_taken.get("sklearn"))

    def matches(
        self,
        rows: NDArray[Any],
        recorded: NDArray[Any],
        tolerance: float,
        more: NDArray[Any] | None,
    ) -> Check:
        """The check `answers_match`: as recorded, and ONNX as scikit-learn.

        `more` are held-out rows, on which both are compared too.
        """
        try:
            given = self.answers(rows)
            worst = _difference(given, recorded.reshape(given.shape))
            compared = len(rows)
            if self.other is not None:
                if more is not None:
                    rows = np.concatenate([rows, more])
                    given = self.answers(rows)
                theirs = checked(self.manifest, self.other.predict(rows), len(rows))
                worst = max(worst, _difference(given, theirs))
                compared = len(rows)
        except (PackageError, ValueError) as problem:
            return Check("answers_match", False, f"does not answer its golden rows: {problem}")
        passed = worst <= tolerance
        how = "ONNX as scikit-learn, and both as recorded" if self.other else "as recorded"
        text = f"{compared} rows answered {how}, largest difference {worst:.1e}"
        if not passed:
            text = f"answers differ by {worst:.2g}, more than {tolerance:.2g}, on {compared} rows"
        if self.why_no_other:
            text += f" (ONNX alone: {self.why_no_other})"
        details = {"rows": compared, "difference": worst, "tolerance": tolerance}
        return Check("answers_match", passed, text, details)


def checked(manifest: Manifest, answers: NDArray[Any], rows: int) -> NDArray[Any]:
    """The answers as float64, of the manifest's shape; raises `PackageError`."""
    answers = np.asarray(answers, dtype=np.float64)
    if answers.shape[:1] != (rows,):
        raise PackageError(f"answers {list(answers.shape)} to {rows} rows")
    if manifest.task == "classification" and answers.shape != (rows, len(manifest.labels)):
        raise PackageError(f"answers {list(answers.shape)} for {len(manifest.labels)} labels")
    if not np.all(np.isfinite(answers)):
        raise PackageError("answers NaN or infinity")
    return answers


def _difference(one: NDArray[Any], other: NDArray[Any]) -> float:
    return float(np.max(np.abs(one - other), initial=0.0))


def same_rows(one: Candidate, other: Candidate) -> bool:
    """Whether both models take the same rows and have the same task."""
    ours, theirs = one.manifest, other.manifest
    return (
        ours.task == theirs.task
        and ours.layout == theirs.layout
        and _shapes(ours.features) == _shapes(theirs.features)
    )


def _shapes(features: Sequence[packages.Feature]) -> list[tuple[bool, list[int]]]:
    return [(feature.dtype == "str", feature.shape) for feature in features]
