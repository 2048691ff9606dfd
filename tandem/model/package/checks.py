"""What a manifest may say: all of it bounded, and nothing contradictory."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tandem.errors import PackageError
from tandem.model.package.format import (
    DTYPES,
    EVALUATION,
    GOLDEN,
    MANIFEST,
    MAX_DEPTH,
    MAX_DESCRIPTION,
    MAX_DIMENSIONS,
    MAX_ELEMENTS,
    MAX_ENTRIES,
    MAX_EVALUATION,
    MAX_FEATURES,
    MAX_GOLDEN,
    MAX_LABELS,
    MAX_LEVELS,
    MAX_SIDE,
    MAX_TEXT,
    Evaluation,
    Feature,
    Manifest,
    Picture,
    Statistics,
)
from tandem.model.package.rows import row_shape
from tandem.model.package.runtimes import Runtime, runtime_of


def check_name(name: str) -> str:
    """The name, when it can be part of a key, a tag and a URL; raises `PackageError`."""
    if not re.fullmatch(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?", name):
        raise PackageError(
            f"model name {name[:80]!r}: expected at most 64 of a-z, 0-9, '.', '_', '-', "
            "with a letter or digit first and last"
        )
    return name


def check_manifest(manifest: Manifest) -> None:
    """Refuse a manifest that makes no sense or asks for too much.

    Too much is more memory or time than any model needs. Raises `PackageError`.
    """
    check_name(manifest.name)
    _check_files(manifest)
    _check_texts(manifest)
    _check_features(manifest)
    if manifest.task == "classification" and not 2 <= len(manifest.labels) <= MAX_LABELS:
        raise PackageError(f"{MANIFEST}: {len(manifest.labels)} labels, expected 2 to {MAX_LABELS}")
    if manifest.task == "regression" and manifest.labels:
        raise PackageError(
            f"{MANIFEST}: {len(manifest.labels)} labels for a regression, expected none"
        )
    if len(set(manifest.labels)) != len(manifest.labels):
        raise PackageError(f"{MANIFEST}: a label is there twice")
    for name, value in manifest.metrics.items():
        if not math.isfinite(value):
            raise PackageError(f"{MANIFEST}: metric {name} is {value}")
    _check_parameters(manifest.parameters)
    if manifest.image is not None:
        _check_picture(manifest, manifest.image)
    if manifest.statistics is not None:
        _check_statistics(manifest.statistics)
    if manifest.evaluation is not None:
        _check_evaluation(manifest, manifest.evaluation)


def _check_files(manifest: Manifest) -> None:
    runtime = runtime_of(manifest.runtime)
    paths = [file.path for file in manifest.files]
    evaluation = manifest.evaluation.file if manifest.evaluation else None
    for file in [*manifest.files, *([evaluation] if evaluation else [])]:
        most = MAX_EVALUATION if file is evaluation else _most(runtime, file.path)
        if most is None or (file.path == EVALUATION) != (file is evaluation):
            raise PackageError(f"{file.path[:80]!r}: not a file of a model package")
        if not 0 <= file.size <= most:
            raise PackageError(f"{file.path}: {file.size} bytes, at most {most} are read")
        if not re.fullmatch(r"[0-9a-f]{64}", file.sha256):
            raise PackageError(f"{file.path}: {file.sha256[:80]!r} is not a sha256")
    if len(set(paths)) != len(paths):
        raise PackageError(f"{MANIFEST}: names a file twice")
    if (manifest.task == "opaque") != ("*" in runtime.FILES):
        raise PackageError(f"{MANIFEST}: a model of runtime {manifest.runtime} is {manifest.task}")
    if GOLDEN not in paths and manifest.task != "opaque":
        raise PackageError(f"{GOLDEN}: missing from the manifest")
    if runtime.FILE and runtime.FILE not in paths:
        raise PackageError(
            f"{runtime.FILE}: missing from the manifest, whose runtime is {manifest.runtime}"
        )


def _most(runtime: Runtime, path: str) -> int | None:
    """The most bytes of a file with that name; None where no such file belongs there."""
    if path == GOLDEN:
        return MAX_GOLDEN
    if path in runtime.FILES:
        return runtime.FILES[path]
    plain = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", path)
    return runtime.FILES.get("*") if plain and path not in (MANIFEST, EVALUATION) else None


def _check_texts(manifest: Manifest) -> None:
    _check_lengths(
        "a name or a version",
        [
            manifest.created,
            manifest.publisher,
            manifest.training_commit or "",
            manifest.data_digest or "",
            manifest.runtime_reason,
            *manifest.libraries,
            *manifest.libraries.values(),
        ],
    )
    _check_lengths("a feature's name", [feature.name for feature in manifest.features])
    _check_lengths("a label", manifest.labels)
    _check_lengths("a metric's name", manifest.metrics)
    for what, entries in (("metrics", manifest.metrics), ("libraries", manifest.libraries)):
        _check_count(what, entries)


def _check_lengths(what: str, texts: Iterable[str]) -> None:
    longest = max(map(len, texts), default=0)
    if longest > MAX_TEXT:
        raise PackageError(f"{MANIFEST}: {what} has {longest} characters, at most {MAX_TEXT}")


def _check_count(what: str, entries: Mapping[str, Any]) -> None:
    if len(entries) > MAX_ENTRIES:
        raise PackageError(f"{MANIFEST}: {len(entries)} {what}, at most {MAX_ENTRIES}")


def _check_features(manifest: Manifest) -> None:
    if manifest.task == "opaque" and not manifest.features:
        return
    if not 1 <= len(manifest.features) <= MAX_FEATURES:
        raise PackageError(
            f"{MANIFEST}: {len(manifest.features)} features, expected 1 to {MAX_FEATURES}"
        )
    if len({feature.name for feature in manifest.features}) != len(manifest.features):
        raise PackageError(f"{MANIFEST}: two features have one name")
    for feature in manifest.features:
        if feature.dtype not in DTYPES:
            raise PackageError(
                f"feature {feature.name!r}: dtype {feature.dtype[:80]!r}, "
                f"expected one of {', '.join(DTYPES)}"
            )
        if (
            len(feature.shape) > MAX_DIMENSIONS
            or any(not 0 < side <= MAX_ELEMENTS for side in feature.shape)
            or math.prod(feature.shape) > MAX_ELEMENTS
        ):
            shape = str(feature.shape)[:80]
            raise PackageError(
                f"feature {feature.name!r}: absurd shape {shape}, expected at most "
                f"{MAX_DIMENSIONS} sides and {MAX_ELEMENTS} elements"
            )
    if manifest.layout == "matrix" and not _is_matrix(manifest.features):
        raise PackageError(
            f"{MANIFEST}: a matrix has one dtype, and one shaped feature or only numbers"
        )
    if manifest.layout == "series" and (len(manifest.features) != 1 or manifest.features[0].shape):
        raise PackageError(f"{MANIFEST}: a series has one feature without a shape")
    if manifest.layout == "tensors" and (
        len(manifest.features) < 2
        or sum(math.prod(feature.shape) for feature in manifest.features) > MAX_ELEMENTS
    ):
        raise PackageError(
            f"{MANIFEST}: tensors are several features, of at most {MAX_ELEMENTS} elements in all"
        )
    if manifest.layout == "table" and any(feature.shape for feature in manifest.features):
        raise PackageError(f"{MANIFEST}: a table's features have no shape")


def _is_matrix(features: Sequence[Feature]) -> bool:
    same = len({feature.dtype for feature in features}) == 1 and features[0].dtype != "str"
    return same and (
        (len(features) == 1 and len(features[0].shape) >= 1) or not any(f.shape for f in features)
    )


def _check_parameters(parameters: Mapping[str, Any]) -> None:
    waiting: list[tuple[Any, int]] = [(parameters, 0)]
    met = 0
    while waiting:
        value, depth = waiting.pop()
        met += 1
        if depth > MAX_DEPTH:
            raise PackageError(f"{MANIFEST}: parameters are nested deeper than {MAX_DEPTH}")
        if met > MAX_ENTRIES:
            raise PackageError(f"{MANIFEST}: parameters hold more than {MAX_ENTRIES} values")
        if isinstance(value, dict):
            _check_lengths("a parameter's name", value)
            waiting.extend((item, depth + 1) for item in value.values())
        elif isinstance(value, list):
            waiting.extend((item, depth + 1) for item in value)


def _check_picture(manifest: Manifest, picture: Picture) -> None:
    width, height = picture.width, picture.height
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
        raise PackageError(
            f"{MANIFEST}: image of {width} x {height}, expected sides of 1 to {MAX_SIDE}"
        )
    if picture.mode != "L":
        raise PackageError(
            f"{MANIFEST}: image mode {picture.mode[:80]!r}, expected 'L': pictures are read in grey"
        )
    if picture.background not in ("black", "white") or picture.ink not in ("bright", "dark"):
        raise PackageError(
            f"{MANIFEST}: image background {picture.background[:80]!r} and ink "
            f"{picture.ink[:80]!r}, expected 'black' or 'white', and 'bright' or 'dark'"
        )
    if not 0 < picture.maximum <= 2**32:
        raise PackageError(f"{MANIFEST}: image maximum {picture.maximum}, expected more than 0")
    elements = math.prod(row_shape(manifest))
    if manifest.layout != "matrix" or width * height != elements:
        raise PackageError(
            f"{MANIFEST}: image of {width} x {height} pixels for a {manifest.layout} whose rows "
            f"have {elements} elements"
        )


def _check_statistics(statistics: Statistics) -> None:
    count = len(statistics.elements)
    _check_lengths("an element's name", statistics.elements)
    if not count == len(statistics.mean) == len(statistics.std) == len(statistics.quantiles):
        raise PackageError(
            f"{MANIFEST}: statistics of {count} elements have {len(statistics.mean)} means, "
            f"{len(statistics.std)} deviations and {len(statistics.quantiles)} quantiles"
        )
    levels = len(statistics.levels)
    if levels > MAX_LEVELS or any(len(values) != levels for values in statistics.quantiles):
        raise PackageError(
            f"{MANIFEST}: statistics have {levels} levels, expected at most {MAX_LEVELS}, and as "
            "many quantiles for each element"
        )
    for shares in (statistics.answers, *statistics.categories.values()):
        _check_lengths("a category", shares)
        _check_count("categories", shares)
    _check_count("features with categories", statistics.categories)


def _check_evaluation(manifest: Manifest, evaluation: Evaluation) -> None:
    if len(evaluation.description) > MAX_DESCRIPTION:
        raise PackageError(
            f"{MANIFEST}: the evaluation's description has {len(evaluation.description)} "
            f"characters, at most {MAX_DESCRIPTION}"
        )
    if not 0 <= evaluation.rows < 2**53:
        raise PackageError(f"{MANIFEST}: an evaluation on {evaluation.rows} rows")
    table = evaluation.confusion or []
    if table and {len(table), *map(len, table)} != {len(manifest.labels)}:
        raise PackageError(
            f"{MANIFEST}: a confusion matrix of other than {len(manifest.labels)} x "
            f"{len(manifest.labels)} labels"
        )
    if any(not 0 <= count < 2**53 for row in table for count in row):
        raise PackageError(f"{MANIFEST}: a confusion matrix with a count that is none")
