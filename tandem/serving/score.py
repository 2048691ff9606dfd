"""Scoring: from a question's body to its answer, and what the app's own code asks."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType

from tandem.contract import ModelName, Scored
from tandem.serving import inference
from tandem.serving.adapters import InputAdapter
from tandem.serving.addresses import Addresses
from tandem.serving.admission import Gate
from tandem.serving.metrics import Metrics
from tandem.serving.model import Model
from tandem.serving.problems import Problem
from tandem.serving.settings import Settings

QUICK_BYTES = 16384
"""A longer body is not quick to score, whatever the model."""
QUICK_VALUES = 2048
"""The same for rows times features."""


class Scoring:
    """The model behind POST /score and the inference protocol, with room to work in."""

    def __init__(
        self,
        model: Model,
        settings: Settings,
        metrics: Metrics,
        addresses: Addresses,
        adapters: Sequence[InputAdapter] = (),
    ) -> None:
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
                    (field, list[item] | UnsetType, UNSET)  # type: ignore[valid-type]
                    for field, item in (
                        *((adapter.field, adapter.item) for adapter in adapters),
                        ("rows", model.row_type),
                    )
                ],
                forbid_unknown_fields=True,
            )
        )
        self.infer_decoder = msgspec.json.Decoder(inference.InferenceRequest)
        self.encoder = msgspec.json.Encoder()
        # By the path as it is usually spelt; Flask's rules know the others.
        self.by_path: dict[str, Callable[[bytes], bytes]] = dict.fromkeys(
            addresses.places["score"], self.score
        )
        named = f"{addresses.v2}/models/{self.name.name}"
        self.by_path[f"{named}/infer"] = self.infer
        self.by_path[f"{named}/versions/{self.name.version}/infer"] = self.infer
        self.adapters = {each.field: each for each in adapters}
        self._marks = [f'"{field}"'.encode() for field in self.adapters]
        self._either = " or ".join(f'"{field}"' for field in ("rows", *self.adapters))
        for adapter in adapters:
            if adapter.fits(model):
                adapter.warm_up(model)

    def gate_for(self, body: bytes) -> Gate:
        """The gate that a scoring request with this body passes."""
        quick = self.model.quick and len(body) <= QUICK_BYTES
        for mark in self._marks:
            quick = quick and mark not in body
        return self.quick_gate if quick else self.gate

    def score(self, body: bytes) -> bytes:
        """The answer to a body of POST /score. Raises Problem."""
        began = time.perf_counter()
        question = decoded(self.decoder, body)
        given = question.rows
        plain = given is not UNSET
        for field in self.adapters:
            plain = plain and getattr(question, field) is UNSET
        rows = self._plain_rows(given) if plain else self._rows(question)
        output = self.model.predict(rows)
        self.metrics.scored(rows, output)
        predictions = self.model.answers(output)
        spent = round((time.perf_counter() - began) * 1000, 3)
        return self.encoder.encode(Scored(predictions, self.name, spent))

    def _rows(self, question: Any) -> np.ndarray:
        given = msgspec.structs.asdict(question)
        fields = [field for field in given if given[field] is not UNSET]
        if len(fields) != 1:
            either = "either " if self.adapters else ""
            raise Problem(422, f"The body must have {either}{self._either}.")
        if fields == ["rows"]:
            return self._plain_rows(question.rows)
        adapter = self.adapters[fields[0]]
        if not adapter.fits(self.model):
            raise Problem(422, f'The model {self.name.name} takes "rows", not "{adapter.field}".')
        return adapter.rows(given[adapter.field], self.model)

    def _plain_rows(self, given: list[Any]) -> np.ndarray:
        if not given:
            raise Problem(422, "There is nothing to score: the list is empty.")
        if len(given) > self.settings.max_rows:
            raise Problem(422, f"{len(given)} rows are too many: at most {self.settings.max_rows}.")
        return self.model.rows(given)

    def ask(self, rows: np.ndarray) -> np.ndarray:
        """The model's output for rows of the app's own code, in its turn, counted.

        Rows and output as `Model.predict` has them. Raises Problem; 503 when there is more to do
        than can be done.
        """
        gate = self.quick_gate if self.model.quick and rows.size <= QUICK_VALUES else self.gate
        entered = gate.enter()
        try:
            output = self.model.predict(rows)
        finally:
            gate.leave(entered)
        self.metrics.scored(rows, output)
        return output

    def infer(self, body: bytes) -> bytes:
        """The answer to a body of POST /v2/models/NAME/infer. Raises Problem."""
        request = decoded(self.infer_decoder, body)
        rows = self.model.rows(inference.rows_of(request, self.model, self.settings.max_rows))
        output = self.model.predict(rows)
        self.metrics.scored(rows, output)
        version = self.settings.model_version
        return self.encoder.encode(inference.answer(request, output, self.model, version))


def decoded(decoder: msgspec.json.Decoder[Any], body: bytes) -> Any:
    """A question. Raises Problem: 400 when it is not JSON, 422 when it does not fit."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise Problem(422, f"The body does not fit: {error}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Problem(400, "The body is not valid JSON.") from None
