"""The Flask app: one function for each address, between what was asked and what the model says."""

from __future__ import annotations

import datetime
import mmap
import threading
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from flask import Flask, Response, request
from msgspec import UNSET, UnsetType
from werkzeug.exceptions import HTTPException

from tandem.model.package import Feature
from tandem.serving import inference, pictures, problems
from tandem.serving.access import Access, Issuer
from tandem.serving.admission import Gate
from tandem.serving.logs import Log
from tandem.serving.metrics import Metrics
from tandem.serving.middleware import JSON, QUICK_BYTES, Edge, json_body
from tandem.serving.model import Model
from tandem.serving.problems import Problem
from tandem.serving.settings import Settings

if TYPE_CHECKING:
    from tandem.serving.traces import Traces

PAGE = Path(__file__).parent / "page"
PAGE_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
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


class ModelName(msgspec.Struct, frozen=True):
    """Who answered."""

    name: str
    version: int | None


class Scored(msgspec.Struct, frozen=True):
    """What POST /score answers."""

    predictions: list[Any]
    model: ModelName
    milliseconds: float


class AppVersion(msgspec.Struct, frozen=True):
    """The application's side of a release."""

    name: str
    commit: str | None


class ModelVersion(msgspec.Struct, frozen=True):
    """The model's side, what answers for it and why, and what it takes."""

    name: str
    version: int | None
    digest: str
    runtime: str
    runtime_reason: str
    created: str
    task: str
    metrics: dict[str, float]
    features: list[Feature]
    pictures: bool


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
    model: ModelVersion
    image: ImageVersion
    release: int | None
    started: str
    libraries: dict[str, str]


class Released(msgspec.Struct, frozen=True):
    """What GET /version answers to a caller without a key, where it is guarded."""

    app: AppVersion
    model: ReleasedModel
    image: ImageVersion
    release: int | None


class Service:
    """What the addresses share: model, settings, state; `handle` is the WSGI callable."""

    def __init__(
        self,
        model: Model,
        settings: Settings,
        *,
        log: Log | None = None,
        traces: Traces | None = None,
        memory: mmap.mmap | None = None,
        worker: int = 0,
    ) -> None:
        self.model = model
        self.settings = settings
        self.log = log or Log(1, "warning")
        self.traces = traces
        self.started = datetime.datetime.now(datetime.UTC)
        self.draining = threading.Event()
        self.metrics = Metrics(model, memory, worker)
        self.log.on_drop = self.metrics.dropped
        patience = settings.patience_seconds
        self.gate = Gate(settings.slots, max(1, settings.threads // 4), patience)
        # What takes less than a thread's switch goes one by one: two threads at such work do little
        # but pass the interpreter's lock to each other. All may wait there: it is never for long.
        self.quick_gate = Gate(1, settings.threads, patience)
        issuer = None
        if settings.oidc_issuer:
            issuer = Issuer(settings.oidc_issuer, settings.oidc_audience or "")
        rate = settings.rate / settings.workers if settings.rate else None
        self.access = Access(settings.api_keys, issuer, rate, settings.trusted_proxies)
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
        self.scoring: dict[str, Callable[[bytes], bytes]] = {
            "/score": self.score,
            f"{named}/infer": self.infer,
            f"{named}/versions/{self.name.version}/infer": self.infer,
        }
        self.flask = make_flask(self)
        self.handle = Edge(self.flask.wsgi_app, self)

    @cached_property
    def version(self) -> Version:
        """What is running; the libraries are looked up when somebody first asks."""
        import importlib.metadata
        import platform

        libraries = {"python": platform.python_version()}
        for name in LIBRARIES:
            try:
                libraries[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                continue
        manifest, settings = self.model.manifest, self.settings
        return Version(
            AppVersion(settings.app_name or manifest.name, settings.app_commit),
            ModelVersion(
                manifest.name,
                settings.model_version,
                self.model.digest,
                self.model.predictor.runtime,
                manifest.runtime_reason,
                manifest.created,
                manifest.task,
                manifest.metrics,
                self.model.features,
                manifest.image is not None,
            ),
            ImageVersion(settings.image_digest),
            settings.release,
            self.started.isoformat(timespec="seconds").replace("+00:00", "Z"),
            libraries,
        )

    @cached_property
    def openapi(self) -> bytes:
        """The OpenAPI document."""
        from tandem.serving import openapi

        return msgspec.json.encode(
            openapi.document(self.model, self.settings, Version, Released, Scored)
        )

    @cached_property
    def build(self) -> dict[str, str]:
        """The labels of the metric that says what is running."""
        version = self.version
        told = {
            "app": version.app.name,
            "commit": version.app.commit,
            "model": version.model.name,
            "model_version": version.model.version,
            "model_digest": version.model.digest,
            "runtime": version.model.runtime,
            "image_digest": version.image.digest,
            "release": version.release,
        }
        return {name: str(value) for name, value in told.items() if value is not None}

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


def make_flask(service: Service) -> Flask:
    """The addresses of the service."""
    app = Flask("serving", static_folder=None)
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False  # the edge would take it for another path
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
        return refused(service.handle.failed(error, request.environ))

    return app


def _add_own(app: Flask, service: Service) -> None:
    @app.post("/score")
    def score() -> Response:
        return Response(service.score(json_body(request.environ)), content_type=JSON)

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
        model = ReleasedModel(told.model.name, told.model.version, told.model.digest)
        return said(Released(told.app, model, told.image, told.release))

    @app.get("/openapi.json")
    def openapi() -> Response:
        return Response(service.openapi, content_type=JSON)

    @app.get("/metrics")
    def metrics() -> Response:
        text, kind = service.metrics.text(service.build, request.headers.get("Accept", ""))
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
        return Response(service.infer(json_body(request.environ)), content_type=JSON)

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


def create_app(model: Model, settings: Settings, **parts: Any) -> Service:
    """The service around a loaded model; `parts` as Service takes them."""
    return Service(model, settings, **parts)
