"""What runs: the answers of GET /version, and the labels of tandem_build_info."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform

import msgspec

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


class AppVersion(msgspec.Struct, frozen=True):
    """The application's side of a release."""

    name: str
    commit: str | None


class ModelVersion(msgspec.Struct, frozen=True):
    """The model's side, what answers for it and why, and its inputs."""

    name: str
    version: int | None
    digest: str
    runtime: str
    runtime_reason: str
    created: str
    task: str
    metrics: dict[str, float]
    features: list[Feature]
    inputs: list[str]
    """The fields of POST /score that this model takes: "rows" and an app's own."""


class ReleasedModel(msgspec.Struct, frozen=True):
    """Of the model's side what a release compares."""

    name: str
    version: int | None
    digest: str


class ImageVersion(msgspec.Struct, frozen=True):
    """What both were packed into."""

    digest: str | None


class Version(msgspec.Struct, frozen=True):
    """What GET /version answers; `started` is when this process was ready."""

    app: AppVersion
    model: ModelVersion | None
    image: ImageVersion
    release: int | None
    started: str
    libraries: dict[str, str]


class Released(msgspec.Struct, frozen=True):
    """What GET /version answers to a caller without a key, where it is guarded."""

    app: AppVersion
    model: ReleasedModel | None
    image: ImageVersion
    release: int | None


def describe(
    name: str,
    model: Model | None,
    settings: Settings,
    started: datetime.datetime,
    inputs: list[str],
) -> Version:
    """What is running, with the versions of the libraries that are installed."""
    libraries = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            libraries[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    return Version(
        AppVersion(name, settings.app_commit),
        None if model is None else _model(model, settings.model_version, inputs),
        ImageVersion(settings.image_digest),
        settings.release,
        started.isoformat(timespec="seconds").replace("+00:00", "Z"),
        libraries,
    )


def _model(model: Model, version: int | None, inputs: list[str]) -> ModelVersion:
    manifest = model.manifest
    return ModelVersion(
        manifest.name,
        version,
        model.digest,
        model.predictor.runtime,
        manifest.runtime_reason,
        manifest.created,
        manifest.task,
        manifest.metrics,
        model.features,
        inputs,
    )


def released(version: Version) -> Released:
    """The part of it that is no secret where /version is guarded."""
    model = None
    if version.model is not None:
        model = ReleasedModel(version.model.name, version.model.version, version.model.digest)
    return Released(version.app, model, version.image, version.release)


def labels(version: Version) -> dict[str, str]:
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
