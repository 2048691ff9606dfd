"""A way to a server that can be cut: what connects is refused, what is connected breaks."""

from __future__ import annotations

import contextlib
import socket
import threading


class Relay:
    """Listens on `port` of 127.0.0.1 and passes bytes on to `host:port`."""

    def __init__(self, upstream: str) -> None:
        host, _, port = upstream.partition(":")
        self._upstream = (host, int(port))
        self._open: list[socket.socket] = []
        self._listener: socket.socket | None = None
        self._lose = b""
        self.lost = 0
        self.port = 0
        self.join()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def join(self) -> None:
        """Listen, on the port that it had before."""
        listener = socket.create_server(("127.0.0.1", self.port), backlog=64)
        self.port = listener.getsockname()[1]
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def cut(self) -> None:
        """Refuse what connects, and break what is connected."""
        listener, self._listener = self._listener, None
        for one in [*self._open, *([listener] if listener else [])]:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._open.clear()

    def lose_answer(self, words: bytes) -> None:
        """Let the server have the next request with these words, and keep its answer."""
        self._lose = words

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._upstream, timeout=10)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            self._open += [client, server]
            lose = threading.Event()
            for one, other in ((client, server), (server, client)):
                argv = (one, other, lose, one is client)
                threading.Thread(target=self._pass_on, args=argv, daemon=True).start()

    def _pass_on(
        self, one: socket.socket, other: socket.socket, lose: threading.Event, asked: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                if asked and self._lose and self._lose in data:
                    self._lose = b""
                    lose.set()
                elif not asked and lose.is_set():
                    self.lost += 1
                    break
                other.sendall(data)
        for end in (one, other):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
