"""What a package holds: names, bounds, and the types of the manifest and of the files beside it."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import numpy as np

FORMAT = 1
MANIFEST, ONNX, SKOPS, GOLDEN = "manifest.json", "model.onnx", "model.skops", "golden.json"
EVALUATION = "evaluation.json"

MAX_MANIFEST = 4 * 2**20
MAX_GOLDEN = 32 * 2**20
MAX_EVALUATION = 32 * 2**20
MAX_MODEL = 64 * 2**30
MAX_FEATURES = 10_000
MAX_ELEMENTS = 10_000_000
MAX_LABELS = 100_000

DTYPES: dict[str, Any] = {
    "float32": np.float32,
    "float64": np.float64,
    "int64": np.int64,
    "int32": np.int32,
    "uint8": np.uint8,
    "bool": np.bool_,
    "str": np.object_,
}

Task = Literal["classification", "regression"]
Layout = Literal["matrix", "table", "series"]
"""How rows reach the model: one 2-D array of one dtype, columns of their own dtypes, or a 1-D
array.
"""


class Feature(msgspec.Struct, frozen=True):
    """One input: `shape` is one row's shape, [] for a number or a text."""

    name: str
    dtype: str
    shape: list[int] = []


class File(msgspec.Struct, frozen=True):
    """One file of the package; `sha256` in hex, `size` in bytes."""

    path: str
    sha256: str
    size: int


class Picture(msgspec.Struct, frozen=True):
    """How a picture becomes a row: scaled to `width` x `height` in `mode`, row by row, 0 to
    `maximum`.

    `background` is what the paper is in the training data ("black": ink is bright); a picture with
    the other one has to be inverted first. `ink` says what a pixel's value is.
    """

    width: int
    height: int
    mode: str = "L"
    maximum: float = 16.0
    background: str = "black"
    ink: str = "bright"


class Statistics(msgspec.Struct, frozen=True, kw_only=True):
    """The training data in numbers, element by element, for noticing drift.

    `quantiles[i]` are element i's values at `levels`; `categories` gives the shares of each text
    feature's values and `answers` the shares of the labels that the model predicted on that data.
    """

    rows: int
    elements: list[str]
    mean: list[float]
    std: list[float]
    levels: list[float]
    quantiles: list[list[float]]
    categories: dict[str, dict[str, float]] = {}
    answers: dict[str, float] = {}


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """How the model was tested: on `rows` held-out rows, `confusion[true][predicted]`, kept in
    `file` for gates.
    """

    rows: int = 0
    description: str = ""
    confusion: list[list[int]] | None = None
    file: File | None = None


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What the model is. Everything but `created`, `publisher` and `training_commit` makes the
    package's digest.
    """

    format: int = FORMAT
    name: str
    created: str
    publisher: str = ""
    training_commit: str | None = None
    task: Task
    layout: Layout
    features: list[Feature]
    labels: list[str] = []
    metrics: dict[str, float] = {}
    parameters: dict[str, Any] = {}
    data_digest: str | None = None
    libraries: dict[str, str] = {}
    runtime: Literal["onnx", "sklearn"]
    runtime_reason: str
    probabilities: Literal["predict_proba", "decision_function", "none"] = "none"
    statistics: Statistics | None = None
    image: Picture | None = None
    evaluation: Evaluation | None = None
    files: list[File]


class Prediction(msgspec.Struct, frozen=True, omit_defaults=True):
    """One answer, in the shape that `/score` gives it: labels with probabilities, best first, or a
    value.
    """

    labels: list[str] = []
    probabilities: list[float] = []
    value: float | list[float] | None = None


class Golden(msgspec.Struct, frozen=True):
    """Rows and the answers recorded at training; another runtime's differ by at most `tolerance`.

    `answers[i]` are row i's probabilities in the order of the manifest's labels, or its values;
    `predictions[i]` the same as the service gives it (the top three). Rows were chosen so that
    their first label is not a near-tie, where there are such rows.
    """

    inputs: list[list[Any]]
    answers: list[list[float]]
    predictions: list[Prediction]
    tolerance: float


class HeldOut(msgspec.Struct, frozen=True):
    """Held-out rows with the truth: labels as text for classification, numbers for regression."""

    rows: list[list[Any]]
    truth: list[Any]
