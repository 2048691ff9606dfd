"""The layer around Flask: what holds for every request, whatever its address.

Request ids, bounds on what comes in, who may ask, room to work, headers of every answer; and
afterwards the count, the line in the log and the span.
"""

from __future__ import annotations

import io
import os
import re
import time
from collections.abc import Callable, Iterable
from http import HTTPStatus
from threading import get_ident
from typing import Any

from tandem.serving import problems
from tandem.serving.bodies import JSON, Bodies, content_length, json_body
from tandem.serving.paths import PATHS, path_of
from tandem.serving.problems import Problem
from tandem.serving.score import QUICK_BYTES
from tandem.serving.service import Service
from tandem.serving.traces import Span

REQUEST_ID = "tandem.request_id"
Start = Callable[..., Any]

_SANE_ID = re.compile(r"[A-Za-z0-9._:/=+-]{1,128}\Z")
_QUIET = {path_of(path) for path in ("/healthz", "/readyz", "/metrics", "/v2/health/live")}
_VERSION = path_of("/version")
_SCORING = {path_of("/score"), path_of("/v2/models/x/infer")}

_COMMON = [
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
]
FOR_PROGRAMS = [
    *_COMMON,
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
    ("Cache-Control", "no-store"),
]
FOR_PEOPLE = [
    *_COMMON,
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("X-Frame-Options", "DENY"),
    ("Permissions-Policy", "camera=(), geolocation=(), microphone=()"),
    ("Cache-Control", "no-cache"),  # ask again, send again only if changed
]


METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# What of a head cannot be refused here, as WSGI does not show it: a line that ends with LF alone,
# which the server takes (RFC 9112 section 2.2 permits that), and how a name was spelt.


