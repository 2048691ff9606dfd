"""Writing a model package: from a fitted estimator, or from an ONNX or skops file.

ONNX is made where the conversion works and its answers are the estimator's own, the golden rows are
chosen, and the estimator is stored so that equal ones make equal bytes. Reading a package, and the
service, need none of this.
"""

from __future__ import annotations

import contextlib
import copy
import datetime
import hashlib
import io
import json
import math
import os
import secrets
import shutil
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from tandem.errors import PackageError, one_line
from tandem.model.package import (
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
    OnnxPredictor,
    Package,
    Picture,
    Statistics,
    Task,
    as_rows,
    check_manifest,
    check_name,
    check_onnx,
    estimator_answers,
    library_versions,
    load_skops,
    onnx_dtype,
    onnx_session,
    predictions_of,
    read,
    refuse_pickle,
    row_shape,
)
from tandem.model.package.fitted import check_fitted

GOLDEN_ROWS = 20
CHECKED_ROWS = 2_000
"""Rows on which ONNX has to answer as the estimator does."""
EVALUATION_ROWS = 5_000


def write(
    folder: Path | str,
    estimator: Any,
    *,
    name: str,
    sample: Any = None,
    labels: Sequence[str] | None = None,
    metrics: Mapping[str, float] | None = None,
    parameters: Mapping[str, Any] | None = None,
    training_commit: str | None = None,
    data_digest: str | None = None,
    image: Picture | None = None,
    publisher: str = "",
    task: Task | None = None,
    training: Any = None,
    held_out: tuple[Any, Any] | None = None,
    evaluation: Evaluation | None = None,
    feature_names: Sequence[str] | None = None,
    onnx: bool = True,
) -> Package:
    """Make the package of a fitted estimator, or of an ONNX or skops file (its path), in `folder`.

    `sample`: rows like those to be asked: a 2-D array, a data frame, a dict of columns, a
    structured array, or texts. Golden rows come out of it, and ONNX is taken only when its answers
    match the estimator's on it. `training`: rows for the drift statistics (default: `sample`).
    `held_out`: rows and truth that training never saw, kept for gates. `folder` must be absent or
    empty; it appears whole or not at all. Raises `PackageError`.
    """
    folder = Path(folder)
    check_name(name)
    if folder.exists() and any(folder.iterdir()):
        raise PackageError(f"{folder}: not empty; a package is written into a new folder")
    staging = folder.parent / f".{folder.name}.{secrets.token_hex(4)}.tmp"
    staging.mkdir(parents=True)
    try:
        if isinstance(estimator, str | Path):
            estimator = _model_in(Path(estimator))
        if isinstance(estimator, Path):
            draft = _draft_of_onnx(staging, estimator, name, sample, labels, task, feature_names)
        else:
            draft = _draft_of_estimator(
                staging, estimator, name, sample, labels, task, feature_names, onnx
            )
        manifest = _complete(staging, draft, training, held_out, evaluation)
        manifest = msgspec.structs.replace(
            manifest,
            publisher=publisher,
            training_commit=training_commit,
            metrics={key: float(value) for key, value in sorted((metrics or {}).items())},
            parameters=_plain(dict(parameters or {})),
            data_digest=data_digest,
            image=image,
        )
        check_manifest(manifest)
        (staging / MANIFEST).write_bytes(encode_manifest(manifest))
        package = read(staging)
        package.golden()
        folder.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            folder.rmdir()
        staging.rename(folder)
    except OSError as problem:
        raise PackageError(f"{folder}: {problem.strerror or problem}") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return Package(folder, package.manifest, package.digest)


def encode_manifest(manifest: Manifest) -> bytes:
    """The manifest as it is in a package's folder: for people too."""
    return (
        msgspec.json.format(msgspec.json.encode(manifest, order="deterministic"), indent=1) + b"\n"
    )


