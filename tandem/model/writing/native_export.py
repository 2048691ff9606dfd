"""Boosted trees in their own format, with the steps of a pipeline before them in skops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tandem.errors import PackageError
from tandem.model.package import SKOPS, TRUSTED, Manifest, library_versions
from tandem.model.package.fitted import check_fitted
from tandem.model.package.runtimes import NATIVE, NativeRuntime
from tandem.model.writing.draft import TOLERANCE, scale
from tandem.model.writing.skops_export import dump_skops


def native_of(estimator: Any) -> tuple[NativeRuntime, Any, Any] | None:
    """The runtime, the steps before (or None) and the trees; None for other models."""
    steps, trees = None, estimator
    if type(estimator).__name__ == "Pipeline":
        steps, trees = (estimator[:-1] if len(estimator) > 1 else None), estimator[-1]
    for runtime in NATIVE:
        if runtime.handles(trees):
            return runtime, steps, trees
    return None


def export(
    folder: Path,
    native: tuple[NativeRuntime, Any, Any],
    manifest: Manifest,
    rows: NDArray[Any],
    answers: NDArray[Any],
    trust: tuple[str, ...],
) -> Manifest:
    """Write the files, and see that they answer as the estimator.

    Raises `PackageError`.
    """
    runtime, steps, trees = native
    runtime.save(trees, folder)
    if steps is not None:
        check_fitted(steps, SKOPS)
        dump_skops(steps, folder / SKOPS)
    manifest = msgspec.structs.replace(
        manifest,
        runtime=runtime.NAME,
        runtime_reason=f"its own format, and its own answers on {len(rows)} rows",
        probabilities="predict_proba" if manifest.task == "classification" else "none",
        libraries=manifest.libraries | library_versions(*runtime.NEEDED),
    )
    predictor = runtime.open_model(folder, manifest, trusted=TRUSTED.union(trust), threads=1)
    given = predictor.predict(rows)
    if given.shape != answers.shape:
        raise PackageError(
            f"{runtime.FILE}: answers {list(given.shape)}, the estimator {list(answers.shape)}; "
            "an objective with probabilities is needed, as binary:logistic"
        )
    worst = float(np.max(np.abs(given - answers) / scale(manifest, answers), initial=0.0))
    if not worst <= TOLERANCE:
        raise PackageError(
            f"{runtime.FILE}: answers differ from the estimator's by up to {worst:.2g}; publish it "
            "as ONNX"
        )
    return manifest
