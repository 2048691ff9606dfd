"""A proxy before a real registry that makes the faults a test asks for, and counts what passes."""

from __future__ import annotations

import base64
import contextlib
import http.client
import http.server
import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

HOP = {"connection", "keep-alive", "transfer-encoding", "host", "authorization"}


@dataclass
class Seen:
    """One request as it arrived; `body` counts the bytes of it that were passed on."""

    method: str
    path: str
    query: str = ""
    body: int = 0
    status: int = 0


@dataclass
class Fault:
    """What happens to the requests that it is for, `times` times."""

    method: str
    pattern: str
    times: int = 1
    status: int = 0
    """Answer with this status instead of asking the registry."""
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int = -1
    """Break the connection when so many bytes of the body have been passed on."""
    cut_answer: int = -1
    """Break the connection when so many bytes of the answer's body have been passed on."""
    lose_answer: bool = False
    """Let the registry do it, then break the connection instead of answering."""
    change: dict[str, str] = field(default_factory=dict)
    """Headers of the registry's answer that are changed; with an empty value, left out."""
    add: dict[str, str] = field(default_factory=dict)
    """Headers that are added to the registry's answer."""
    after: int = 0
    """Let so many such requests pass first."""
    hits: int = 0

    def takes(self, method: str, path: str) -> bool:
        if self.method not in (method, "*") or not re.search(self.pattern, path):
            return False
        if self.after > 0:
            self.after -= 1
            return False
        if self.hits >= self.times:
            return False
        self.hits += 1
        return True


