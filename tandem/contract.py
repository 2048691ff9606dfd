"""What a packed service answers at `/version` and `/score`, written once for both sides.

The service encodes these types (`tandem.serving`, which adds what it alone knows by inheriting),
and the release decodes them (`tandem.service`). Fields may be added, with a default; none is ever
renamed or taken away, since images of earlier editions go on answering.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

ALIVE_PATH = "/healthz"
"""200 as long as the process answers at all."""
READY_PATH = "/readyz"
"""200 once requests can be answered, 503 while the service is stopping."""
VERSION_PATH = "/version"
SCORE_PATH = "/score"
OWN_ALIVE_PATH = "/_tandem/live"
OWN_READY_PATH = "/_tandem/ready"
OWN_VERSION_PATH = "/_tandem/version"
OWN_SCORE_PATH = "/_tandem/score"
"""The same where no route of the app's own can be in the way; asked first."""


class AppVersion(msgspec.Struct, frozen=True):
    """The application's side of a release."""

    name: str
    commit: str | None


class ReleasedModel(msgspec.Struct, frozen=True):
    """The model's side of a release: what is compared with its record."""

    name: str
    version: int | None
    digest: str


class ModelVersion(ReleasedModel, frozen=True):
    """The model's side, and what answers for it."""

    runtime: str = ""


class ImageVersion(msgspec.Struct, frozen=True):
    """What both were packed into; None where the service was not told."""

    digest: str | None


class Released(msgspec.Struct, frozen=True):
    """`GET /version` to a caller without a key, where the service is guarded."""

    app: AppVersion
    model: ReleasedModel | None
    """None where the image holds the code alone."""
    image: ImageVersion
    release: int | None = None


class Version(Released, frozen=True):
    """`GET /version`: what is running; `started` is when this process was ready."""

    model: ModelVersion | None
    started: str = ""
    libraries: Mapping[str, str] = {}


class ModelName(msgspec.Struct, frozen=True):
    """Who answered."""

    name: str
    version: int | None


class Rows(msgspec.Struct, frozen=True):
    """`POST /score`: a list of rows, each a list of feature values."""

    rows: list[list[Any]]


class Predictions(msgspec.Struct, frozen=True):
    """What the release reads of an answer of `POST /score`: one prediction per row."""

    predictions: list[Any]


class Scored(Predictions, frozen=True):
    """The whole answer of `POST /score`; `milliseconds` were spent inside the service."""

    model: ModelName
    milliseconds: float
