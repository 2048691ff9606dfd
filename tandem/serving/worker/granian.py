"""The one place that knows granian's private parts: its WSGI worker, in-process.

Granian's public entry starts a second process, which a kill of the first one would leave behind
with the port, and has no place where a thread can step aside before slow work. What is used here
is checked against the version that it was written for; docs/decisions/granian.md has the figures.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from tandem.errors import SettingError
from tandem.serving.settings import Settings
from tandem.serving.worker.leader import Leader
from tandem.serving.worker.sockets import BACKLOG

# Seconds that an idle thread is kept: for good, as the only one that is not parked may be idle.
KEPT = 10 * 365 * 86400
KNOWN = ("2.8",)
"""Versions of granian (major and minor) whose private parts are known here."""


class Server:
    """Granian's worker as granian.server.mp sets it up, in this process."""

    def __init__(self, settings: Settings, leader: Leader, on_stopped: Callable[[], None]) -> None:
        self._settings = settings
        self._leader = leader
        self._parts = parts = private_parts()
        self._stop = parts.WorkerSignal()
        self._stop.add_cb(on_stopped)
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self, app: Callable[..., Any], listener: socket.socket) -> None:
        """Begin to answer with this WSGI callable, in threads of the server's own."""
        import granian._futures
        from granian.http import HTTP1Settings

        native, settings = self._parts, self._settings
        schedule: Any = granian._futures._new_cbscheduler
        server = native.WSGIWorker(
            1,
            (None, native.SocketHolder(listener.fileno(), False, BACKLOG)),
            None,
            1,  # threads of the event loop: it only moves bytes
            settings.threads,
            settings.threads,
            KEPT,
            settings.connections,
            "1",
            # This counts on idle connections, too: longer than a balancer's pool keeps its own.
            HTTP1Settings(header_read_timeout=max(1, int(settings.idle_seconds * 1000))),
            *(None, None),  # HTTP/2, static files
            *(False, None, None, None, "tls1.3", None, [], False),  # TLS ends before us
            (None, None),
        )
        prefer_throughput()
        self._loop = loop = asyncio.new_event_loop()
        handle = caller(app, self._leader)
        server.serve_mtr(schedule(loop, handle, impl_asyncio=True), loop, self._stop)

    def stop(self) -> None:
        """Take no more requests, finish those at work, then call `on_stopped`."""
        self._stop.set()

    def close(self) -> None:
        """Let go of what `start` made, after the stop."""
        if self._loop is not None:
            self._loop.close()


def private_parts() -> Any:
    """Granian's native module, with all parts used here. Raises SettingError."""
    import granian._futures
    import granian._granian

    installed = version("granian")
    native: Any = granian._granian
    missing = [
        name
        for home, name in (
            (native, "WSGIWorker"),
            (native, "SocketHolder"),
            (native, "WorkerSignal"),
            (granian._futures, "_new_cbscheduler"),
        )
        if name not in vars(home)
    ]
    if missing or installed.rpartition(".")[0] not in KNOWN:
        lacking = f", which lacks {', '.join(missing)}" if missing else ""
        raise SettingError(
            f"granian {installed} is installed{lacking}: expected {' or '.join(KNOWN)} "
            "(tandem/serving/worker/granian.py uses private parts of it); lock that version"
        )
    return native


def prefer_throughput() -> None:
    """Let no thread that wakes up interrupt one that works (sched(7), SCHED_BATCH).

    The event loop and the leader wake each other all the time. On one processor they otherwise
    take turns at each request, where one could read or answer all that wait.
    """
    # Where the platform has no such thing, or a sandbox forbids it, all works as well, but slower.
    with contextlib.suppress(AttributeError, OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def caller(app: Callable[..., Any], leader: Leader) -> Callable[[Any, dict[str, Any]], None]:
    """What granian calls for each request: asks `app` (PEP 3333), sends the answer.

    In place of granian's own (granian.wsgi), which has answered only when it returns, and copies
    the process's environment, with its secrets, into every request's.
    """
    from granian import wsgi

    parts_of: Any = wsgi.ResponseIterWrap
    common = {
        "SCRIPT_NAME": "",
        "wsgi.errors": sys.stderr,
        "wsgi.input_terminated": True,  # werkzeug may read to the end of it
        "wsgi.multiprocess": False,
        "wsgi.multithread": True,
        "wsgi.run_once": False,
        "wsgi.version": (1, 0),
    }

    def call(proto: Any, environ: dict[str, Any]) -> None:
        leader.begin()
        environ.update(common)
        head: tuple[int, list[tuple[str, str]]] = 500, []

        def start(line: str, headers: list[tuple[str, str]], exc_info: object = None) -> None:
            nonlocal head
            head = int(line[:3]), headers

        answer = app(environ, start)
        if isinstance(answer, list):
            content = b"".join(answer)
            proto.response_bytes(*head, content)
        else:
            proto.response_iter(*head, parts_of(answer))
        # What is left of a body is let go when this thread returns; until then its connection would
        # come to no next request.
        leader.end(parks=has_read_all(environ))

    return call


def has_read_all(environ: dict[str, Any]) -> bool:
    """Whether nothing of a body can be left: it was read by us, or there is none."""
    if "tandem.body" in environ:
        return True
    return not environ.get("CONTENT_LENGTH") and "HTTP_TRANSFER_ENCODING" not in environ
