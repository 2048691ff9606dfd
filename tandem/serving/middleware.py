"""The layer around the app: what holds for every request, whatever its address.

Request ids, bounds on what comes in, who may ask, room to work; and afterwards the count, the line
in the log and the span.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from http import HTTPStatus
from threading import get_ident
from time import perf_counter
from typing import Any

from tandem.serving import problems
from tandem.serving.addresses import Address
from tandem.serving.admission import Gate
from tandem.serving.bodies import JSON, content_length, has_body, json_body
from tandem.serving.exchange import REQUEST_ID, WHOLE_BYTES, Exchange, Shared, Start, close
from tandem.serving.headers import FOR_PROGRAMS
from tandem.serving.problems import Problem
from tandem.serving.score import QUICK_BYTES
from tandem.serving.service import Service

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# What of a head cannot be refused here, as WSGI does not show it: a line that ends with LF alone,
# which the server takes (RFC 9112 section 2.2 permits that), and how a name was spelt.

Wsgi = Callable[[dict[str, Any], Start], Iterable[bytes]]
_UNUSUAL = frozenset(
    {
        "HTTP_X_REQUEST_ID",
        "HTTP_CONTENT_LENGTH",
        "HTTP_CONTENT_TYPE",
        "HTTP_CONTENT_ENCODING",
        "HTTP_INFERENCE_HEADER_CONTENT_LENGTH",
    }
)


class Middleware:
    """The server's WSGI callable: `own` answers for Tandem, `app` all else."""

    def __init__(
        self, own: Wsgi, app: Wsgi, service: Service, propagates: Callable[[], bool]
    ) -> None:
        self._own = own
        self._app = app
        self._propagates = propagates
        """Whether an exception of the app goes on to the caller: a test, or a debugger."""
        self.service = service
        self._address_of = service.addresses.of
        self._scoring = service.scoring
        self._metrics = service.metrics
        self._draining = service.draining
        self._access = service.access
        self._log = service.log
        self._traces = service.traces
        settings = service.settings
        self._limit = settings.max_body_bytes
        self._shared = shared = Shared(service)
        self.bodies = shared.bodies
        self._began = self.bodies.began
        # An app's own routes leave threads free for health and for what is refused.
        most = max(1, settings.threads - settings.threads // 4)
        self._app_gate = Gate(most, settings.threads, settings.patience_seconds)
        # Called before what may keep this thread for longer than a quick prediction.
        self.step_down: Callable[[], None] = lambda: None
        # What nearly all requests ask, where nothing has to be asked about them first.
        scoring = service.scoring
        free = service.access.free and service.traces is None
        self._quick = scoring.by_path if scoring is not None and free else {}

    def __call__(self, environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        score = self._quick.get(environ["PATH_INFO"])
        if score is not None and self._is_plain(environ):
            return self._answer_quickly(score, environ, start_response)
        exchange = Exchange(self._shared, environ, start_response, perf_counter())
        try:
            answer = self._answer(environ, exchange)
        except BaseException:
            exchange.close()
            raise
        if type(answer) is list:
            exchange.close()
            return answer
        return exchange.streaming(answer)

    def _is_plain(self, environ: dict[str, Any]) -> bool:
        """Whether nothing about this request is unusual: it may go the short way."""
        length = environ.get("CONTENT_LENGTH", "")
        return (
            environ["REQUEST_METHOD"] == "POST"
            and environ.get("CONTENT_TYPE") == JSON
            and length.isdecimal()
            and len(length) < 6
            and int(length) <= QUICK_BYTES
            and "," not in environ.get("HTTP_HOST", ",")
            and environ["HTTP_HOST"] != ""
            and _UNUSUAL.isdisjoint(environ)
            and not self.bodies.pressed
            and not self._draining.is_set()
        )

    def _answer_quickly(
        self, score: Callable[[bytes], bytes], environ: dict[str, Any], start_response: Start
    ) -> list[bytes]:
        """As `_score` in an exchange of its own, without what a plain request does not need."""
        began = perf_counter()
        thread = get_ident()
        at_work = self._began
        at_work[thread] = began
        scoring = self._scoring
        assert scoring is not None  # noqa: S101 - it has this path
        try:
            body = environ["tandem.body"] = self.bodies.read(
                environ["wsgi.input"], int(environ["CONTENT_LENGTH"]), self._limit
            )
            gate = scoring.gate_for(body)
            if gate is not scoring.quick_gate:
                self._slow()
            entered = self._enter(gate)
            try:
                content = score(body)
            finally:
                gate.leave(entered)
        except Exception as error:  # noqa: BLE001 - the caller gets an answer, whatever it is
            exchange = Exchange(self._shared, environ, start_response, began)
            if not isinstance(error, Problem):
                error = self.service.failed(error, exchange.request_id)
            answer = self._refused(error, environ, exchange)
            exchange.close()
            return answer
        request_id = environ[REQUEST_ID] = self._shared.new_id()
        headers = [
            ("Content-Type", JSON),
            ("Content-Length", str(len(content))),
            *FOR_PROGRAMS,
            ("X-Request-ID", request_id),
        ]
        start_response("200 OK", headers)
        del at_work[thread]
        seconds = perf_counter() - began
        path = environ["PATH_INFO"]
        self._metrics.ended(self._address_of(path).number, 200, seconds, len(at_work))
        if self._log.requests:
            client = self._access.address(environ)
            self._log.add(("POST", path, 200, seconds, client, request_id, None))
        return [content]

    def _answer(self, environ: dict[str, Any], exchange: Exchange) -> Iterable[bytes]:
        """The answer, or a problem where the request does not get that far."""
        address = exchange.address
        method = environ["REQUEST_METHOD"]
        try:
            if method not in METHODS:
                # Spelled otherwise it would be none of a route's, and past its keys and bounds.
                raise Problem(501, "This method is not supported; methods are in upper case.")
            host = environ.get("HTTP_HOST", "")
            if (not host and environ["SERVER_PROTOCOL"] == "HTTP/1.1") or "," in host:
                raise Problem(400, "A request must name one host, with the header Host.")
            if address.name is None:
                return self._answer_of_app(environ, exchange)
            if address.scores and method == "POST" and self._scoring is not None:
                return self._score(environ, exchange)
            self._slow()
            if address.key and not self._access.open:
                self._check_key(environ, address)
            return _whole(self._own(environ, exchange.start))
        except Problem as problem:
            return self._refused(problem, environ, exchange)
        except Exception as error:
            if address.name is None and self._propagates():
                raise
            failure = self.service.failed(error, exchange.request_id)
            return self._refused(failure, environ, exchange)

    def _score(self, environ: dict[str, Any], exchange: Exchange) -> list[bytes]:
        if not self._access.free:
            self._access.admit(environ)
        body = self._body(environ)
        scoring = self._scoring
        assert scoring is not None  # noqa: S101 - else there is no such address
        gate = scoring.gate_for(body)
        score = scoring.by_path.get(environ["PATH_INFO"])
        if score is None or gate is not scoring.quick_gate:
            self._slow()
        entered = self._enter(gate)
        try:
            if score is None:
                environ["wsgi.input"] = io.BytesIO(body)
                return _whole(self._own(environ, exchange.start))
            # The usual spellings of the addresses that nearly all requests have go past Flask,
            # which costs more than the model.
            content = score(json_body(environ))
        finally:
            gate.leave(entered)
        exchange.start("200 OK", [("Content-Type", JSON), ("Content-Length", str(len(content)))])
        return [content]

    def _answer_of_app(self, environ: dict[str, Any], exchange: Exchange) -> Iterable[bytes]:
        self._slow()
        if exchange.address.key and not self._access.free:
            self._access.admit(environ)
        if has_body(environ):
            body = self._body(environ)
            environ["wsgi.input"] = io.BytesIO(body)
            environ["CONTENT_LENGTH"] = str(len(body))
        exchange.entered = self._enter(self._app_gate)
        exchange.gate = self._app_gate
        answer = self._app(environ, exchange.start)
        return _whole(answer) if exchange.length <= WHOLE_BYTES else answer

    def _body(self, environ: dict[str, Any]) -> bytes:
        """The whole body, bounded; kept for `json_body`."""
        if "HTTP_CONTENT_LENGTH" in environ or "HTTP_CONTENT_TYPE" in environ:
            # Content_Length: another header, which something before us may have gone by.
            raise Problem(400, "Content-Length and Content-Type are written with a hyphen.")
        length = content_length(environ)
        if length is None or length > QUICK_BYTES:
            self._slow()
            if length is None and not environ.get("wsgi.input_terminated"):
                length = 0
        body = environ["tandem.body"] = self.bodies.read(environ["wsgi.input"], length, self._limit)
        return body

    def _slow(self) -> None:
        """What follows may take longer than a quick prediction."""
        self._metrics.at_work(len(self._began))
        self.step_down()

    def _enter(self, gate: Gate) -> float:
        try:
            return gate.enter()
        except Problem:
            self._metrics.turned_away()
            raise

    def _check_key(self, environ: dict[str, Any], address: Address) -> None:
        try:
            self._access.authenticate(environ)
        except Problem as problem:
            # A release asks without a key what is running, and gets an answer to that alone.
            if address.name != "version" or problem.status != 401:
                raise
            environ["tandem.unknown_caller"] = True

    @staticmethod
    def _refused(problem: Problem, environ: dict[str, Any], exchange: Exchange) -> list[bytes]:
        # What is left of the body must not be taken for the next request.
        exchange.closes = has_body(environ) and "tandem.body" not in environ
        exchange.own = True
        content = problems.body(problem, environ)
        headers = [
            ("Content-Type", problems.MEDIA_TYPE),
            ("Content-Length", str(len(content))),
            *problem.headers.items(),
        ]
        exchange.start(f"{problem.status} {HTTPStatus(problem.status).phrase}", headers)
        return [content]


def _whole(answer: Iterable[bytes]) -> list[bytes]:
    """All parts of an answer, which is then done."""
    try:
        return [b"".join(answer)]
    finally:
        close(answer)
