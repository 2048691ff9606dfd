"""A server that answers each path with what a dictionary says, and remembers what it was asked."""

from __future__ import annotations

import contextlib
import http.server
import threading
from collections.abc import Iterator

import msgspec


class Asked(msgspec.Struct, frozen=True):
    """One request as the server got it."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Answering:
    """`answers[path] = (status, body)`; any other path is answered with 404."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.answers: dict[str, tuple[int, bytes]] = {}
        self.asked: list[Asked] = []


@contextlib.contextmanager
def answering() -> Iterator[Answering]:
    """Serve on a port of this machine for as long as the context lasts."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            service.asked.append(Asked(self.command, self.path, headers, body))
            status, data = service.answers.get(self.path, (404, b""))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_PUT = do_GET  # noqa: N815

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        service = Answering(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield service
        finally:
            server.shutdown()
            thread.join()
