"""The Open Inference Protocol, version 2 (REST), for clients that exist already.

github.com/open-inference/open-inference-protocol; tensors as JSON, no binary extension.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Literal

import msgspec
import numpy as np

from tandem.model.package import Feature
from tandem.serving.model import Model
from tandem.serving.problems import Problem

Datatype = Literal[
    "BOOL",
    "UINT8",
    "UINT16",
    "UINT32",
    "UINT64",
    "INT8",
    "INT16",
    "INT32",
    "INT64",
    "FP16",
    "FP32",
    "FP64",
    "BYTES",
]
DATATYPES: dict[str, Datatype] = {
    "float32": "FP32",
    "float64": "FP64",
    "int64": "INT64",
    "int32": "INT32",
    "uint8": "UINT8",
    "bool": "BOOL",
    "str": "BYTES",
}

_PLATFORMS = {"onnx": "onnx_onnxruntime", "sklearn": "sklearn_skops"}


class InputTensor(msgspec.Struct, frozen=True):
    """One input of a request: `data` flat in row-major order, or nested by `shape`."""

    name: str
    shape: list[int]
    datatype: Datatype
    data: list[Any]
    parameters: dict[str, Any] | None = None


class WantedOutput(msgspec.Struct, frozen=True):
    """The name of an output that the caller wants."""

    name: str
    parameters: dict[str, Any] | None = None


class InferenceRequest(msgspec.Struct, frozen=True):
    """What POST /v2/models/NAME/infer takes."""

    inputs: list[InputTensor]
    id: str | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[WantedOutput] | None = None


class OutputTensor(msgspec.Struct, frozen=True):
    """One output, flat in row-major order."""

    name: str
    shape: list[int]
    datatype: Datatype
    data: list[Any]


class InferenceResponse(msgspec.Struct, frozen=True, omit_defaults=True):
    """What POST /v2/models/NAME/infer answers."""

    model_name: str
    outputs: list[OutputTensor]
    model_version: str | None = None
    id: str | None = None


class TensorMetadata(msgspec.Struct, frozen=True):
    """One tensor that the model takes or gives; -1 is any number of rows."""

    name: str
    datatype: Datatype
    shape: list[int]


class ModelMetadata(msgspec.Struct, frozen=True):
    """What GET /v2/models/NAME answers."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


def metadata(model: Model, version: int | None) -> ModelMetadata:
    """The model's tensors by name."""
    manifest = model.manifest
    if model.classifies:
        outputs = [
            TensorMetadata("label", "BYTES", [-1]),
            TensorMetadata("probabilities", "FP64", [-1, len(manifest.labels)]),
        ]
    else:
        outputs = [TensorMetadata("value", "FP64", [-1])]
    return ModelMetadata(
        manifest.name,
        [] if version is None else [str(version)],
        _PLATFORMS.get(model.predictor.runtime, model.predictor.runtime),
        [
            TensorMetadata(feature.name, DATATYPES[feature.dtype], [-1, *feature.shape])
            for feature in model.features
        ],
        outputs,
    )


def rows_of(asked: InferenceRequest, model: Model, most: int) -> list[Any]:
    """The request's tensors as rows for `Model.rows`. Raises Problem (422)."""
    if not asked.inputs:
        raise Problem(422, "Expected at least one input tensor.")
    given = {tensor.name: tensor for tensor in asked.inputs}
    if len(given) != len(asked.inputs):
        [(twice, _)] = Counter(tensor.name for tensor in asked.inputs).most_common(1)
        raise Problem(422, f"Input tensor names must be unique; two are named {twice[:80]!r}.")
    if len(given) == 1 and len(model.features) > 1:
        return _matrix(asked.inputs[0], model, most)  # all features side by side
    if len(given) == 1 and len(model.features) == 1:
        feature = model.features[0]
        if asked.inputs[0].name != feature.name:
            raise Problem(422, f"The input must be named {feature.name!r}.")
        rows = _column(asked.inputs[0], feature, most)
        return rows if feature.shape else [[value] for value in rows]
    if missing := [name for name in model.names if name not in given]:
        raise Problem(422, f"There is no input named {missing[0]!r}.")
    if surplus := sorted(given.keys() - set(model.names)):
        raise Problem(422, f"The model has no input named {surplus[0][:80]!r}.")
    columns = [_column(given[feature.name], feature, most) for feature in model.features]
    if len({len(column) for column in columns}) != 1:
        raise Problem(422, "All inputs must have the same number of rows.")
    return [list(row) for row in zip(*columns, strict=True)]


