"""The model package: a folder with a manifest, model files and golden answers.

A package is untrusted input. `read` checks every name, size and sha256, and bounds what the
manifest asks for; `Package.golden` has answers that agree with themselves; `load_estimator` and
`open_predictor` check the inside of the files before scikit-learn or onnxruntime see them, and what
was loaded before it is asked. Nothing here ever unpickles.

    manifest.json    what the model is, what made it, and the sha256 and size of every other file
    model.onnx       the fast path: there when conversion worked and its answers match the
                     estimator's
    model.skops      the estimator (absent when an ONNX file was published by itself)
    model.*          another runtime's own format (see `runtimes`)
    golden.json      inputs with the answers that were recorded when the package was written
    evaluation.json  optional, beside the package: held-out rows with the truth, to be
                     judged by; never packed into an image

`tandem.model.writing` writes them; the image holds this folder alone.
"""

from __future__ import annotations

from tandem.model.package.checks import check_manifest, check_name
from tandem.model.package.format import (
    DTYPES,
    EVALUATION,
    GOLDEN,
    MANIFEST,
    MAX_ELEMENTS,
    MAX_EVALUATION,
    MAX_TOLERANCE,
    ONNX,
    SKOPS,
    Evaluation,
    Feature,
    File,
    Golden,
    HeldOut,
    Layout,
    Manifest,
    Picture,
    Prediction,
    Statistics,
    Task,
)
from tandem.model.package.golden_checks import check_golden_agrees
from tandem.model.package.libraries import check_libraries, library_versions, locked_versions
from tandem.model.package.onnx_file import check_onnx
from tandem.model.package.predicting import load_estimator, open_predictor
from tandem.model.package.reading import Package, decode_manifest, read
from tandem.model.package.rows import as_array, as_rows, predictions_of, row_shape
from tandem.model.package.runtimes.onnx import OnnxPredictor, onnx_dtype, onnx_session
from tandem.model.package.runtimes.sklearn import estimator_answers
from tandem.model.package.skops_file import TRUSTED, load_skops, refuse_pickle

__all__ = [
    "DTYPES",
    "EVALUATION",
    "GOLDEN",
    "MANIFEST",
    "MAX_ELEMENTS",
    "MAX_EVALUATION",
    "MAX_TOLERANCE",
    "ONNX",
    "SKOPS",
    "TRUSTED",
    "Evaluation",
    "Feature",
    "File",
    "Golden",
    "HeldOut",
    "Layout",
    "Manifest",
    "OnnxPredictor",
    "Package",
    "Picture",
    "Prediction",
    "Statistics",
    "Task",
    "as_array",
    "as_rows",
    "check_golden_agrees",
    "check_libraries",
    "check_manifest",
    "check_name",
    "check_onnx",
    "decode_manifest",
    "estimator_answers",
    "library_versions",
    "load_estimator",
    "load_skops",
    "locked_versions",
    "onnx_dtype",
    "onnx_session",
    "open_predictor",
    "predictions_of",
    "read",
    "refuse_pickle",
    "row_shape",
]
