"""The OpenAPI document is true: whatever it allows and forbids, the service answers as it says."""

from __future__ import annotations

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck, given
from schemathesis import checks as known
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi import checks

KINDS = ["digits", "iris", "diabetes", "mixed", "words"]
# Not asked for: positive_data_acceptance. A schema cannot say "base64 of a picture" or "as many
# values as the shape says", so 422 is right for some of what it lets through.
CHECKS = [
    known.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
    checks.unsupported_method,
]


@pytest.mark.parametrize("kind", ["digits", "diabetes", "mixed"])
def test_answers_are_what_the_document_says(app, kind):
    handle = app(kind, model_version=17).handle
    schema = schemathesis.openapi.from_wsgi("/openapi.json", handle)
    asked = set()
    for found in schema.get_all_operations():
        operation = found.ok()
        asked.add(operation.label)
        # A question that can be got wrong in many ways is asked in more of them.
        examples = 6 if operation.body else 2
        for mode in GenerationMode:
            ask(operation, mode, examples)
    assert {"POST /score", "POST /v2/models/{name}/infer", "GET /version"} <= asked


def ask(operation, mode, examples):
    @given(case=operation.as_strategy(generation_mode=mode))
    @hypothesis.settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    def answered(case):
        case.call_and_validate(checks=CHECKS)

    try:
        answered()
    except hypothesis.errors.Unsatisfiable:
        assert mode is GenerationMode.NEGATIVE  # nothing to get wrong in this one


@pytest.mark.parametrize("kind", KINDS)
def test_the_examples_of_the_document_are_answered(app, kind):
    client = app(kind, model_version=17)
    document = client.get("/openapi.json").json
    asked = 0
    for template, methods in document["paths"].items():
        path = template.replace("{name}", kind).replace("{version}", "17")
        for method, told in methods.items():
            if method == "parameters":
                continue
            body = told.get("requestBody", {}).get("content", {}).get("application/json", {})
            answer = client.ask(method.upper(), path, body.get("example"))
            assert answer.status == 200, (path, answer.body)
            asked += 1
    assert asked == 14


def test_the_document_names_the_keys_only_where_they_are_asked_for(app):
    assert "securitySchemes" not in app().get("/openapi.json").json["components"]
    guarded = app(api_keys=(b"x",), rate=1.0).get("/openapi.json").json
    assert set(guarded["components"]["securitySchemes"]) == {"key", "token"}
    answers = guarded["paths"]["/score"]["post"]["responses"]
    assert {"401", "429"} <= set(answers)


def test_the_document_tells_what_is_guarded(app):
    settings = {"api_keys": (b"x",), "guarded": ("/metrics", "/version")}
    client = app(**settings)
    paths = client.get("/openapi.json").json["paths"]
    assert "401" in paths["/metrics"]["get"]["responses"]
    assert paths["/metrics"]["get"]["security"] == paths["/score"]["post"]["security"]
    version = paths["/version"]["get"]
    assert "401" not in version["responses"]
    kinds = version["responses"]["200"]["content"]["application/json"]["schema"]["anyOf"]
    assert [kind["$ref"].rpartition("/")[2] for kind in kinds] == ["DetailedVersion", "Released"]


def test_each_answer_that_is_listed_can_be_given(app):
    client = app(max_body_bytes=100, model_version=17)
    document = client.get("/openapi.json").json
    answers = document["paths"]["/score"]["post"]["responses"]
    assert set(answers) == {"200", "400", "408", "413", "415", "422", "500", "503"}
    infer = document["paths"]["/v2/models/{name}/infer"]["post"]["responses"]
    assert set(infer) == {*answers, "404"}
    assert client.ask("POST", "/v2/models/other/infer", {"inputs": []}).status == 404
    assert client.ask("POST", "/score", {"rows": [[0] * 100]}).status == 413
    answer = client.ask("DELETE", "/score")
    assert (answer.status, answer.headers["allow"]) == (405, "OPTIONS, POST")
    assert client.ask("BREW", "/score").status == 501
    assert "405" in document["info"]["description"]
    assert "501" in document["info"]["description"]
