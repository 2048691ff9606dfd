"""The log: one JSON object a line, written beside the requests, blocking none."""

from __future__ import annotations

import collections
import datetime
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec


class RequestLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """One answered request; `milliseconds` is without the network."""

    time: str
    level: str
    message: str
    method: str
    path: str
    status: int
    milliseconds: float
    client: str
    request_id: str
    trace_id: str | None = None


KEPT = 10_000
"""Lines that may wait for a slow reader; later ones are counted and dropped."""


class Log:
    """Lines wait in memory until a thread of the log writes them to `descriptor`."""

    def __init__(self, descriptor: int, level: str = "info") -> None:
        # One of our own: its thread may write after the caller has closed his, and a number that
        # is free again is soon somebody else's socket.
        self.descriptor = os.dup(descriptor)
        self.requests = level == "info"
        self.on_drop: Callable[[int], None] = lambda lines: None
        self._lines: collections.deque[tuple[float, dict[str, Any] | tuple[Any, ...]]] = (
            collections.deque()
        )
        self._wake = threading.Event()
        self._writing = False
        self._second, self._written = 0, ""  # most lines are of the second of the one before
        self._encoder = msgspec.json.Encoder()
        self._thread: threading.Thread | None = None

    def __call__(self, level: str, message: str, **fields: Any) -> None:
        """Add a line."""
        self.add({"level": level, "message": message, **fields})

    def request(self, *fields: Any) -> None:
        """A request's line: method, path, status, seconds, client, request id, trace id."""
        self.add(fields)

    def add(self, fields: dict[str, Any] | tuple[Any, ...]) -> None:
        """Add a line of these fields; cheap, and safe from any thread."""
        if len(self._lines) >= KEPT:
            self.on_drop(1)
            return
        self._lines.append((time.time(), fields))
        if not self._wake.is_set():
            self._wake.set()

    def start(self) -> None:
        """Begin to write."""
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def flush(self, seconds: float = 1.0) -> None:
        """Wait until all is written, but not for a reader who has gone to sleep."""
        end = time.monotonic() + seconds
        while self._thread and (self._lines or self._writing) and time.monotonic() < end:
            time.sleep(0.002)

    def _write(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            while self._lines:
                self._writing = True  # before a line is taken: `flush` looks at both
                many = [self._lines.popleft() for _ in range(min(len(self._lines), 500))]
                try:
                    text = self._encoder.encode_lines([self._line(*line) for line in many])
                    while text:
                        text = text[os.write(self.descriptor, text) :]
                except (OSError, ValueError):
                    self.on_drop(len(many))  # nobody can read it; the service goes on
            self._writing = False
            time.sleep(0.05)  # lines come in bursts: write them together

    def _line(
        self, at: float, fields: dict[str, Any] | tuple[Any, ...]
    ) -> dict[str, Any] | RequestLine:
        second = int(at)
        if second != self._second:
            moment = datetime.datetime.fromtimestamp(second, datetime.UTC)
            self._second, self._written = second, moment.strftime("%Y-%m-%dT%H:%M:%S")
        written = f"{self._written}.{int((at - second) * 1000):03}Z"
        if isinstance(fields, dict):
            return {"time": written, **fields}
        method, path, status, seconds, client, request_id, trace_id = fields
        milliseconds = round(seconds * 1000, 3)
        return RequestLine(
            written, "info", "request",
            method, path[:200], status, milliseconds, client, request_id, trace_id,
        )  # fmt: skip
