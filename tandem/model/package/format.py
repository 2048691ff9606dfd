"""What a package holds: names, bounds, and the types of its files."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import numpy as np

FORMAT = 1
MANIFEST, ONNX, SKOPS, GOLDEN = "manifest.json", "model.onnx", "model.skops", "golden.json"
EVALUATION = "evaluation.json"

# What a publisher may ask for, whoever it is: all that decides memory or time further on.
MAX_MANIFEST = 4 * 2**20
MAX_GOLDEN = 32 * 2**20
"""20 rows of a colour picture of 224 x 224 are 30 MB of JSON; decoded, it is a few hundred MB."""
MAX_EVALUATION = 32 * 2**20
MAX_MODEL = 64 * 2**30
"""Files are streamed; a model that is larger than the memory to judge it in is refused there."""
MAX_ONNX = 2**31 - 1
"""More than protobuf's parsers take in one file."""
MAX_FEATURES = 10_000
"""Each is a field of the service's form and of its API's description."""
MAX_DIMENSIONS = 8
MAX_ELEMENTS = 4_000_000
"""Numbers in one row, which a caller sends as JSON: 16 colour pictures of 256 x 256 are 3.1
million.
"""
MAX_LABELS = 25_000
"""ImageNet's largest set has 21,841; each request sorts them, and golden rows list them all."""
MAX_GOLDEN_ROWS = 1_000
"""All are answered at each start and each release; 20 are written."""
MAX_SIDE = 1_024
"""A picture's strokes are drawn at eight times its size: 0.2 GB at 512, 0.7 GB at 1,024."""
MAX_TEXT = 1_000
"""Characters of a name, a label or a version; a survey's questions are columns too."""
MAX_DESCRIPTION = 10_000
MAX_ENTRIES = 10_000
"""Metrics, parameters, libraries, categories: a person looks at them on one page."""
MAX_DEPTH = 32
"""Of parameters: whatever shows them goes down one call a level."""
MAX_LEVELS = 100
MAX_TOLERANCE = 1e-3
"""How far a package may let answers be from its golden ones: probabilities as they are, values
relative to the largest golden one. 2e-4 is written (float32 against float64); five times that is
still far below what would make another label the first.
"""

DTYPES: dict[str, Any] = {
    "float32": np.float32,
    "float64": np.float64,
    "int64": np.int64,
    "int32": np.int32,
    "uint8": np.uint8,
    "bool": np.bool_,
    "str": np.object_,
}

Task = Literal["classification", "regression", "opaque"]
"""Opaque: only the application can ask it, so it has no features and no golden answers."""
Layout = Literal["matrix", "table", "series", "tensors"]
"""How rows reach the model: one array of one dtype, columns of their own dtypes, a 1-D array, or
several arrays, each of its own shape.
"""


Probabilities = Literal["predict_proba", "decision_function", "logits", "positive", "none"]
"""What a classifier's raw answers are: probabilities, a machine's decision function, logits (one a
label, or one for the second of two), or the probability of the second of two labels.
"""


class Feature(msgspec.Struct, frozen=True):
    """One input: `shape` is one row's shape, [] for a number or a text."""

    name: str
    dtype: str
    shape: list[int] = []
    missing: Literal["nan"] | msgspec.UnsetType = msgspec.UNSET
    """What a text that is missing (`null`) was in training: NaN; None where nothing is said."""


class File(msgspec.Struct, frozen=True):
    """One file of the package; `sha256` in hex, `size` in bytes."""

    path: str
    sha256: str
    size: int


class Picture(msgspec.Struct, frozen=True):
    """How a picture becomes a row: scaled to `width` x `height`, 0 to `maximum`.

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
    """How the model was tested: on `rows` held-out rows, kept in `file`.

    `confusion[true][predicted]` counts them by label.
    """

    rows: int = 0
    description: str = ""
    confusion: list[list[int]] | None = None
    file: File | None = None


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What the model is.

    Everything but `created`, `publisher` and `training_commit` makes the package's digest.
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
    runtime: str
    """By its name; see `runtimes`."""
    runtime_reason: str
    probabilities: Probabilities = "none"
    output: str | msgspec.UnsetType = msgspec.UNSET
    """The output that answers, where an ONNX file has several and one was named."""
    statistics: Statistics | None = None
    image: Picture | None = None
    evaluation: Evaluation | None = None
    files: list[File]


class Prediction(msgspec.Struct, frozen=True, omit_defaults=True):
    """One answer as `/score` gives it: labels with probabilities, or a value."""

    labels: list[str] = []
    probabilities: list[float] = []
    value: float | list[float] | None = None


class Golden(msgspec.Struct, frozen=True):
    """Rows and the answers recorded at training, within `tolerance` of any other's.

    `answers[i]` are row i's probabilities in the order of the manifest's labels, or its values;
    `predictions[i]` the same as the service gives it (the top three). Rows were chosen so that
    their first label is not a near-tie, where there are such rows.
    """

    inputs: list[list[Any]]
    answers: list[list[float]]
    predictions: list[Prediction]
    tolerance: float


class HeldOut(msgspec.Struct, frozen=True):
    """Held-out rows with the truth: labels as text, or numbers for a regression."""

    rows: list[list[Any]]
    truth: list[Any]
