"""The draft of a package, from an ONNX file."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tandem.errors import PackageError, one_line
from tandem.model.package import (
    MAX_ELEMENTS,
    ONNX,
    Manifest,
    OnnxPredictor,
    Task,
    check_onnx,
    library_versions,
    onnx_dtype,
    onnx_session,
)
from tandem.model.package.format import Probabilities
from tandem.model.writing.draft import CHECKED_ROWS, TOLERANCE, Draft, check_answers
from tandem.model.writing.golden import GOLDEN_ROWS
from tandem.model.writing.sample import table_of
from tandem.util.clock import now


def draft_of_onnx(
    folder: Path,
    source: Path,
    name: str,
    sample: Any,
    labels: Sequence[str] | None,
    task: Task | None,
    feature_names: Sequence[str] | None,
    output: str | None,
) -> Draft:
    """The package's draft, its files written to `folder`; raises `PackageError`."""
    check_onnx(source)
    shutil.copyfile(source, folder / ONNX)
    session = onnx_session(folder / ONNX, threads=1)
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if sample is None:
        sample = _invented(inputs)
    layout, features, rows = table_of(
        sample, feature_names or ([i.name for i in inputs] if len(inputs) > 1 else None)
    )
    rows = rows[:CHECKED_ROWS]
    if task is None:
        if output is not None:
            outputs = [item for item in outputs if item.name == output] or outputs
        classifier = len(outputs) > 1 or (labels is not None and len(labels) > 1)
        task = "classification" if classifier else _task_of_output(outputs[0])
    manifest = Manifest(
        name=name,
        created=now(),
        task=task,
        layout=layout,
        features=features,
        labels=[str(label) for label in labels or []] or ["0", "1"],
        libraries=library_versions("numpy", "onnxruntime"),
        runtime="onnx",
        runtime_reason="published as an ONNX file, without an estimator",
        probabilities="predict_proba" if task == "classification" else "none",
        output=msgspec.UNSET if output is None else output,
        files=[],
    )
    answers = _answers(folder, manifest, rows, source.name)
    kind = _kind_of(answers) if task == "classification" else "none"
    if kind in ("logits", "positive"):
        reason = f"{manifest.runtime_reason}; its answers are taken as {kind}"
        manifest = msgspec.structs.replace(manifest, probabilities=kind, runtime_reason=reason)
        answers = _answers(folder, manifest, rows, source.name)
    if task == "regression":
        manifest = msgspec.structs.replace(manifest, labels=[])
    elif labels is None and answers.ndim == 2:
        manifest = msgspec.structs.replace(
            manifest, labels=[str(number) for number in range(answers.shape[1])]
        )
    check_answers(manifest, answers, len(rows))
    return Draft(manifest, rows, answers, 2 * TOLERANCE)


def _answers(folder: Path, manifest: Manifest, rows: NDArray[Any], name: str) -> NDArray[Any]:
    predictor = OnnxPredictor(manifest, folder / ONNX, threads=1)
    try:
        return np.asarray(predictor.predict(rows), dtype=np.float64)
    except Exception as problem:  # noqa: BLE001 - onnxruntime has no common error class
        raise PackageError(
            f"{name}: does not answer rows of its inputs' shape: {one_line(problem)}"
        ) from None


def _kind_of(answers: NDArray[Any]) -> Probabilities:
    """What a classifier's raw answers are; shares that do not sum to 1 are no logits."""
    shares = bool(answers.min(initial=0) >= 0 and answers.max(initial=1) <= 1)
    if answers.ndim == 1 or answers.shape[1] == 1:
        return "positive" if shares else "logits"
    within = answers.min(initial=0) >= -1e-3 and answers.max(initial=1) <= 1 + 1e-3
    return "predict_proba" if within else "logits"


def _task_of_output(output: Any) -> Task:
    width = output.shape[-1] if len(output.shape or []) > 1 else 1
    return "classification" if isinstance(width, int) and width > 1 else "regression"


def _invented(inputs: Any) -> Any:
    """Rows for a bare ONNX file: seeded noise of its inputs' shapes."""
    generator = np.random.default_rng(0)
    columns: dict[str, Any] = {}
    for item in inputs:
        shape = list((item.shape or [])[1:])
        if (
            any(not isinstance(side, int) or side <= 0 for side in shape)
            or math.prod(shape) > MAX_ELEMENTS
        ):
            raise PackageError(f"{ONNX}: input {item.name!r} has shape {item.shape}: give a sample")
        dtype = onnx_dtype(item.type)
        size = (GOLDEN_ROWS, *shape)
        if dtype is np.object_:
            columns[item.name] = np.full(size, "a", dtype=object)
        elif np.issubdtype(dtype, np.floating):
            columns[item.name] = generator.random(size).astype(dtype)
        else:
            columns[item.name] = generator.integers(0, 2, size).astype(dtype)
    if len(columns) == 1:
        return next(iter(columns.values()))
    if all(math.prod(value.shape[1:]) == 1 for value in columns.values()):
        return {key: value.reshape(GOLDEN_ROWS) for key, value in columns.items()}
    return columns
