"""Scoring: from the body of a question to the body of its answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from tandem.serving import inference, pictures
from tandem.serving.admission import Gate
from tandem.serving.metrics import Metrics
from tandem.serving.model import Model
from tandem.serving.problems import Problem
from tandem.serving.settings import Settings

QUICK_BYTES = 16384
"""A longer body is not scored in next to no time, whatever the model."""


class ModelName(msgspec.Struct, frozen=True):
    """Who answered."""

    name: str
    version: int | None


class Scored(msgspec.Struct, frozen=True):
    """What POST /score answers."""

    predictions: list[Any]
    model: ModelName
    milliseconds: float


class Scoring:
    """The model behind POST /score and the inference protocol, with the room to work in."""

    def __init__(self, model: Model, settings: Settings, metrics: Metrics) -> None:
        self.model = model
        self.settings = settings
        self.metrics = metrics
        patience = settings.patience_seconds
        self.gate = Gate(settings.slots, max(1, settings.threads // 4), patience)
        # What takes less than a thread's switch goes one by one: two threads at such work do little
        # but pass the interpreter's lock to each other. All may wait there: it is never for long.
        self.quick_gate = Gate(1, settings.threads, patience)
        self.name = ModelName(model.manifest.name, settings.model_version)
        self.decoder = msgspec.json.Decoder(
            msgspec.defstruct(
                "Question",
                [
                    ("images", list[str] | UnsetType, UNSET),
                    ("rows", list[model.row_type] | UnsetType, UNSET),  # type: ignore[name-defined]
                ],
                forbid_unknown_fields=True,
            )
        )
        self.infer_decoder = msgspec.json.Decoder(inference.InferenceRequest)
        self.encoder = msgspec.json.Encoder()
        # By the path as it is usually spelt; Flask's rules know the others.
        named = f"/v2/models/{self.name.name}"
        self.by_path: dict[str, Callable[[bytes], bytes]] = {
            "/score": self.score,
            f"{named}/infer": self.infer,
            f"{named}/versions/{self.name.version}/infer": self.infer,
        }

    def gate_for(self, body: bytes) -> Gate:
        """The gate that a scoring request with this body passes."""
        quick = len(body) <= QUICK_BYTES and self.model.quick and b'"images"' not in body
        return self.quick_gate if quick else self.gate

    def score(self, body: bytes) -> bytes:
        """The answer to a body of POST /score. Raises Problem."""
        began = time.perf_counter()
        asked: Any = decoded(self.decoder, body)
        if (asked.images is UNSET) == (asked.rows is UNSET):
            raise Problem(422, 'The body must have either "rows" or "images".')
        if asked.rows is UNSET:
            rows = pictures.rows(asked.images, self.model, self.settings)
        else:
            given = asked.rows
            if not given:
                raise Problem(422, "There is nothing to score: the list is empty.")
            if len(given) > self.settings.max_rows:
                raise Problem(
                    422, f"{len(given)} rows are too many: at most {self.settings.max_rows}."
                )
            rows = self.model.rows(given)
        output = self.model.predict(rows)
        self.metrics.scored(rows, output)
        predictions = self.model.answers(output)
        spent = round((time.perf_counter() - began) * 1000, 3)
        return self.encoder.encode(Scored(predictions, self.name, spent))

    def infer(self, body: bytes) -> bytes:
        """The answer to a body of POST /v2/models/NAME/infer. Raises Problem."""
        asked = decoded(self.infer_decoder, body)
        rows = self.model.rows(inference.rows_of(asked, self.model, self.settings.max_rows))
        output = self.model.predict(rows)
        self.metrics.scored(rows, output)
        version = self.settings.model_version
        return self.encoder.encode(inference.answer(asked, output, self.model, version))


def decoded(decoder: msgspec.json.Decoder[Any], body: bytes) -> Any:
    """What the body says. Raises Problem: 400 when it is not JSON, 422 when it does not fit."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise Problem(422, f"The body does not fit: {error}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Problem(400, "The body is not valid JSON.") from None