class Proxy:
    """`host` is where it listens. With `tokens` it asks for bearer tokens that run out."""

    def __init__(self, upstream: str, login: tuple[str, str], *, tokens: bool = False) -> None:
        self.upstream = upstream
        self.login = base64.b64encode(":".join(login).encode()).decode()
        self.tokens = tokens
        self.token_uses = 10**9
        """After so many requests with it, a token is worth nothing, whatever its server said."""
        self.token_seconds = 300
        self.faults: list[Fault] = []
        self.seen: list[Seen] = []
        self.scopes: list[str] = []
        self._uses: dict[str, int] = {}
        self._lock = threading.Lock()
        self._server: _Server | None = None
        self._port = 0
        self.start()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._port}"

    def start(self) -> None:
        """Listen, on the port that it had before."""
        self._server = _Server(("127.0.0.1", self._port), _Handler)
        self._server.proxy = self
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Go away: connections are refused."""
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def fault(self, method: str, pattern: str, **what: object) -> Fault:
        """Have something go wrong with the next requests of this method and path."""
        one = Fault(method, pattern, **what)  # type: ignore[arg-type]
        self.faults.append(one)
        return one

    def sent(self, method: str, pattern: str = "") -> list[Seen]:
        """The requests of this method whose path matches."""
        return [one for one in self.seen if one.method == method and re.search(pattern, one.path)]

    def blob_bytes(self) -> int:
        """How many bytes of blobs were sent to the registry."""
        return sum(one.body for one in self.seen if "/blobs/uploads/" in one.path)

    def new_token(self) -> str:
        with self._lock:
            token = f"token-{len(self._uses)}"
            self._uses[token] = 0
            return token

    def accepts(self, header: str) -> bool:
        """Whether a request with this Authorization header may pass."""
        if not self.tokens:
            return header == f"Basic {self.login}"
        with self._lock:
            token = header.removeprefix("Bearer ")
            if token not in self._uses or self._uses[token] >= self.token_uses:
                return False
            self._uses[token] += 1
            return True

    def pick(self, method: str, path: str) -> Fault | None:
        with self._lock:
            return next((one for one in self.faults if one.takes(method, path)), None)


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    proxy: Proxy

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is what many of these tests are about."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *args: object) -> None:
        """Quiet."""

    def _do(self) -> None:
        proxy = self.server.proxy
        parts = urlsplit(self.path)
        seen = Seen(self.command, parts.path, parts.query)
        proxy.seen.append(seen)
        if parts.path == "/token":
            self._token(seen)
            return
        if not proxy.accepts(self.headers.get("Authorization", "")):
            self._drain()
            challenge = 'Basic realm="test"'
            if proxy.tokens:
                challenge = (
                    f'Bearer realm="http://{proxy.host}/token",service="test",error="invalid_token"'
                )
            self._answer(seen, 401, {"WWW-Authenticate": challenge}, b"{}")
            return
        fault = proxy.pick(self.command, parts.path)
        if fault and fault.status:
            self._drain()
            self._answer(seen, fault.status, fault.headers, b'{"errors":[{"code":"FAULT"}]}')
            return
        self._forward(seen, fault)

    do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = _do  # noqa: N815

    def _token(self, seen: Seen) -> None:
        proxy = self.server.proxy
        fault = proxy.pick(self.command, "/token")
        if fault and fault.status:
            self._answer(seen, fault.status, fault.headers, b"{}")
            return
        if self.headers.get("Authorization", "") != f"Basic {proxy.login}":
            self._answer(seen, 401, {}, b"{}")
            return
        proxy.scopes += parse_qs(seen.query).get("scope", [])
        body = {"token": proxy.new_token(), "expires_in": proxy.token_seconds}
        self._answer(seen, 200, {"Content-Type": "application/json"}, json.dumps(body).encode())

    def _drain(self) -> None:
        left = int(self.headers.get("Content-Length") or 0)
        while left > 0 and (block := self.rfile.read(min(65536, left))):
            left -= len(block)

    def _answer(self, seen: Seen, status: int, headers: dict[str, str], body: bytes) -> None:
        seen.status = status
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _forward(self, seen: Seen, fault: Fault | None) -> None:
        proxy = self.server.proxy
        upstream = http.client.HTTPConnection(proxy.upstream, timeout=60)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            upstream.putheader("Host", proxy.host)
            upstream.putheader("Authorization", f"Basic {proxy.login}")
            for name, value in self.headers.items():
                if name.lower() not in HOP:
                    upstream.putheader(name, value)
            upstream.endheaders()
            left = int(self.headers.get("Content-Length") or 0)
            while left > 0:
                if fault and 0 <= fault.cut_after <= seen.body:
                    self._cut()
                    return
                block = self.rfile.read1(min(65536, left))
                if not block:
                    return
                upstream.send(block)
                seen.body += len(block)
                left -= len(block)
            self._back(upstream.getresponse(), seen, fault)
        finally:
            upstream.close()

    def _back(self, answer: http.client.HTTPResponse, seen: Seen, fault: Fault | None) -> None:
        if fault and fault.lose_answer:
            answer.read()
            self._cut()
            return
        seen.status = answer.status
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            said = (fault.change if fault else {}).get(name, value)
            if name.lower() not in HOP and said:
                self.send_header(name, said)
        for name, value in (fault.add if fault else {}).items():
            self.send_header(name, value)
        self.end_headers()
        passed = 0
        while self.command != "HEAD" and (block := answer.read(65536)):
            if fault and 0 <= fault.cut_answer < passed + len(block):
                self.wfile.write(block[: fault.cut_answer - passed])
                # A plain end: a reset would also take back what the client has not read yet.
                self.close_connection = True
                return
            self.wfile.write(block)
            passed += len(block)

    def _cut(self) -> None:
        """Break the connection as a crash does, not as a polite end."""
        self.close_connection = True
        with contextlib.suppress(OSError):
            linger = b"\x01\0\0\0\0\0\0\0"
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.shutdown(socket.SHUT_RDWR)
            self.connection.close()


@contextlib.contextmanager
def faulty_registry(*, tokens: bool = False) -> Iterator[Proxy]:
    """A proxy in front of $REGISTRY, with its login."""
    login = (os.environ["REGISTRY_USERNAME"], os.environ["REGISTRY_PASSWORD"])
    proxy = Proxy(os.environ["REGISTRY"], login, tokens=tokens)
    try:
        yield proxy
    finally:
        proxy.stop()


def later(seconds: float, do: Callable[[], None]) -> threading.Thread:
    """Do something in a while, beside what the test does."""

    def run() -> None:
        time.sleep(seconds)
        do()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread
