"""The OpenAPI document of Tandem's addresses, from the types in use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from tandem.model.package import Feature
from tandem.serving import inference
from tandem.serving.adapters import InputAdapter
from tandem.serving.addresses import Addresses
from tandem.serving.bodies import JSON
from tandem.serving.model import Model, Prediction, Value, scalar
from tandem.serving.problems import MEDIA_TYPE, ProblemDetails
from tandem.serving.score import Scored
from tandem.serving.settings import Settings
from tandem.serving.version import Released, Version

_WHY = {
    400: "The body is not JSON, or was cut short; or no host is named.",
    401: "A key or token is needed and was not given, or is not valid.",
    404: "There is no such model here.",
    408: "The body did not arrive in time, or too slowly.",
    413: "The body is too long.",
    415: "The body is not application/json.",
    422: "The body is JSON, but not a question that this model can answer.",
    429: "This client asks too often; the header Retry-After says when to come again.",
    500: "The service failed; its log says why.",
    503: "The service is stopping or has too much to do; come again after Retry-After seconds.",
}
_SCORING = (400, 408, 413, 415, 422, 500, 503)
_FLAG = {"type": "object", "additionalProperties": {"type": ["boolean", "string"]}}


def document(
    title: str,
    model: Model | None,
    settings: Settings,
    addresses: Addresses,
    adapters: Sequence[InputAdapter] = (),
) -> dict[str, Any]:
    """The document (OpenAPI 3.1); without a model, of the addresses that need none."""
    types: list[type] = [ProblemDetails, Version, Released]
    if model is not None:
        types += [
            Prediction if model.classifies else Value,
            Scored,
            inference.InferenceRequest,
            inference.InferenceResponse,
            inference.ModelMetadata,
        ]
    _, components = msgspec.json.schema_components(
        types, ref_template="#/components/schemas/{name}"
    )
    writer = _Writer(settings, addresses, adapters)
    paths = writer.plain_paths()
    if model is not None:
        answer = Prediction if model.classifies else Value
        components["Score"] = _question(model, settings, adapters)
        components[Scored.__name__]["properties"]["predictions"]["items"] = _ref(answer.__name__)
        paths = writer.model_paths(model) | paths
    schemes = {
        "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        "token": {"type": "http", "scheme": "bearer"},
    }
    guarded = {"securitySchemes": schemes} if writer.guard else {}
    about = f"The released model {model.manifest.name}: ask it with POST " if model else ""
    if model:
        about += f"{addresses.places['score'][0]}, or with the Open Inference Protocol, version 2. "
    return {
        "openapi": "3.1.0",
        "info": {
            "title": title,
            "version": str(settings.release or settings.app_commit or "0"),
            "description": f"{about}What is refused is answered with RFC 9457 "
            "problem details, of which one member is a sentence for people: another method than "
            "those below with 405 and the header Allow, one that HTTP does not know with 501.",
        },
        "paths": paths,
        "components": {"schemas": components} | guarded,
    }


class _Writer:
    """Writes an operation for each address, with the refusals that settings bring."""

    def __init__(
        self, settings: Settings, addresses: Addresses, adapters: Sequence[InputAdapter]
    ) -> None:
        self.settings = settings
        self.addresses = addresses
        self.guard: list[dict[str, list[str]]] | None = (
            [{"key": []}, {"token": []}] if settings.api_keys or settings.oidc_issuer else None
        )
        self.why = _WHY | {
            status: f"{_WHY[status]} {reason}"
            for adapter in adapters
            for status, reason in adapter.problems.items()
        }

    def plain_paths(self) -> dict[str, Any]:
        """What there is without a model, too."""
        running: dict[str, Any] = _ref(Version.__name__)
        if "/version" in self.settings.guarded:  # without a key it says less
            running = {"anyOf": [running, _ref(Released.__name__)]}
        place = {name: places[0] for name, places in self.addresses.places.items()}
        return {
            place["version"]: {"get": self.plain("What is running", running, "version")},
            place["live"]: {"get": self.plain("Whether the process is alive", _FLAG, "healthz")},
            place["ready"]: {
                "get": self.plain("Whether to send it requests", _FLAG, "readyz", 503)
            },
            place["metrics"]: {
                "get": self.plain("Metrics for Prometheus", None, "metrics", media="text/plain")
            },
        }

    def model_paths(self, model: Model) -> dict[str, Any]:
        """What asks the model."""
        manifest, v2, version = model.manifest, self.addresses.v2, self.settings.model_version
        named = {"parameters": [_path_parameter("name", manifest.name)]}
        golden = model.package.golden().inputs[0]
        infer = ("InferenceRequest", "InferenceResponse", {"inputs": _tensors(model, golden)})
        metadata = _ref("ModelMetadata")
        server = "Open Inference Protocol: the server"
        paths: dict[str, Any] = {
            self.addresses.places["score"][0]: {
                "post": self.scoring(
                    "Ask the model", "Score", Scored.__name__, {"rows": [golden]}, "score"
                )
            },
            v2: {"get": self.plain(server, {"type": "object"}, "v2_server")},
            f"{v2}/health/live": {
                "get": self.plain("Open Inference Protocol: alive", _FLAG, "v2_live")
            },
            f"{v2}/health/ready": {
                "get": self.plain("Open Inference Protocol: ready", _FLAG, "v2_ready", 503)
            },
            f"{v2}/models/{{name}}": {
                **named,
                "get": self.plain("The model's tensors", metadata, "v2_model", 404),
            },
            f"{v2}/models/{{name}}/ready": {
                **named,
                "get": self.plain("Whether the model is ready", _FLAG, "v2_model_ready", 404, 503),
            },
            f"{v2}/models/{{name}}/infer": {
                **named,
                "post": self.scoring("Ask the model with tensors", *infer, "v2_infer", 404),
            },
        }
        if version is None:
            return paths
        versioned = {"parameters": [*named["parameters"], _path_parameter("version", str(version))]}
        prefix = f"{v2}/models/{{name}}/versions/{{version}}"
        return paths | {
            prefix: {
                **versioned,
                "get": self.plain("The version's tensors", metadata, "v2_version", 404),
            },
            f"{prefix}/ready": {
                **versioned,
                "get": self.plain("Whether it is ready", _FLAG, "v2_version_ready", 404, 503),
            },
            f"{prefix}/infer": {
                **versioned,
                "post": self.scoring(
                    "Ask this version with tensors", *infer, "v2_version_infer", 404
                ),
            },
        }

    def plain(
        self, summary: str, schema: dict[str, Any] | None, name: str, *problems: int, **more: Any
    ) -> dict[str, Any]:
        """A GET that needs a key only where it is guarded."""
        if f"/{name}" in self.settings.guarded and name != "version":
            problems, more = (401, *problems), {"security": self.guard, **more}
        return self.operation(summary, schema, 400, *problems, 500, operationId=name, **more)

    def scoring(
        self, summary: str, schema: str, answers: str, example: Any, name: str, *problems: int
    ) -> dict[str, Any]:
        """A POST that asks the model."""
        body = {"required": True, "content": {JSON: {"schema": _ref(schema), "example": example}}}
        extra = ((401,) if self.guard else ()) + ((429,) if self.settings.rate else ())
        written = self.operation(
            summary,
            _ref(answers),
            *sorted({*_SCORING, *extra, *problems}),
            operationId=name,
            requestBody=body,
        )
        if self.guard:
            written["security"] = self.guard
        return written

    def operation(
        self,
        summary: str,
        schema: dict[str, Any] | None,
        *problems: int,
        media: str = JSON,
        **members: Any,
    ) -> dict[str, Any]:
        """An operation with its answers; without a schema the good one is text."""
        good = {"schema": schema if schema is not None else {"type": "string"}}
        answers: dict[str, Any] = {"200": {"description": summary, "content": {media: good}}}
        for code in problems:
            answers[str(code)] = {
                "description": self.why[code],
                "content": {MEDIA_TYPE: {"schema": _ref("ProblemDetails")}},
            }
        return {"summary": summary, "responses": answers, **members}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _path_parameter(name: str, value: str) -> dict[str, Any]:
    schema = {"type": "string", "enum": [value]}
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _question(model: Model, settings: Settings, adapters: Sequence[InputAdapter]) -> dict[str, Any]:
    rows = {
        "type": "array",
        "items": _row(model),
        "minItems": 1,
        "maxItems": settings.max_rows,
        "description": "Rows of values, in the order of the features or by their names.",
    }
    by_rows = _object({"rows": rows})
    others = [_object({adapter.field: adapter.schema(model)}) for adapter in adapters]
    return {"oneOf": [by_rows, *others]} if others else by_rows


def _row(model: Model) -> dict[str, Any]:
    features = model.features
    values = [_value(feature) for feature in features]
    if model.manifest.layout == "series":
        return {"anyOf": [{"type": "string"}, _exactly([{"type": "string"}])]}
    if len(features) == 1 and features[0].shape:
        return values[0]
    by_name = _object(dict(zip(model.names, values, strict=True)))
    return {"anyOf": [_exactly(values), by_name]}


def _value(feature: Feature) -> dict[str, Any]:
    schema: dict[str, Any] = msgspec.json.schema(scalar(feature))
    for side in reversed(feature.shape):
        schema = {"type": "array", "items": schema, "minItems": side, "maxItems": side}
    return schema


def _exactly(values: list[Any]) -> dict[str, Any]:
    return {
        "type": "array",
        "prefixItems": values,
        "minItems": len(values),
        "maxItems": len(values),
    }


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _tensors(model: Model, row: list[Any]) -> list[dict[str, Any]]:
    whole = len(model.features) == 1 and model.features[0].shape
    return [
        {
            "name": feature.name,
            "shape": [1, *feature.shape],
            "datatype": inference.DATATYPES[feature.dtype],
            "data": row if whole else [row[at]],
        }
        for at, feature in enumerate(model.features)
    ]