def _matrix(tensor: InputTensor, model: Model, most: int) -> list[Any]:
    width = len(model.features)
    if len(tensor.shape) != 2 or tensor.shape[1] != width:
        raise Problem(
            422,
            f"The input {tensor.name[:80]!r} has shape {tensor.shape[:8]}, "
            f"a single one must have [rows, {width}].",
        )
    values = _flat(tensor, most, width)
    rows = [values[at : at + width] for at in range(0, len(values), width)]
    for row in rows:
        for feature, value in zip(model.features, row, strict=True):
            _check(tensor, feature, value)
    return rows


def _column(tensor: InputTensor, feature: Feature, most: int) -> list[Any]:
    shape = tensor.shape
    if not feature.shape and len(shape) == 2 and shape[1] == 1:
        shape = shape[:1]  # a column as a matrix is what many clients send
    if len(shape) != 1 + len(feature.shape) or shape[1:] != feature.shape:
        wanted = ", ".join(["rows", *map(str, feature.shape)])
        raise Problem(
            422, f"The input {feature.name!r} has shape {tensor.shape[:8]}, it must be [{wanted}]."
        )
    size = int(np.prod(feature.shape, dtype=int))
    values = _flat(tensor, most, size)
    for value in values:
        _check(tensor, feature, value)
    for side in reversed(feature.shape):
        values = [values[at : at + side] for at in range(0, len(values), side)]
    return values


def _flat(tensor: InputTensor, most: int, size: int) -> list[Any]:
    count = tensor.shape[0]
    if not 1 <= count <= most:
        raise Problem(422, f"{count} rows were sent; expected at least 1 and at most {most}.")
    values = tensor.data
    while values and isinstance(values[0], list):
        if not all(isinstance(part, list) for part in values):
            break
        values = [value for part in values for value in part]
        if len(values) > count * size:
            break
    if len(values) != count * size:
        raise Problem(
            422,
            f"The input {tensor.name[:80]!r} has {len(values)} values, "
            f"its shape says {count * size}.",
        )
    return values


def _check(tensor: InputTensor, feature: Feature, value: Any) -> None:
    text = feature.dtype == "str"
    if value is None:
        fits = text or feature.dtype.startswith("float")
    elif text:
        fits = isinstance(value, str)
    elif feature.dtype == "bool":
        fits = isinstance(value, bool) or value in (0, 1)
    elif feature.dtype.startswith("float"):
        fits = isinstance(value, int | float)
    else:
        fits = isinstance(value, int | float) and value == int(value)
    if not fits or isinstance(value, list | dict):
        raise Problem(
            422,
            f"The input {tensor.name[:80]!r} has a value that is not {DATATYPES[feature.dtype]}.",
        )


def answer(
    asked: InferenceRequest, output: np.ndarray, model: Model, version: int | None
) -> InferenceResponse:
    """The outputs that the request wants. Raises Problem (422) for an unknown one."""
    rows = len(output)
    if model.classifies:
        labels = model.manifest.labels
        tensors = {
            "label": lambda: OutputTensor(
                "label", [rows], "BYTES", [labels[at] for at in output.argmax(axis=1)]
            ),
            "probabilities": lambda: OutputTensor(
                "probabilities", list(output.shape), "FP64", output.astype(float).ravel().tolist()
            ),
        }
    else:
        tensors = {
            "value": lambda: OutputTensor(
                "value", list(output.shape), "FP64", output.astype(float).ravel().tolist()
            )
        }
    names = [wanted.name for wanted in asked.outputs] if asked.outputs else list(tensors)
    if unknown := [name for name in names if name not in tensors]:
        raise Problem(422, f"The model has no output named {unknown[0][:80]!r}.")
    return InferenceResponse(
        model.manifest.name,
        [tensors[name]() for name in names],
        None if version is None else str(version),
        asked.id,
    )
