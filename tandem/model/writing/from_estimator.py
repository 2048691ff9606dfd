"""The draft of a package, from a fitted scikit-learn estimator."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from tandem.errors import PackageError, one_line
from tandem.model.package import (
    ONNX,
    SKOPS,
    Manifest,
    Task,
    estimator_answers,
    library_versions,
)
from tandem.model.package.fitted import check_fitted
from tandem.model.writing.draft import CHECKED_ROWS, TOLERANCE, Draft, check_answers
from tandem.model.writing.native_export import export, native_of
from tandem.model.writing.onnx_export import convert
from tandem.model.writing.portable import parts, portable
from tandem.model.writing.sample import table_of
from tandem.model.writing.skops_export import dump_skops
from tandem.util.clock import now


def draft_of_estimator(
    folder: Path,
    estimator: Any,
    name: str,
    sample: Any,
    labels: Sequence[str] | None,
    task: Task | None,
    feature_names: Sequence[str] | None,
    *,
    onnx: bool,
    trust: tuple[str, ...],
) -> Draft:
    """The package's draft, its files written to `folder`; raises `PackageError`."""
    if sample is None:
        raise PackageError(
            "sample: missing; give some rows like those that the model will be asked"
        )
    layout, features, rows = table_of(sample, feature_names)
    task = task or _task_of(estimator)
    classes = _classes(estimator, labels) if task == "classification" else []
    _check_modules(estimator)
    estimator = portable(estimator)
    kind: Literal["predict_proba", "decision_function", "none"] = "none"
    if task == "classification":
        kind = "predict_proba" if hasattr(estimator, "predict_proba") else "decision_function"
        if not hasattr(estimator, kind):
            raise PackageError(
                f"{type(estimator).__name__}: has neither predict_proba nor decision_function"
            )
    manifest = Manifest(
        name=name,
        created=now(),
        task=task,
        layout=layout,
        features=features,
        labels=classes,
        libraries=library_versions("numpy", "scikit-learn", "skops"),
        runtime="sklearn",
        runtime_reason="ONNX was not asked for",
        probabilities=kind,
        files=[],
    )
    rows = rows[:CHECKED_ROWS]
    native = native_of(estimator)
    # Trees take numbers of one kind; the steps before them take whatever they were fitted on.
    plain = native is not None and native[1] is None and rows.dtype.kind == "O"
    texts = [feature.name for feature in features if feature.dtype == "str"]
    if plain and texts:
        raise PackageError(
            f"{type(estimator).__name__}: takes texts ({', '.join(texts[:3])}) as categories, "
            "which is not supported; encode them in a Pipeline (OrdinalEncoder, say) and fit again"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            asked = rows.astype(np.float64) if plain else rows
            answers = estimator_answers(estimator, manifest, asked)
    except Exception as problem:  # noqa: BLE001 - whatever an estimator raises on its own sample
        raise PackageError(
            f"the estimator does not answer its sample: {one_line(problem)}"
        ) from None
    check_answers(manifest, answers, len(rows))
    if native is not None:
        manifest = export(folder, native, manifest, rows, answers, trust)
        return Draft(manifest, rows, answers, 2 * TOLERANCE)
    check_fitted(estimator, SKOPS)
    for part in parts(estimator):
        # Asked, a vectorizer notes where in memory its stop words are.
        part.__dict__.pop("_stop_words_id", None)
    dump_skops(estimator, folder / SKOPS)
    if onnx:
        reason = convert(folder / ONNX, estimator, manifest, rows, answers)
        manifest = msgspec.structs.replace(
            manifest,
            runtime="sklearn" if reason else "onnx",
            runtime_reason=reason
            or f"ONNX gives the same answers on {len(rows)} rows within {TOLERANCE:g}",
            libraries={
                **manifest.libraries,
                **({} if reason else library_versions("onnx", "skl2onnx", "onnxruntime")),
            },
        )
        if reason:
            (folder / ONNX).unlink(missing_ok=True)
    return Draft(manifest, rows, answers, 2 * TOLERANCE)


def _check_modules(estimator: Any) -> None:
    """Refuse classes that no other process can import; raises `PackageError`."""
    for part in parts(estimator):
        if type(part).__module__ == "__main__":
            raise PackageError(
                f"{type(part).__name__}: defined in this notebook or script; move it to a module "
                "of the application's repository, import it from there, and fit again"
            )


def _task_of(estimator: Any) -> Task:
    from sklearn.base import is_classifier, is_regressor
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    if not hasattr(estimator, "predict"):
        raise PackageError(
            f"{type(estimator).__name__}: cannot predict; publish a classifier or a regressor"
        )
    try:
        check_is_fitted(estimator)
    except (NotFittedError, TypeError):
        raise PackageError(
            f"{type(estimator).__name__}: not fitted yet; call fit before publishing"
        ) from None
    if is_classifier(estimator):
        return "classification"
    if is_regressor(estimator):
        return "regression"
    raise PackageError(f"{type(estimator).__name__}: neither a classifier nor a regressor")


def _classes(estimator: Any, labels: Sequence[str] | None) -> list[str]:
    classes = getattr(estimator, "classes_", None)
    if classes is None or (
        isinstance(classes, list) and classes and isinstance(classes[0], np.ndarray)
    ):
        raise PackageError(
            f"{type(estimator).__name__}: one set of classes is needed; "
            "several outputs are not served"
        )
    named = [str(item) for item in (labels if labels is not None else classes)]
    if len(named) != len(classes):
        raise PackageError(f"labels: {len(named)} for the estimator's {len(classes)} classes")
    return named
