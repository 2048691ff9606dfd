"""The addresses of the service: one function for each, between a request and its answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from tandem.serving import exposition, inference, problems
from tandem.serving.bodies import JSON, json_body
from tandem.serving.problems import Problem
from tandem.serving.service import Service
from tandem.serving.version import labels, released

PAGE = Path(__file__).parent / "page"
PAGE_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


def make_flask(service: Service) -> Flask:
    """The addresses of the service."""
    app = Flask("serving", static_folder=None)
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False  # the middleware would take it for another path
    _add_own(app, service)
    _add_inference_protocol(app, service)
    _add_pages(app, service)

    @app.errorhandler(Problem)
    def problem(error: Problem) -> Response:
        return refused(error)

    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> Response:
        status = error.code or 500
        if status == 405:
            allowed = ", ".join(sorted(getattr(error, "valid_methods", None) or []))
            detail = f"{request.method} is not possible here, only {allowed}."
            return refused(Problem(405, detail, {"Allow": allowed}))
        if status == 404:
            return refused(Problem(404, "There is nothing at this address."))
        return refused(Problem(status, "The request cannot be answered."))

    @app.errorhandler(Exception)
    def broken(error: Exception) -> Response:
        return refused(service.failed(error, request.environ.get("tandem.request_id")))

    return app


def _add_own(app: Flask, service: Service) -> None:
    @app.post("/score")
    def score() -> Response:
        return Response(service.scoring.score(json_body(request.environ)), content_type=JSON)

    @app.get("/healthz")
    def healthz() -> Response:
        return said({"status": "alive"})

    @app.get("/readyz")
    def readyz() -> Response:
        _refuse_while_draining(service)
        return said({"status": "ready"})

    @app.get("/version")
    def version() -> Response:
        told = service.version
        if "tandem.unknown_caller" not in request.environ:
            return said(told)
        return said(released(told))

    @app.get("/openapi.json")
    def openapi() -> Response:
        return Response(service.openapi, content_type=JSON)

    @app.get("/metrics")
    def metrics() -> Response:
        accept = request.headers.get("Accept", "")
        text, kind = exposition.text(service.metrics, labels(service.version), accept)
        return Response(text, content_type=kind)


def _add_inference_protocol(app: Flask, service: Service) -> None:
    model, number = service.model, service.settings.model_version

    def known(name: str, version: str | None) -> None:
        if name != model.manifest.name or version not in (None, str(number)):
            raise Problem(404, "There is no such model here.")

    @app.get("/v2")
    def server() -> Response:
        return said({"name": "tandem", "version": "2", "extensions": []})

    @app.get("/v2/health/live")
    def live() -> Response:
        return said({"live": True})

    @app.get("/v2/health/ready")
    def ready() -> Response:
        _refuse_while_draining(service)
        return said({"ready": True})

    def metadata(name: str, version: str | None = None) -> Response:
        known(name, version)
        return said(inference.metadata(model, number))

    def model_ready(name: str, version: str | None = None) -> Response:
        known(name, version)
        _refuse_while_draining(service)
        return said({"name": name, "ready": True})

    def infer(name: str, version: str | None = None) -> Response:
        known(name, version)
        return Response(service.scoring.infer(json_body(request.environ)), content_type=JSON)

    for prefix in ("/v2/models/<name>", "/v2/models/<name>/versions/<version>"):
        app.add_url_rule(prefix, "metadata", metadata, methods=["GET"])
        app.add_url_rule(prefix + "/ready", "model_ready", model_ready, methods=["GET"])
        app.add_url_rule(prefix + "/infer", "infer", infer, methods=["POST"])


def _add_pages(app: Flask, service: Service) -> None:
    def file(name: str) -> Response:
        response = Response((PAGE / name).read_bytes())
        response.content_type = PAGE_TYPES[name.rpartition(".")[2]]
        request.environ["tandem.people"] = True
        response.add_etag()
        response.make_conditional(request)
        return response

    @app.get("/")
    def page() -> Response:
        return file("index.html")

    @app.get("/docs")
    def docs() -> Response:
        return file("docs.html")

    @app.get("/<any('page.css', 'page.js', 'docs.js', 'icon.svg'):name>")
    def part(name: str) -> Response:
        return file(name)


def _refuse_while_draining(service: Service) -> None:
    if service.draining.is_set():
        raise Problem(503, "The service is stopping.", {"Retry-After": "1"})


def said(value: Any) -> Response:
    """A value as JSON."""
    return Response(msgspec.json.encode(value), content_type=JSON)


def refused(problem: Problem) -> Response:
    """A problem as a response."""
    content = problems.body(problem, request.environ)
    return Response(content, problem.status, problem.headers, content_type=problems.MEDIA_TYPE)
