"""The OpenAPI document, made of the types that requests are decoded with."""

from __future__ import annotations

from typing import Any

import msgspec

from tandem.serving import inference
from tandem.serving.model import Model, Prediction, Value, scalar
from tandem.serving.problems import MEDIA_TYPE, ProblemDetails
from tandem.serving.settings import Settings

JSON = "application/json"
_WHY = {
    400: "The body is not JSON, or was cut short; or no host is named.",
    401: "A key or token is needed and was not given, or is not valid.",
    404: "There is no such model here.",
    408: "The body did not arrive in time, or too slowly.",
    413: "The body is too long, or its pictures have too many pixels together.",
    415: "The body is not application/json.",
    422: "The body is JSON, but not a question that this model can answer.",
    429: "This client asks too often; the header Retry-After says when to come again.",
    500: "The service failed; its log says why.",
    503: "The service is stopping or has too much to do; come again after Retry-After seconds.",
}
_SCORING = (400, 408, 413, 415, 422, 500, 503)


def document(
    model: Model, settings: Settings, version: type, released: type, scored: type
) -> dict[str, Any]:
    """The document (OpenAPI 3.1) of the service around this model."""
    manifest = model.manifest
    answer = Prediction if model.classifies else Value
    _, components = msgspec.json.schema_components(
        [
            ProblemDetails,
            answer,
            version,
            released,
            scored,
            inference.InferenceRequest,
            inference.InferenceResponse,
            inference.ModelMetadata,
        ],
        ref_template="#/components/schemas/{name}",
    )
    components["Score"] = _question(model, settings)
    components[scored.__name__]["properties"]["predictions"]["items"] = _ref(answer.__name__)
    guard: list[dict[str, list[str]]] | None = (
        [{"key": []}, {"token": []}] if settings.api_keys or settings.oidc_issuer else None
    )
    extra = ((401,) if guard else ()) + ((429,) if settings.rate else ())

    def operation(
        summary: str,
        schema: dict[str, Any] | None,
        *problems: int,
        status: str = "200",
        media: str = JSON,
        **members: Any,
    ) -> dict[str, Any]:
        good: dict[str, Any] = {"description": summary}
        good["content"] = {media: {"schema": schema if schema is not None else {"type": "string"}}}
        answers: dict[str, Any] = {status: good}
        for code in problems:
            answers[str(code)] = {
                "description": _WHY[code],
                "content": {MEDIA_TYPE: {"schema": _ref("ProblemDetails")}},
            }
        return {"summary": summary, "responses": answers, **members}

    def scoring(
        summary: str, schema: str, answers: str, example: Any, name: str, *problems: int
    ) -> dict[str, Any]:
        body = {"required": True, "content": {JSON: {"schema": _ref(schema), "example": example}}}
        found = operation(
            summary,
            _ref(answers),
            *sorted({*_SCORING, *extra, *problems}),
            operationId=name,
            requestBody=body,
        )
        if guard:
            found["security"] = guard
        return found

    def plain(
        summary: str, schema: dict[str, Any] | None, name: str, *problems: int, **more: Any
    ) -> dict[str, Any]:
        if f"/{name}" in settings.guarded and name != "version":
            problems, more = (401, *problems), {"security": guard, **more}
        return operation(summary, schema, 400, *problems, 500, operationId=name, **more)

    running: dict[str, Any] = _ref(version.__name__)
    if "/version" in settings.guarded:  # without a key it says less
        running = {"anyOf": [running, _ref(released.__name__)]}
    flag = {"type": "object", "additionalProperties": {"type": ["boolean", "string"]}}
    golden = model.package.golden().inputs[0]
    example = {"rows": [golden]}
    name = manifest.name
    named = {"parameters": [_path_parameter("name", name)]}
    versioned = {
        "parameters": [
            *named["parameters"],
            _path_parameter("version", str(settings.model_version or 1)),
        ]
    }
    tensors = _tensors(model, golden)
    metadata = _ref("ModelMetadata")
    infer = ("InferenceRequest", "InferenceResponse", {"inputs": tensors})
    paths: dict[str, Any] = {
        "/score": {
            "post": scoring(
                "Score rows" + (" or pictures" if manifest.image else ""),
                "Score",
                scored.__name__,
                example,
                "score",
            )
        },
        "/version": {"get": plain("What is running", running, "version")},
        "/healthz": {"get": plain("Whether the process is alive", flag, "healthz")},
        "/readyz": {"get": plain("Whether to send it requests", flag, "readyz", 503)},
        "/metrics": {"get": plain("Metrics for Prometheus", None, "metrics", media="text/plain")},
        "/v2": {
            "get": plain("Open Inference Protocol: the server", {"type": "object"}, "v2_server")
        },
        "/v2/health/live": {"get": plain("Open Inference Protocol: alive", flag, "v2_live")},
        "/v2/health/ready": {"get": plain("Open Inference Protocol: ready", flag, "v2_ready", 503)},
        "/v2/models/{name}": {
            **named,
            "get": plain("The model's tensors", metadata, "v2_model", 404),
        },
        "/v2/models/{name}/ready": {
            **named,
            "get": plain("Whether the model is ready", flag, "v2_model_ready", 404, 503),
        },
        "/v2/models/{name}/infer": {
            **named,
            "post": scoring("Ask the model with tensors", *infer, "v2_infer", 404),
        },
    }
    if settings.model_version is not None:
        paths |= {
            "/v2/models/{name}/versions/{version}": {
                **versioned,
                "get": plain("The version's tensors", metadata, "v2_version", 404),
            },
            "/v2/models/{name}/versions/{version}/ready": {
                **versioned,
                "get": plain("Whether it is ready", flag, "v2_version_ready", 404, 503),
            },
            "/v2/models/{name}/versions/{version}/infer": {
                **versioned,
                "post": scoring("Ask this version with tensors", *infer, "v2_version_infer", 404),
            },
        }
    schemes = {
        "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        "token": {"type": "http", "scheme": "bearer"},
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": settings.app_name or name,
            "version": str(settings.release or settings.app_commit or "0"),
            "description": f"The released model {name}: ask it with POST /score, or with the "
            "Open Inference Protocol, version 2. What is refused is answered with RFC 9457 "
            "problem details, of which one member is a sentence for people: another method than "
            "those below with 405 and the header Allow, one that HTTP does not know with 501.",
        },
        "paths": paths,
        "components": {"schemas": components} | ({"securitySchemes": schemes} if guard else {}),
    }


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _path_parameter(name: str, value: str) -> dict[str, Any]:
    schema = {"type": "string", "enum": [value]}
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _question(model: Model, settings: Settings) -> dict[str, Any]:
    rows = {
        "type": "array",
        "items": _row(model),
        "minItems": 1,
        "maxItems": settings.max_rows,
        "description": "Rows of values, in the order of the features or by their names.",
    }
    by_rows = _object({"rows": rows})
    if model.manifest.image is None:
        return by_rows
    images = {
        "type": "array",
        "items": {"type": "string", "contentEncoding": "base64"},
        "minItems": 1,
        "maxItems": settings.max_images,
        "description": "PNG or JPEG pictures in base64.",
    }
    return {"oneOf": [by_rows, _object({"images": images})]}


def _row(model: Model) -> dict[str, Any]:
    features = model.features
    values = [msgspec.json.schema(scalar(feature)) for feature in features]
    if model.manifest.layout == "series":
        return {"anyOf": [{"type": "string"}, _exactly([{"type": "string"}])]}
    if len(features) == 1 and features[0].shape:
        schema = values[0]
        for side in reversed(features[0].shape):
            schema = {"type": "array", "items": schema, "minItems": side, "maxItems": side}
        return schema
    by_name = _object(dict(zip(model.names, values, strict=True)))
    return {"anyOf": [_exactly(values), by_name]}


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
