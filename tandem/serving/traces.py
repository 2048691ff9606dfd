"""Traces: a span for each sampled request, sent as OTLP over HTTP in JSON.

The protocol is one POST of plain JSON (OpenTelemetry Protocol 1.x, "JSON Protobuf Encoding"; W3C
Trace Context for `traceparent`), which the standard library can do. OpenTelemetry's own packages
would bring a dozen more libraries into the image.
"""

from __future__ import annotations

import collections
import http.client
import os
import re
import threading
import time
import urllib.parse
from collections.abc import Mapping
from typing import Any

import msgspec

from tandem.errors import SettingError

KEPT = 5000
BATCH = 512
PERIOD = 2.0
PATIENCE = 5.0
"""Seconds for a collector to answer."""
_PARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})\Z")


class Span(msgspec.Struct, frozen=True):
    """One request's place in a trace; ids in hex, `began` in nanoseconds since 1970."""

    trace_id: str
    span_id: str
    parent_id: str
    began: int


class Traces:
    """Samples requests and sends their spans from a thread of its own."""

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str],
        resource: Mapping[str, str],
        ratio: float,
        patience: float = PATIENCE,
    ) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SettingError(
                f"OTEL_EXPORTER_OTLP_ENDPOINT={url!r}: expected the URL of an OTLP/HTTP collector"
            )
        self._https = parts.scheme == "https"
        self._host = parts.netloc.rpartition("@")[2]
        self._path = parts.path or "/"
        self._headers = {"Content-Type": "application/json", **headers}
        self._resource = {"attributes": _attributes(resource)}
        self._patience = patience
        self._threshold = int(ratio * (1 << 64))
        self._spans: collections.deque[dict[str, Any]] = collections.deque(maxlen=KEPT)
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self.failed = 0

    def begin(self, traceparent: str) -> Span | None:
        """The span of a request that carries this header; None when it is not sampled."""
        if found := _PARENT.match(traceparent):
            trace_id, parent_id, flags = found.groups()
            if not int(flags, 16) & 1:
                return None
        else:
            trace_id, parent_id = os.urandom(16).hex(), ""
            if int(trace_id[16:], 16) >= self._threshold:
                return None
        return Span(trace_id, os.urandom(8).hex(), parent_id, time.time_ns())

    def end(self, span: Span, name: str, status: int, attributes: Mapping[str, Any]) -> None:
        """The request was answered."""
        self._spans.append(
            {
                "traceId": span.trace_id,
                "spanId": span.span_id,
                "parentSpanId": span.parent_id,
                "name": name,
                "kind": 2,
                "startTimeUnixNano": str(span.began),
                "endTimeUnixNano": str(time.time_ns()),
                "attributes": _attributes({**attributes, "http.response.status_code": status}),
                "status": {"code": 2 if status >= 500 else 0},
            }
        )

    def start(self) -> None:
        """Begin to send."""
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Send what is left."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(2 * self._patience)

    def _run(self) -> None:
        while not self._stopped.wait(PERIOD):
            self._send_all()
        self._send_all()

    def _send_all(self) -> None:
        while self._spans:
            spans: list[dict[str, Any]] = []
            while self._spans and len(spans) < BATCH:
                spans.append(self._spans.popleft())
            scoped = {"scope": {"name": "tandem.serving"}, "spans": spans}
            body = {"resourceSpans": [{"resource": self._resource, "scopeSpans": [scoped]}]}
            try:
                self._send(msgspec.json.encode(body))
            except (OSError, http.client.HTTPException, ValueError):
                self.failed += len(spans)  # an unreachable collector must not fill the memory
                return

    def _send(self, body: bytes) -> None:
        kind = http.client.HTTPSConnection if self._https else http.client.HTTPConnection
        connection = kind(self._host, timeout=self._patience)
        try:
            connection.request("POST", self._path, body, self._headers)
            answer = connection.getresponse()
            answer.read()
            if answer.status >= 400:
                raise http.client.HTTPException(f"the collector answered {answer.status}")
        finally:
            connection.close()


def from_environment(environ: Mapping[str, str], resource: Mapping[str, str]) -> Traces | None:
    """Traces as OpenTelemetry's own variables ask for them; None without an endpoint.

    Raises SettingError for a variable that is not supported here: none is ignored silently.
    """
    url = _of_traces(environ, "ENDPOINT", "")
    if not url or environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    if not environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "").strip():
        url = url.rstrip("/") + "/v1/traces"
    _expect(environ, "OTEL_TRACES_EXPORTER", ("otlp", "none"))
    if environ.get("OTEL_TRACES_EXPORTER") == "none":
        return None
    for kind in ("OTEL_EXPORTER_OTLP_", "OTEL_EXPORTER_OTLP_TRACES_"):
        # Collectors that take protobuf over HTTP take JSON at the same address.
        _expect(environ, kind + "PROTOCOL", ("http/json", "http/protobuf"))
        _expect(environ, kind + "COMPRESSION", ("none",))
        for name in ("CERTIFICATE", "CLIENT_KEY", "CLIENT_CERTIFICATE"):
            _expect(environ, kind + name, ())
    try:
        milliseconds = float(_of_traces(environ, "TIMEOUT", str(PATIENCE * 1000)))
    except ValueError:
        milliseconds = 0
    if milliseconds <= 0:
        raise SettingError("OTEL_EXPORTER_OTLP_TIMEOUT: expected milliseconds above 0")
    headers = _pairs(_of_traces(environ, "HEADERS", ""))
    named = {"service.name": environ.get("OTEL_SERVICE_NAME") or resource["service.name"]}
    extra = _pairs(environ.get("OTEL_RESOURCE_ATTRIBUTES", ""))
    attributes = {**resource, **extra, **named}
    return Traces(url, headers, attributes, _ratio(environ), milliseconds / 1000)


def _of_traces(environ: Mapping[str, str], name: str, default: str) -> str:
    """The variable for traces, else the one for all signals."""
    for kind in ("OTEL_EXPORTER_OTLP_TRACES_", "OTEL_EXPORTER_OTLP_"):
        if value := environ.get(kind + name, "").strip():
            return value
    return default


def _expect(environ: Mapping[str, str], name: str, supported: tuple[str, ...]) -> None:
    value = environ.get(name, "").strip()
    if value and value not in supported:
        expected = f"expected {' or '.join(supported)}" if supported else "not supported; unset it"
        raise SettingError(f"{name}={value!r}: {expected}")


def _ratio(environ: Mapping[str, str]) -> float:
    """The share of new traces that is sampled; a caller's decision always counts."""
    name = "OTEL_TRACES_SAMPLER"
    always = {"parentbased_always_on": 1.0, "parentbased_always_off": 0.0}
    _expect(environ, name, (*always, "parentbased_traceidratio"))
    sampler = environ.get(name, "").strip()
    if sampler in always:
        return always[sampler]
    text = environ.get("OTEL_TRACES_SAMPLER_ARG", "").strip() or "1"
    try:
        ratio = float(text)
    except ValueError:
        ratio = -1
    if not 0 <= ratio <= 1:
        raise SettingError(f"OTEL_TRACES_SAMPLER_ARG={text!r}: expected a number from 0 to 1")
    return ratio


def _pairs(text: str) -> dict[str, str]:
    split = (item.partition("=") for item in text.split(",") if "=" in item)
    return {key.strip(): urllib.parse.unquote(value.strip()) for key, _, value in split}


def _attributes(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "key": key,
            "value": {"intValue": str(value)} if isinstance(value, int) else {"stringValue": value},
        }
        for key, value in values.items()
    ]
