"""What runs: the answers of GET /version, and the labels of tandem_build_info."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform

from tandem.contract import (
    AppVersion,
    ImageVersion,
    ModelVersion,
    Released,
    ReleasedModel,
    Version,
)
from tandem.model.package import Feature
from tandem.serving.model import Model
from tandem.serving.settings import Settings

LIBRARIES = (
    "flask",
    "granian",
    "msgspec",
    "numpy",
    "onnxruntime",
    "pillow",
    "scikit-learn",
    "skops",
)


class ModelDetails(ModelVersion, frozen=True, kw_only=True):
    """The model's side with all that is known of it."""

    runtime_reason: str
    created: str
    task: str
    metrics: dict[str, float]
    features: list[Feature]
    inputs: list[str]
    """The fields of POST /score that this model takes: "rows" and an app's own."""


class DetailedVersion(Version, frozen=True):
    """What GET /version answers where nothing is kept back."""

    model: ModelDetails | None


def describe(
    name: str,
    model: Model | None,
    settings: Settings,
    started: datetime.datetime,
    inputs: list[str],
) -> DetailedVersion:
    """What is running, with the versions of the libraries that are installed."""
    libraries = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            libraries[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    return DetailedVersion(
        AppVersion(name, settings.app_commit),
        None if model is None else _model(model, settings.model_version, inputs),
        ImageVersion(settings.image_digest),
        settings.release,
        started.isoformat(timespec="seconds").replace("+00:00", "Z"),
        libraries,
    )


def _model(model: Model, version: int | None, inputs: list[str]) -> ModelDetails:
    manifest = model.manifest
    return ModelDetails(
        name=manifest.name,
        version=version,
        digest=model.digest,
        runtime=model.predictor.runtime,
        runtime_reason=manifest.runtime_reason,
        created=manifest.created,
        task=manifest.task,
        metrics=manifest.metrics,
        features=model.features,
        inputs=inputs,
    )


def released(version: DetailedVersion) -> Released:
    """The part of it that is no secret where /version is guarded."""
    model = None
    if version.model is not None:
        model = ReleasedModel(version.model.name, version.model.version, version.model.digest)
    return Released(version.app, model, version.image, version.release)


def labels(version: DetailedVersion) -> dict[str, str]:
    """The labels of the metric that says what is running."""
    known: dict[str, str | int | None] = {
        "app": version.app.name,
        "commit": version.app.commit,
        "image_digest": version.image.digest,
        "release": version.release,
    }
    if version.model is not None:
        known |= {
            "model": version.model.name,
            "model_version": version.model.version,
            "model_digest": version.model.digest,
            "runtime": version.model.runtime,
        }
    return {name: str(value) for name, value in known.items() if value is not None}
