"""Tandem's own addresses: one function for each, between a request and its answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from tandem.serving import exposition, inference, problems
from tandem.serving.addresses import PREFIX
from tandem.serving.bodies import JSON, json_body
from tandem.serving.headers import FOR_PEOPLE
from tandem.serving.model import Model
from tandem.serving.problems import Problem
from tandem.serving.score import Scoring
from tandem.serving.service import Service
from tandem.serving.version import labels, released

PAGE = Path(__file__).parent / "page"
PARTS = "'answer.js', 'form.js', 'page.css', 'docs.js', 'icon.svg'"
PAGE_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


def make_flask(service: Service) -> Flask:
    """Tandem's own addresses, below its prefix and at their usual places."""
    app = Flask("tandem.serving", static_folder=None)
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False  # the middleware would take it for another path
    _add_own(app, service)
    if service.scoring is not None:
        _add_score(app, service, service.scoring)
        _add_inference_protocol(app, service, service.scoring.model)
    _add_pages(app, service)
    app.register_error_handler(Problem, refused)

    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> Response:
        status = error.code or 500
        if isinstance(error, MethodNotAllowed):
            allowed = ", ".join(sorted(error.valid_methods or []))
            detail = f"{request.method} is not supported here; supported: {allowed}."
            return refused(Problem(405, detail, {"Allow": allowed}))
        if status == 404:
            return refused(Problem(404, "There is nothing at this address."))
        return refused(Problem(status, "The request cannot be answered."))

    @app.errorhandler(Exception)
    def broken(error: Exception) -> Response:
        return refused(service.failed(error, request.environ.get("tandem.request_id")))

    return app


def _add_own(app: Flask, service: Service) -> None:
    def live() -> Response:
        return answered({"status": "alive"})

    def ready() -> Response:
        _refuse_while_draining(service)
        return answered({"status": "ready"})

    def version() -> Response:
        full = service.version
        known = "tandem.unknown_caller" not in request.environ
        return answered(full if known else released(full))

    def openapi() -> Response:
        return Response(service.openapi, content_type=JSON)

    def metrics() -> Response:
        accept = request.headers.get("Accept", "")
        text, kind = exposition.text(service.metrics, labels(service.version), accept)
        return Response(text, content_type=kind)

    views = {"live": live, "ready": ready, "version": version, "metrics": metrics}
    for name, view in (views | {"openapi.json": openapi}).items():
        for place in service.addresses.places[name]:
            app.add_url_rule(place, view.__name__, view, methods=["GET"])


def _add_score(app: Flask, service: Service, scoring: Scoring) -> None:
    def score() -> Response:
        return Response(scoring.score(json_body(request.environ)), content_type=JSON)

    for place in service.addresses.places["score"]:
        app.add_url_rule(place, "score", score, methods=["POST"])


def _add_inference_protocol(app: Flask, service: Service, model: Model) -> None:
    number, v2, scoring = service.settings.model_version, service.addresses.v2, service.scoring

    def known(name: str, version: str | None) -> None:
        if name != model.manifest.name or version not in (None, str(number)):
            raise Problem(404, "There is no such model here.")

    @app.get(v2)
    def v2_server() -> Response:
        return answered({"name": "tandem", "version": "2", "extensions": []})

    @app.get(f"{v2}/health/live")
    def v2_live() -> Response:
        return answered({"live": True})

    @app.get(f"{v2}/health/ready")
    def v2_ready() -> Response:
        _refuse_while_draining(service)
        return answered({"ready": True})

    def metadata(name: str, version: str | None = None) -> Response:
        known(name, version)
        return answered(inference.metadata(model, number))

    def model_ready(name: str, version: str | None = None) -> Response:
        known(name, version)
        _refuse_while_draining(service)
        return answered({"name": name, "ready": True})

    def infer(name: str, version: str | None = None) -> Response:
        known(name, version)
        assert scoring is not None  # noqa: S101 - there is a model
        return Response(scoring.infer(json_body(request.environ)), content_type=JSON)

    for prefix in (f"{v2}/models/<name>", f"{v2}/models/<name>/versions/<version>"):
        app.add_url_rule(prefix, "metadata", metadata, methods=["GET"])
        app.add_url_rule(prefix + "/ready", "model_ready", model_ready, methods=["GET"])
        app.add_url_rule(prefix + "/infer", "infer", infer, methods=["POST"])


def _add_pages(app: Flask, service: Service) -> None:
    @app.get(f"{PREFIX}/", strict_slashes=True)  # its parts are named relative to it
    def page() -> Response:
        return page_file(PAGE / "index.html")

    @app.get(f"{PREFIX}/<any({PARTS}):name>")
    def part(name: str) -> Response:
        return page_file(PAGE / name)

    def docs() -> Response:
        if request.path.startswith(PREFIX):
            return page_file(PAGE / "docs.html")
        return Response(status=302, headers={"Location": f"{request.script_root}{PREFIX}/docs"})

    for place in service.addresses.places["docs"]:
        app.add_url_rule(place, "docs", docs, methods=["GET"])


def page_file(path: Path) -> Response:
    """A file of a page, with the headers that forbid it anything foreign."""
    response = Response(path.read_bytes())
    response.content_type = PAGE_TYPES[path.suffix]
    response.headers.extend(FOR_PEOPLE)
    request.environ["tandem.people"] = True
    response.add_etag()
    response.make_conditional(request)
    return response


def _refuse_while_draining(service: Service) -> None:
    if service.draining.is_set():
        raise Problem(503, "The service is stopping.", {"Retry-After": "1"})


def answered(value: Any) -> Response:
    """A value as JSON."""
    return Response(msgspec.json.encode(value), content_type=JSON)


def refused(problem: Problem) -> Response:
    """A problem as a response."""
    content = problems.body(problem, request.environ)
    return Response(content, problem.status, problem.headers, content_type=problems.MEDIA_TYPE)
