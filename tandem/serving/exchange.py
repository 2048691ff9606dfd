"""One request and its answer: its id, its headers, and what is written down at its end."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator
from threading import get_ident
from time import perf_counter
from typing import Any

from tandem.serving.admission import Gate
from tandem.serving.bodies import Bodies
from tandem.serving.headers import FOR_PROGRAMS
from tandem.serving.service import Service
from tandem.serving.traces import Span

REQUEST_ID = "tandem.request_id"
RULE = "tandem.rule"
"""Where the extension notes the app's URL rule that a request matched."""
WHOLE_BYTES = 1 << 20
"""An app's answers up to this size are handed on whole, longer ones as they come."""

Start = Callable[..., Any]
_SANE_ID = re.compile(r"[A-Za-z0-9._:/=+-]{1,128}\Z")


class Shared:
    """What all exchanges of a worker share."""

    def __init__(self, service: Service) -> None:
        settings = service.settings
        self.service = service
        self.address_of = service.addresses.of
        self.bodies = Bodies(max(1, settings.threads // 3), settings.body_seconds)
        self._prefix = os.urandom(8).hex()
        self._numbers = itertools.count(int.from_bytes(os.urandom(6), "big"))

    def new_id(self) -> str:
        """An id for a request that brings none: 32 hex digits, unlike any other."""
        return f"{self._prefix}{next(self._numbers):016x}"


class Exchange:
    """One request and its answer, from the first look to the count."""

    __slots__ = (
        "_began",
        "_closed",
        "_shared",
        "_span",
        "_start_response",
        "_status",
        "_thread",
        "address",
        "closes",
        "entered",
        "environ",
        "gate",
        "length",
        "own",
        "request_id",
    )

    def __init__(
        self,
        shared: Shared,
        environ: dict[str, Any],
        start_response: Start,
        began: float,
    ) -> None:
        self._began = began
        self._shared = shared
        self._start_response = start_response
        self._status = 500
        self._thread = thread = get_ident()
        self._span: Span | None = None
        self.environ = environ
        self.address = address = shared.address_of(environ["PATH_INFO"])
        self.own = address.name is not None
        self.closes = self._closed = False
        self.gate: Gate | None = None
        self.entered = 0.0
        self.length = 0
        """Bytes of the answer as its head says, more than any where it does not."""
        given = environ.get("HTTP_X_REQUEST_ID")
        self.request_id = given if given and _SANE_ID.match(given) else shared.new_id()
        environ[REQUEST_ID] = self.request_id
        if shared.service.traces is not None and not address.quiet:
            self._span = shared.service.traces.begin(environ.get("HTTP_TRACEPARENT", ""))
        shared.bodies.began[thread] = began

    def start(
        self, line: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], Any]:
        """What the app calls: PEP 3333's start_response, with the headers of every answer."""
        shared = self._shared
        self._status = int(line[:3])
        if self.own:
            if "tandem.people" not in self.environ:
                headers += FOR_PROGRAMS
        else:
            lengths = [value for name, value in headers if name.lower() == "content-length"]
            self.length = int(lengths[0]) if lengths else WHOLE_BYTES + 1
        headers.append(("X-Request-ID", self.request_id))
        if self.closes or shared.bodies.pressed or shared.service.draining.is_set():
            headers.append(("Connection", "close"))
        if exc_info is None:
            write: Callable[[bytes], Any] = self._start_response(line, headers)
        else:
            write = self._start_response(line, headers, exc_info)
        return write

    def streaming(self, answer: Iterable[bytes]) -> Iterable[bytes]:
        """An answer that is made while it is sent; the exchange lasts as long."""
        return _Streamed(answer, self)

    def close(self) -> None:
        """The answer is made: count it, and write it down, once."""
        if self._closed:
            return
        self._closed = True
        shared, environ, address = self._shared, self.environ, self.address
        if self.gate is not None:
            self.gate.leave(self.entered)
        began = shared.bodies.began
        began.pop(self._thread, None)
        seconds = perf_counter() - self._began
        number = address.number if address.name is not None else self._route()
        status = self._status
        shared.service.metrics.ended(number, status, seconds, len(began))
        if address.quiet:
            return
        span = self._span
        if span is not None:
            self._end_span(span, number)
        log = shared.service.log
        if log.requests:
            log.request(
                environ["REQUEST_METHOD"],
                environ["PATH_INFO"],
                status,
                seconds,
                shared.service.access.address(environ),
                self.request_id,
                span.trace_id if span is not None else None,
            )

    def _route(self) -> int:
        """The number of the app's rule that answered."""
        addresses = self._shared.service.addresses
        return addresses.routes.get(self.environ.get(RULE, ""), self.address.number)

    def _end_span(self, span: Span, number: int) -> None:
        traces = self._shared.service.traces
        assert traces is not None  # noqa: S101 - a span exists
        method = self.environ["REQUEST_METHOD"]
        route = self._shared.service.addresses.labels[number]
        attributes = {
            "http.request.method": method,
            "http.route": route,
            "url.path": self.environ["PATH_INFO"][:200],
            "tandem.request_id": self.request_id,
        }
        traces.end(span, f"{method} {route}", self._status, attributes)


class _Streamed:
    """An answer that ends its exchange when it is closed (PEP 3333)."""

    def __init__(self, answer: Iterable[bytes], exchange: Exchange) -> None:
        self._answer = answer
        self._exchange = exchange

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._answer
        except BaseException:  # also where nobody listens any more, and nobody calls close
            self._exchange.close()
            raise

    def close(self) -> None:
        """Called by the server when all was sent, or when nobody listens any more."""
        try:
            close(self._answer)
        finally:
            self._exchange.close()


def close(answer: Iterable[bytes]) -> None:
    """Tell an answer that it was sent, or that nobody listens any more (PEP 3333)."""
    end = getattr(answer, "close", None)  # an answer may have one or not
    if end is not None:
        end()
