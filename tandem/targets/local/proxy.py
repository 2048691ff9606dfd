"""The stable port of a target: passes connections on to the backend in a file.

Run by path as a program of its own (`python -I -S proxy.py HOST PORT FILE`), so it imports the
standard library only. The file holds `PORT TOKEN`, is replaced atomically, and is read at every new
connection: a switch needs no signal, and connections that are open stay with the backend they have.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from pathlib import Path
from typing import cast

READY = b"ready\n"
HIGH_WATER = 256 * 1024
# A backend that is being replaced can refuse for a moment; a new connection is worth that wait.
CONNECT_ATTEMPTS = 20
CONNECT_PAUSE = 0.05
# Seconds that open connections have when the proxy is told to end.
DRAIN = 15.0
DRAIN_PAUSE = 0.02

BODY = b'{"error": "The service is not running here."}'
UNAVAILABLE = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\n"
    b"Connection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
)


class Side(asyncio.Protocol):
    """One end of a passed-on connection.

    Writes what it reads to its peer, no faster than the peer takes it.
    """

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.peer: Side | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=HIGH_WATER)

    def data_received(self, data: bytes) -> None:
        if self.peer:
            self.peer.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.peer:
            self.peer.transport.close()

    def pause_writing(self) -> None:
        if self.peer:
            self.peer.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.peer:
            self.peer.transport.resume_reading()


class Backend(Side):
    """The service's end: once it closes, the user's end closes too."""

    def eof_received(self) -> None:
        self.transport.close()


class Client(Side):
    """The user's end: read only once its backend is there."""

    open = 0

    def __init__(self, backend: Path, tasks: set[asyncio.Task[None]]) -> None:
        super().__init__()
        self.backend = backend
        self.tasks = tasks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        Client.open += 1
        cast(asyncio.Transport, transport).pause_reading()
        task = asyncio.get_running_loop().create_task(self.connect())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def eof_received(self) -> bool:
        # Half closed: the answer to what was asked may still be on its way.
        if self.peer and self.peer.transport.can_write_eof():
            with contextlib.suppress(OSError, RuntimeError):
                self.peer.transport.write_eof()
            return True
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        Client.open -= 1
        super().connection_lost(exc)

    async def connect(self) -> None:
        loop = asyncio.get_running_loop()
        for attempt in range(CONNECT_ATTEMPTS):
            if attempt:
                await asyncio.sleep(CONNECT_PAUSE)
            try:
                port = int(self.backend.read_text().split()[0])
            except (OSError, ValueError, IndexError):
                break
            try:
                _, side = await loop.create_connection(Backend, "127.0.0.1", port)
            except OSError:
                continue
            side.peer, self.peer = self, side
            if self.transport.is_closing():
                side.transport.close()
            else:
                self.transport.resume_reading()
            return
        self.transport.write(UNAVAILABLE)
        self.transport.close()


async def serve(host: str, port: int, backend: Path) -> None:
    """Listen until told to end, then finish the connections that are open; says `ready` once the
    port is open."""
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()
    ending = asyncio.Event()
    server = await loop.create_server(
        lambda: Client(backend, tasks), host, port, backlog=1024, reuse_address=True
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.set)
    with contextlib.suppress(OSError):
        sys.stdout.buffer.write(READY)
        sys.stdout.buffer.flush()
    await ending.wait()
    server.close()
    for _ in range(int(DRAIN / DRAIN_PAUSE)):
        if not (tasks or Client.open):
            break
        await asyncio.sleep(DRAIN_PAUSE)


def main(argv: list[str]) -> int:
    """`proxy.py HOST PORT FILE`; exit code 98 when the port is taken."""
    host, port, backend = argv
    try:
        asyncio.run(serve(host, int(port), Path(backend)))
    except OSError as problem:
        print(f"cannot listen on {host}:{port}: {problem.strerror or problem}", file=sys.stderr)
        return 98
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