class Middleware:
    """The WSGI callable that the server gets."""

    def __init__(self, inner: Callable[..., Iterable[bytes]], service: Service) -> None:
        self._inner = inner
        self.service = service
        self._scoring = service.scoring
        self._metrics = service.metrics
        self._draining = service.draining
        self._access = service.access
        self._log = service.log
        self._traces = service.traces
        settings = service.settings
        self._limit = settings.max_body_bytes
        self._guarded = frozenset(path_of(path) for path in settings.guarded)
        self.bodies = Bodies(max(1, settings.threads // 3), settings.body_seconds)
        self._began = self.bodies.began
        # Called before what may keep this thread for longer than a quick prediction.
        self.step_down: Callable[[], None] = lambda: None

    def __call__(self, environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        began = time.perf_counter()
        me = get_ident()
        given = environ.get("HTTP_X_REQUEST_ID")
        request_id = given if given and _SANE_ID.match(given) else os.urandom(16).hex()
        environ[REQUEST_ID] = request_id
        path = path_of(environ["PATH_INFO"])
        span = None
        if self._traces is not None and path not in _QUIET:
            span = self._traces.begin(environ.get("HTTP_TRACEPARENT", ""))
        status = 500

        def start(line: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            nonlocal status
            status = int(line[:3])
            people = environ.get("tandem.people")
            headers.extend(FOR_PEOPLE if people else FOR_PROGRAMS)
            headers.append(("X-Request-ID", request_id))
            if self.bodies.pressed or self._draining.is_set() or environ.get("tandem.close"):
                headers.append(("Connection", "close"))
            return start_response(line, headers, exc_info)

        self._metrics.began()
        self._began[me] = began
        try:
            return self._answer(environ, start, path)
        finally:
            del self._began[me]
            seconds = time.perf_counter() - began
            self._metrics.ended(path, status, seconds)
            if span is not None:
                self._traced(span, environ, path, status)
            if self._log.requests and path not in _QUIET:
                self._logged(environ, status, seconds, request_id, span)

    def _answer(self, environ: dict[str, Any], start: Start, path: int) -> Iterable[bytes]:
        """Flask's answer, or a problem where the request does not get that far."""
        try:
            if environ["REQUEST_METHOD"] not in METHODS:
                # Spelled otherwise it would be none of a route's, and past its keys and bounds.
                raise Problem(501, "This method is not known here; methods are in upper case.")
            host = environ["HTTP_HOST"]
            if (not host and environ["SERVER_PROTOCOL"] == "HTTP/1.1") or "," in host:
                raise Problem(400, "A request must name one host, with the header Host.")
            if path not in _SCORING or environ["REQUEST_METHOD"] != "POST":
                self.step_down()
                if path in self._guarded:
                    self._check_key(environ, path)
                return self._inner(environ, start)
            if not self._access.free:
                self._access.admit(environ)
            if "HTTP_CONTENT_LENGTH" in environ or "HTTP_CONTENT_TYPE" in environ:
                # Content_Length: another header, which something before us may have gone by.
                raise Problem(400, "Content-Length and Content-Type are written with a hyphen.")
            length = content_length(environ)
            if length is None or length > QUICK_BYTES:
                self.step_down()
            body = self.bodies.read(environ["wsgi.input"], length, self._limit)
            environ["tandem.body"] = body
            gate = self._scoring.gate_for(body)
            score = self._scoring.by_path.get(environ["PATH_INFO"])
            if score is None or gate is not self._scoring.quick_gate:
                self.step_down()
            try:
                entered = gate.enter()
            except Problem:
                self._metrics.turned_away()
                raise
            try:
                if score is None:
                    environ["wsgi.input"] = io.BytesIO(body)
                    # Flask's answers are lists: all of the work is done when it returns.
                    return self._inner(environ, start)
                # The usual spellings of the addresses that nearly all requests have go past Flask,
                # which costs more than the model.
                content = score(json_body(environ))
            finally:
                gate.leave(entered)
            start("200 OK", [("Content-Type", JSON), ("Content-Length", str(len(content)))])
            return [content]
        except Problem as problem:
            return self._refused(problem, environ, start)
        except Exception as error:  # noqa: BLE001 - the caller gets an answer, whatever it is
            return self._refused(self.service.failed(error, environ[REQUEST_ID]), environ, start)

    def _check_key(self, environ: dict[str, Any], path: int) -> None:
        try:
            self._access.authenticate(environ)
        except Problem as problem:
            # A release asks without a key what is running, and gets an answer to that alone.
            if path != _VERSION or problem.status != 401:
                raise
            environ["tandem.unknown_caller"] = True

    @staticmethod
    def _refused(problem: Problem, environ: dict[str, Any], start: Start) -> list[bytes]:
        # What is left of the body must not be taken for the next request.
        environ["tandem.close"] = "tandem.body" not in environ
        content = problems.body(problem, environ)
        headers = [
            ("Content-Type", problems.MEDIA_TYPE),
            ("Content-Length", str(len(content))),
            *problem.headers.items(),
        ]
        start(f"{problem.status} {HTTPStatus(problem.status).phrase}", headers)
        return [content]

    def _logged(
        self,
        environ: dict[str, Any],
        status: int,
        seconds: float,
        request_id: str,
        span: Span | None,
    ) -> None:
        line = {
            "level": "info",
            "message": "request",
            "method": environ["REQUEST_METHOD"],
            "path": environ["PATH_INFO"][:200],
            "status": status,
            "milliseconds": round(seconds * 1000, 3),
            "client": self._access.address(environ),
            "request_id": request_id,
        }
        if span is not None:
            line["trace_id"] = span.trace_id
        self._log.add(line)

    def _traced(self, span: Span, environ: dict[str, Any], path: int, status: int) -> None:
        assert self._traces is not None  # noqa: S101 - a span exists
        method = environ["REQUEST_METHOD"]
        attributes = {
            "http.request.method": method,
            "http.route": PATHS[path],
            "url.path": environ["PATH_INFO"][:200],
            "tandem.request_id": environ[REQUEST_ID],
        }
        self._traces.end(span, f"{method} {PATHS[path]}", status, attributes)