def _model_in(path: Path) -> Any:
    """A skops file's estimator, or an ONNX file's path; raises `PackageError` for other files."""
    refuse_pickle(path)
    if path.suffix == ".skops":
        return load_skops(path)
    if path.suffix != ".onnx":
        raise PackageError(f"{path.name}: want an .onnx file, a .skops file or a package's folder")
    return path


class _Draft(msgspec.Struct):
    """A package being written: what is known, the sample's rows and the answers to them."""

    manifest: Manifest
    rows: NDArray[Any]
    answers: NDArray[Any]
    tolerance: float


TOLERANCE = 1e-4
"""How far ONNX's float32 may be from scikit-learn's float64: probabilities are in [0, 1], values
relative to their size.
"""


def _draft_of_estimator(
    folder: Path,
    estimator: Any,
    name: str,
    sample: Any,
    labels: Sequence[str] | None,
    task: Task | None,
    feature_names: Sequence[str] | None,
    onnx: bool,
) -> _Draft:
    if sample is None:
        raise PackageError(
            "sample: missing; give some rows like those that the model will be asked"
        )
    layout, features, rows = table_of(sample, feature_names)
    task = task or _task_of(estimator)
    classes = _classes(estimator, labels) if task == "classification" else []
    estimator = _portable(estimator)
    kind: Literal["predict_proba", "decision_function", "none"] = "none"
    if task == "classification":
        kind = "predict_proba" if hasattr(estimator, "predict_proba") else "decision_function"
        if not hasattr(estimator, kind):
            raise PackageError(
                f"{type(estimator).__name__}: has neither predict_proba nor decision_function"
            )
    manifest = Manifest(
        name=name,
        created=_now(),
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
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            answers = estimator_answers(estimator, manifest, rows)
    except Exception as problem:  # noqa: BLE001 - whatever an estimator raises on its own sample
        raise PackageError(
            f"the estimator does not answer its sample: {one_line(problem)}"
        ) from None
    _check_answers(manifest, answers, len(rows))
    check_fitted(estimator, SKOPS)
    for part in _parts(estimator):
        # Asked, a vectorizer notes where in memory its stop words are.
        part.__dict__.pop("_stop_words_id", None)
    dump_skops(estimator, folder / SKOPS)
    if onnx:
        reason = _convert(folder / ONNX, estimator, manifest, rows, answers)
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
    return _Draft(manifest, rows, answers, 2 * TOLERANCE)


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


def _check_answers(manifest: Manifest, answers: NDArray[Any], rows: int) -> None:
    if answers.shape[:1] != (rows,) or answers.ndim > 2:
        raise PackageError(f"answers have shape {list(answers.shape)} for {rows} rows")
    if manifest.task == "classification" and answers.shape != (rows, len(manifest.labels)):
        raise PackageError(
            f"{answers.shape[-1]} probabilities a row for {len(manifest.labels)} labels"
        )
    if not np.all(np.isfinite(answers)):
        bad = int(np.flatnonzero(~np.isfinite(answers).reshape(rows, -1).all(axis=1))[0])
        raise PackageError(f"the model answers NaN or infinity (first for row {bad} of its sample)")
    if manifest.task == "classification" and manifest.probabilities != "decision_function":
        sums = answers.sum(axis=1)
        if answers.min(initial=0) < -1e-3 or np.any(np.abs(sums - 1) > 1e-2):
            raise PackageError("probabilities are not between 0 and 1, or do not sum to 1")


def dump_skops(estimator: Any, path: Path) -> None:
    """Write the estimator so that equal estimators make equal bytes: numbered ids, no clock, plain
    storing.
    """
    import skops.io

    raw = path.with_suffix(".raw")
    try:
        skops.io.dump(estimator, raw)
        with (
            zipfile.ZipFile(raw) as source,
            zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as target,
        ):
            names: dict[str, str] = {}
            schema = _normal(json.loads(source.read("schema.json")), names, {})
            for old, new in names.items():
                with (
                    source.open(old) as reader,
                    target.open(_member(new), "w", force_zip64=True) as writer,
                ):
                    _copy_array(reader, writer)
            target.writestr(_member("schema.json"), json.dumps(schema, separators=(",", ":")))
    except OSError:
        raise
    except Exception as problem:  # noqa: BLE001 - whatever objects raise when asked for their state
        raise PackageError(f"skops cannot hold this estimator: {one_line(problem)}") from None
    finally:
        raw.unlink(missing_ok=True)


def _copy_array(reader: Any, writer: Any) -> None:
    """Copy a member in chunks; the gaps in records (a tree's nodes have some) are made zero, for
    what is in there is whatever was in memory.
    """
    start = reader.read(4096)
    if start.startswith(b"\x93NUMPY") and b"'descr': [" in start:
        array = np.load(io.BytesIO(start + reader.read()), allow_pickle=False)
        clean = np.zeros(array.shape, array.dtype)
        for field in array.dtype.names or ():
            clean[field] = array[field]
        buffer = io.BytesIO()
        np.save(buffer, clean, allow_pickle=False)
        writer.write(buffer.getbuffer())
        return
    writer.write(start)
    shutil.copyfileobj(reader, writer, 2**20)


def _member(name: str) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    member.external_attr = 0o444 << 16
    member.create_system = 3
    return member


def _normal(node: Any, names: dict[str, str], ids: dict[int, int]) -> Any:
    """The schema with ids (memory addresses) and file names (made of them) numbered in the order
    they are met.
    """
    if isinstance(node, list):
        return [_normal(item, names, ids) for item in node]
    if not isinstance(node, dict) or "__loader__" not in node:
        return (
            {k: _normal(v, names, ids) for k, v in node.items()} if isinstance(node, dict) else node
        )
    loader = node["__loader__"]
    out: dict[str, Any] = {}
    for key, value in node.items():
        if key == "__id__":
            # Whether two equal numbers or texts are one object is up to the interpreter: only
            # others keep identity.
            if loader not in ("JsonNode", "TypeNode", "FunctionNode"):
                out[key] = ids.setdefault(value, len(ids) + 1)
        elif key == "file" and isinstance(value, str):
            out[key] = names.setdefault(value, f"{len(names):06}{Path(value).suffix}")
        elif loader == "SetNode" and key == "content":
            # A set of texts has another order in each process.
            out[key] = [
                _normal(item, names, ids)
                for item in sorted(value, key=lambda v: str(v.get("content")))
            ]
        else:
            out[key] = _normal(value, names, ids)
    return out


def _convert(
    path: Path, estimator: Any, manifest: Manifest, rows: NDArray[Any], answers: NDArray[Any]
) -> str:
    """Write the ONNX form; returns why it is not to be used, or "" when it answers as the estimator
    does.
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
    worst = float(np.max(np.abs(got - answers) / _scale(manifest, answers), initial=0.0))
    if not worst <= TOLERANCE:
        return f"the ONNX form's answers differ by up to {worst:.2g}, more than {TOLERANCE:g}"
    return ""


def _scale(manifest: Manifest, answers: NDArray[Any]) -> Any:
    return (
        1.0
        if manifest.task == "classification"
        else np.maximum(np.abs(answers), np.abs(answers).mean() + 1e-12)
    )


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
    """Without the nodes that only pick the label: the service picks labels itself, and they cost a
    fifth of the time.
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
    """Name nodes and values by their order: the converter counts on through the whole process, and
    equal estimators are to make equal bytes. What goes in and comes out keeps its name.
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


def _portable(estimator: Any) -> Any:
    """The estimator, or a copy, as it is safe to load and needs no more than the image has.

    One that was fitted on a data frame takes columns by position: the image has no pandas. Nearest
    neighbours are searched one by one: their search trees cannot be checked after loading. What
    training had of processes, caches and progress is left behind.
    """
    if any(map(_left_behind, _parts(estimator))) or _named(estimator):
        estimator = copy.deepcopy(estimator)
        for part in _parts(estimator):
            part.__dict__.update(_left_behind(part))
    return _by_position(estimator)


def _left_behind(part: Any) -> dict[str, Any]:
    """Attributes that a service has no use for, and what they become."""
    held = part.__dict__
    changed: dict[str, Any] = {}
    if held.get("_tree") is not None:
        changed |= {"_tree": None, "_fit_method": "brute"}
    if held.get("n_jobs") not in (None, 1):
        changed["n_jobs"] = None
    if held.get("memory") is not None:
        changed["memory"] = None
    if held.get("verbose"):
        changed["verbose"] = type(held["verbose"])(0)
    if held.get("_stop_words_id") is not None:
        changed["_stop_words_id"] = None
    return changed


def _by_position(estimator: Any) -> Any:
    """Names of columns become their positions, wherever the estimator has learned them."""
    if not _named(estimator):
        return estimator
    for part in _parts(estimator):
        names = part.__dict__.get("feature_names_in_")
        if names is not None and type(part).__name__ == "ColumnTransformer":
            at = {name: place for place, name in enumerate(names.tolist())}
            columns = [_places(item, at) for item in part._columns]
            part._columns = columns
            part.transformers = [
                (step[0], step[1], where)
                for step, where in zip(part.transformers, columns, strict=False)
            ]
            part.transformers_ = [
                (key, step, _places(where, at)) for key, step, where in part.transformers_
            ]
    for part in _parts(estimator):
        part.__dict__.pop("feature_names_in_", None)
        part.__dict__.pop("_sklearn_output_config", None)
    return estimator


def _places(columns: Any, at: Mapping[str, int]) -> Any:
    if isinstance(columns, str):
        return at[columns]
    if isinstance(columns, slice):
        first = at[columns.start] if isinstance(columns.start, str) else columns.start
        last = at[columns.stop] + 1 if isinstance(columns.stop, str) else columns.stop
        return slice(first, last, columns.step)
    values = list(columns) if not isinstance(columns, slice) else []
    return [at[value] if isinstance(value, str) else value for value in values]


def _named(estimator: Any) -> bool:
    return any("feature_names_in_" in part.__dict__ for part in _parts(estimator))


def _parts(root: Any) -> list[Any]:
    seen: dict[int, Any] = {}
    waiting = [root]
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        if isinstance(value, list | tuple):
            waiting.extend(value)
        elif isinstance(value, Mapping):
            waiting.extend(value.values())
        elif hasattr(value, "get_params") and not isinstance(value, type):
            seen[id(value)] = value
            waiting.extend(value.__dict__.values())
    return list(seen.values())


def _draft_of_onnx(
    folder: Path,
    source: Path,
    name: str,
    sample: Any,
    labels: Sequence[str] | None,
    task: Task | None,
    feature_names: Sequence[str] | None,
) -> _Draft:
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
        classifier = len(outputs) > 1 or (labels is not None and len(labels) > 1)
        task = "classification" if classifier else _task_of_output(outputs[0])
    manifest = Manifest(
        name=name,
        created=_now(),
        task=task,
        layout=layout,
        features=features,
        labels=[str(label) for label in labels or []] or ["0", "1"],
        libraries=library_versions("numpy", "onnxruntime"),
        runtime="onnx",
        runtime_reason="published as an ONNX file, without an estimator",
        probabilities="predict_proba" if task == "classification" else "none",
        files=[],
    )
    predictor = OnnxPredictor(manifest, folder / ONNX, threads=1)
    try:
        answers = np.asarray(predictor.predict(rows), dtype=np.float64)
    except Exception as problem:  # noqa: BLE001 - onnxruntime has no common error class
        raise PackageError(
            f"{source.name}: does not answer rows of its inputs' shape: {one_line(problem)}"
        ) from None
    if task == "regression":
        manifest = msgspec.structs.replace(manifest, labels=[])
    elif labels is None and answers.ndim == 2:
        manifest = msgspec.structs.replace(
            manifest, labels=[str(number) for number in range(answers.shape[1])]
        )
    _check_answers(manifest, answers, len(rows))
    return _Draft(manifest, rows, answers, 2 * TOLERANCE)


def _task_of_output(output: Any) -> Task:
    width = output.shape[-1] if len(output.shape or []) > 1 else 1
    return "classification" if isinstance(width, int) and width > 1 else "regression"


def _invented(inputs: Any) -> Any:
    """Rows for golden answers where a bare ONNX file came without any: seeded noise of its inputs'
    shapes.
    """
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
    return {key: value.reshape(GOLDEN_ROWS, -1)[:, 0] for key, value in columns.items()}


def table_of(
    sample: Any, names: Sequence[str] | None = None
) -> tuple[Layout, list[Feature], NDArray[Any]]:
    """Layout, features and rows of a sample in any form that people have; raises `PackageError`."""
    if hasattr(sample, "columns") and hasattr(sample, "iloc"):
        columns = {str(name): np.asarray(sample[name]) for name in sample.columns}
    elif isinstance(sample, Mapping):
        columns = {str(name): np.asarray(column) for name, column in sample.items()}
    elif isinstance(sample, np.ndarray) and sample.dtype.names:
        columns = {name: sample[name] for name in sample.dtype.names}
    else:
        return _table_of_array(sample, names)
    if not columns or len({len(column) for column in columns.values()}) != 1:
        raise PackageError("sample: columns are missing, or not of one length")
    features = [
        Feature(name, _dtype_name(column, f"column {name!r}")) for name, column in columns.items()
    ]
    if len({feature.dtype for feature in features}) == 1 and features[0].dtype != "str":
        return "matrix", features, np.column_stack(list(columns.values()))
    rows = np.empty((len(next(iter(columns.values()))), len(columns)), dtype=object)
    for at, column in enumerate(columns.values()):
        rows[:, at] = column.tolist()
    return "table", features, rows


def _table_of_array(
    sample: Any, names: Sequence[str] | None
) -> tuple[Layout, list[Feature], NDArray[Any]]:
    if hasattr(sample, "toarray"):
        sample = sample.toarray()
    try:
        rows = np.asarray(sample)
    except ValueError as problem:
        raise PackageError(f"sample: rows are not of one length ({problem})") from None
    if rows.size == 0:
        raise PackageError("sample: no rows")
    if rows.ndim == 1:
        if rows.dtype.kind not in "OU":
            raise PackageError("sample: one row is not enough; give a 2-D array, e.g. X[:100]")
        column = np.empty((len(rows), 1), dtype=object)
        column[:, 0] = rows.tolist()
        return "series", [Feature((names or ["text"])[0], "str")], column
    if names is not None and len(names) != rows.shape[1]:
        raise PackageError(f"feature_names: {len(names)} for {rows.shape[1]} columns")
    if rows.dtype.kind in "OU":
        titles = (
            [str(name) for name in names]
            if names is not None
            else [f"column_{n}" for n in range(rows.shape[1])]
        )
        if rows.ndim != 2:
            raise PackageError(f"sample: shape {list(rows.shape)}, want rows and columns")
        rows = rows.astype(object)
        typed = [np.asarray(rows[:, at].tolist()) for at in range(rows.shape[1])]
        return (
            "table",
            [Feature(t, _dtype_name(c, t)) for t, c in zip(titles, typed, strict=True)],
            rows,
        )
    dtype = _dtype_name(rows, "sample")
    rows = rows.astype(DTYPES[dtype])
    if names is not None and rows.ndim == 2:
        return "matrix", [Feature(str(name), dtype) for name in names], rows
    return "matrix", [Feature("row", dtype, list(rows.shape[1:]))], rows


def _dtype_name(values: NDArray[Any], where: str) -> str:
    if values.dtype.kind == "O":
        values = np.asarray([value for value in values.tolist() if value is not None])
    kind = values.dtype.kind
    if kind in "OUT" or (kind == "f" and values.size == 0):
        return "str"
    by_kind = {
        "f": "float32" if values.dtype.itemsize <= 4 else "float64",
        "i": "int64",
        "u": "int64",
        "b": "bool",
    }
    if values.dtype in (np.uint8, np.int32):
        return values.dtype.name
    if kind not in by_kind:
        raise PackageError(
            f"{where}: dtype {values.dtype} is not served; give numbers, truth values or texts"
        )
    return by_kind[kind]


def _complete(
    folder: Path,
    draft: _Draft,
    training: Any,
    held_out: tuple[Any, Any] | None,
    evaluation: Evaluation | None,
) -> Manifest:
    """Golden answers, statistics, held-out rows; then the list of files."""
    manifest = draft.manifest
    chosen = _golden_rows(draft)
    golden = Golden(
        inputs=as_rows(draft.rows[chosen]),
        answers=np.atleast_2d(draft.answers[chosen].reshape(len(chosen), -1)).tolist(),
        predictions=predictions_of(manifest, draft.answers[chosen]),
        tolerance=draft.tolerance if manifest.task == "classification" else _spread(draft),
    )
    (folder / GOLDEN).write_bytes(msgspec.json.encode(golden))
    if held_out is not None:
        evaluation = _keep_held_out(folder, manifest, held_out, evaluation or Evaluation())
    rows = draft.rows if training is None else table_of(training, _names(manifest))[2]
    present = [path for path in (ONNX, SKOPS, GOLDEN) if (folder / path).exists()]
    return msgspec.structs.replace(
        manifest,
        statistics=_statistics(manifest, rows, draft),
        evaluation=evaluation,
        files=[file_of(folder / path) for path in present],
    )


def file_of(path: Path) -> File:
    """Name, sha256 and size of a file, streamed."""
    with path.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        return File(path.name, sha256, os.fstat(stream.fileno()).st_size)


def _spread(draft: _Draft) -> float:
    return float(draft.tolerance * (np.abs(draft.answers).max() + 1e-12))


def _golden_rows(draft: _Draft) -> list[int]:
    """Up to GOLDEN_ROWS row numbers: of every answered label in turn, clear ones, or evenly
    spread.
    """
    count = len(draft.rows)
    if draft.manifest.task == "regression":
        spread = {int(at) for at in np.linspace(0, count - 1, min(GOLDEN_ROWS, count))}
        size = np.abs(draft.answers.reshape(count, -1)).max(axis=1)
        # The tolerance is relative to the largest answer, and believed only where that is told.
        if _spread(draft) > MAX_TOLERANCE * size[sorted(spread)].max():
            spread.add(int(size.argmax()))
        return sorted(spread)
    ordered = np.sort(draft.answers, axis=1)
    clear = ordered[:, -1] - ordered[:, -2] > 100 * draft.tolerance
    best = draft.answers.argmax(axis=1)
    queues = [
        list(np.flatnonzero((best == label) & clear)) for label in range(draft.answers.shape[1])
    ]
    chosen: list[int] = []
    while len(chosen) < GOLDEN_ROWS and any(queues):
        chosen.extend(int(queue.pop(0)) for queue in queues if queue)
    return sorted(chosen[:GOLDEN_ROWS]) or list(range(min(GOLDEN_ROWS, count)))


def _keep_held_out(
    folder: Path, manifest: Manifest, held_out: tuple[Any, Any], evaluation: Evaluation
) -> Evaluation:
    given, truth = held_out
    layout, _, rows = table_of(given, _names(manifest))
    if layout != manifest.layout or rows.shape[1:] != row_shape(manifest):
        raise PackageError(
            f"held_out: rows of shape {list(rows.shape[1:])}, want {list(row_shape(manifest))}"
        )
    answers = np.asarray(truth)
    if len(answers) != len(rows):
        raise PackageError(f"held_out: {len(rows)} rows with {len(answers)} answers")
    told: list[Any]
    if manifest.task == "classification":
        told = _names_of(manifest, answers)
    else:
        told = np.asarray(answers, dtype=np.float64).tolist()
    # Evenly thinned out to what is read again, rather than cut: the order may mean something.
    keep = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), EVALUATION_ROWS)).astype(int))
    data = msgspec.json.encode(HeldOut(as_rows(rows[keep]), [told[at] for at in keep]))
    while len(data) > MAX_EVALUATION and len(keep) > 1:
        keep = keep[::2]
        data = msgspec.json.encode(HeldOut(as_rows(rows[keep]), [told[at] for at in keep]))
    (folder / EVALUATION).write_bytes(data)
    return msgspec.structs.replace(evaluation, rows=len(keep), file=file_of(folder / EVALUATION))


def _names(manifest: Manifest) -> list[str] | None:
    return [f.name for f in manifest.features] if len(manifest.features) > 1 else None


def _names_of(manifest: Manifest, truth: NDArray[Any]) -> list[str]:
    told = [str(value) for value in truth.tolist()]
    if set(told) <= set(manifest.labels):
        return told
    # Class numbers where the labels were given other names.
    if truth.dtype.kind in "iu" and truth.min() >= 0 and truth.max() < len(manifest.labels):
        return [manifest.labels[value] for value in truth.tolist()]
    unknown = sorted(set(told) - set(manifest.labels))[:3]
    raise PackageError(f"held_out: answers {unknown} are none of the labels")


def _statistics(manifest: Manifest, rows: NDArray[Any], draft: _Draft) -> Statistics | None:
    elements: list[str] = []
    columns: list[NDArray[Any]] = []
    categories: dict[str, dict[str, float]] = {}
    if manifest.layout == "matrix":
        flat = rows.reshape(len(rows), -1).astype(np.float64)
        names = [feature.name for feature in manifest.features]
        elements = names if len(names) > 1 else [f"{names[0]}[{at}]" for at in range(flat.shape[1])]
        columns = list(flat.T)
    elif manifest.layout == "table":
        for at, feature in enumerate(manifest.features):
            if feature.dtype == "str":
                values, counts = np.unique([str(v) for v in rows[:, at]], return_counts=True)
                order = np.argsort(-counts, kind="stable")[:20]
                categories[feature.name] = {
                    str(values[i]): round(float(counts[i] / len(rows)), 6) for i in order
                }
            else:
                elements.append(feature.name)
                columns.append(np.asarray(rows[:, at].tolist(), dtype=np.float64))
    if len(elements) > 4096 or not (columns or categories):
        return None
    levels = [0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99]
    table = [column[np.isfinite(column)] for column in columns]
    table = [column if len(column) else np.zeros(1) for column in table]
    answers = {}
    if manifest.task == "classification":
        shares = np.bincount(draft.answers.argmax(axis=1), minlength=len(manifest.labels)) / len(
            draft.answers
        )
        answers = dict(zip(manifest.labels, np.round(shares, 6).tolist(), strict=True))
    return Statistics(
        rows=len(rows),
        elements=elements,
        mean=[_short(column.mean()) for column in table],
        std=[_short(column.std()) for column in table],
        levels=levels,
        quantiles=[[_short(v) for v in np.quantile(column, levels)] for column in table],
        categories=categories,
        answers=answers,
    )


def _short(value: Any) -> float:
    return float(f"{float(value):.6g}")


def _plain(value: Any) -> Any:
    try:
        return msgspec.json.decode(
            msgspec.json.encode(value, enc_hook=_hook, order="deterministic")
        )
    except (msgspec.MsgspecError, TypeError, ValueError) as problem:
        raise PackageError(f"parameters: not plain values: {one_line(problem)}") from None


def _hook(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    return repr(value)


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
