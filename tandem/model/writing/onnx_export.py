"""The ONNX form of an estimator, taken only when it answers as the estimator does."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tandem.errors import one_line
from tandem.model.package import (
    Manifest,
    OnnxPredictor,
)
from tandem.model.writing.draft import TOLERANCE, scale


def convert(
    path: Path, estimator: Any, manifest: Manifest, rows: NDArray[Any], answers: NDArray[Any]
) -> str:
    """Write the ONNX form; returns why it is not to be used, or "".

    It is used when it answers as the estimator does.
    """
    try:
        data = _to_onnx(estimator, manifest, rows)
    except Exception as problem:  # noqa: BLE001 - converters raise anything on what they do not know
        return f"no ONNX form: {one_line(problem)}"
    path.write_bytes(data)
    try:
        predictor = OnnxPredictor(manifest, path, threads=1)
        got = np.asarray(predictor.predict(rows), dtype=np.float64)
    except Exception as problem:  # noqa: BLE001 - a converted graph may fail in onnxruntime for any reason
        return f"the ONNX form does not run: {one_line(problem)}"
    if got.shape != answers.shape:
        return f"the ONNX form answers {list(got.shape)}, scikit-learn {list(answers.shape)}"
    worst = float(np.max(np.abs(got - answers) / scale(manifest, answers), initial=0.0))
    if not worst <= TOLERANCE:
        return f"the ONNX form's answers differ by up to {worst:.2g}, more than {TOLERANCE:g}"
    return ""


def _to_onnx(estimator: Any, manifest: Manifest, rows: NDArray[Any]) -> bytes:
    import skl2onnx
    from skl2onnx.common import data_types as kinds

    by_dtype = {
        "float32": kinds.FloatTensorType,
        # float64 goes in as float32: onnxruntime has few double kernels; the answers are compared
        # afterwards.
        "float64": kinds.FloatTensorType,
        "int64": kinds.Int64TensorType,
        "int32": kinds.Int64TensorType,
        "uint8": kinds.Int64TensorType,
        "bool": kinds.BooleanTensorType,
        "str": kinds.StringTensorType,
    }
    features = manifest.features
    if manifest.layout == "matrix":
        inputs = [("rows", by_dtype[features[0].dtype]([None, rows.shape[1]]))]
    else:
        inputs = [(f"column_{at}", by_dtype[f.dtype]([None, 1])) for at, f in enumerate(features)]
    attempts: list[Any] = [None]
    if manifest.task == "classification":
        raw = manifest.probabilities == "decision_function"
        attempts = [
            {"zipmap": False},
            {"zipmap": False, "raw_scores": True},
            {"raw_scores": True},
            None,
        ]
        if raw:
            attempts.sort(key=lambda options: not (options or {}).get("raw_scores"))
    failure: Exception | None = None
    for options in attempts:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model = skl2onnx.to_onnx(
                    estimator,
                    initial_types=inputs,
                    options={id(estimator): options} if options else None,
                    name=manifest.name,
                )
                model = _only_answers(model, manifest.task)
                _number_names(model.graph)
                return bytes(model.SerializeToString())
        except Exception as problem:  # noqa: BLE001 - tried with the next options
            failure = failure if isinstance(failure, RuntimeError) else problem
    raise failure or RuntimeError("skl2onnx made nothing")


def _only_answers(model: Any, task: str) -> Any:
    """The graph without the nodes that pick the label.

    The service picks labels itself, and they cost a fifth of the time.
    """
    from skl2onnx.helpers.onnx_helper import select_model_inputs_outputs

    outputs = [output.name for output in model.graph.output]
    if (
        task == "classification"
        and outputs[-1] in ("probabilities", "scores")
        and len(outputs) == 2
    ):
        return select_model_inputs_outputs(model, outputs=[outputs[-1]])
    return model


def _number_names(graph: Any) -> None:
    """Name nodes and values by their order, so that equal estimators make equal bytes.

    The converter counts on through the whole process. What goes in and comes out keeps its name.
    """
    names = {value.name: value.name for value in (*graph.input, *graph.output)}
    names[""] = ""  # an optional input that is left out
    waiting = [graph]
    nodes = 0
    while waiting:
        part = waiting.pop()
        values = (*part.input, *part.output, *part.initializer, *part.value_info)
        for value in values:
            value.name = names.setdefault(value.name, f"v{len(names)}")
        for sparse in part.sparse_initializer:
            sparse.values.name = names.setdefault(sparse.values.name, f"v{len(names)}")
        for node in part.node:
            nodes += 1
            node.name = f"n{nodes}"
            for places in (node.input, node.output):
                for at, name in enumerate(places):
                    places[at] = names.setdefault(name, f"v{len(names)}")
            for attribute in node.attribute:
                inner = [attribute.g] if attribute.HasField("g") else []
                for subgraph in (*inner, *attribute.graphs):
                    subgraph.name = f"g{nodes}"
                    waiting.append(subgraph)
