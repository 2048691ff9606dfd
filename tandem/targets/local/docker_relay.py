"""A port that leads to the loopback of a container without network."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

from tandem.errors import TargetError
from tandem.targets.local.docker_engine import remove
from tandem.targets.local.ports import HOST

# One connection to a container that has no network: run inside of it, from its loopback to ours.
RELAY = """
import os, socket, sys, threading, time
end = time.monotonic() + float(sys.argv[2])
while True:
    try:
        service = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
        break
    except OSError:
        if time.monotonic() > end:
            sys.exit(1)
        time.sleep(0.005)
def ask():
    while data := os.read(0, 65536):
        service.sendall(data)
    service.shutdown(socket.SHUT_WR)
threading.Thread(target=ask, daemon=True).start()
while data := service.recv(65536):
    while data:
        data = data[os.write(1, data):]
"""
NOT_RUNNABLE = (126, 127)
"""Exit codes where there is no such program."""
RELAY_WAIT = 5.0
"""Seconds for which one relay waits for the service to listen, so that not every look is a new
one."""


@contextlib.contextmanager
def relayed(container: Any, port: int) -> Iterator[str]:
    """A port of this machine that leads to that port of the container's loopback."""
    import socketserver

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(Exception):
                _relay(container, port, self.request)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = False  # closing waits for each: none may use the engine after its client

    with Server((HOST, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://{HOST}:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
            # Connections that are still open end with the container.
            remove(container)


def require_python(container: Any) -> None:
    """Raise `TargetError` where the container runs and has no Python: nothing can relay then."""
    import docker.errors

    with contextlib.suppress(docker.errors.APIError):
        if container.exec_run(["python3", "-I", "-S", "-c", ""]).exit_code in NOT_RUNNABLE:
            raise TargetError(
                "the image has no python3, through which a container without network is asked: "
                "add Python to the image"
            )


def _relay(container: Any, port: int, client: socket.socket) -> None:
    """Pass one connection on through a program in the container."""
    import docker.errors
    from docker.utils.socket import frames_iter

    api = container.client.api
    argv = ["python3", "-I", "-S", "-c", RELAY, str(port), str(RELAY_WAIT)]
    program = api.exec_create(container.id, argv, stdin=True)
    try:
        inside = api.exec_start(program["Id"], socket=True)
    except docker.errors.APIError as problem:
        # The container has just ended; docker-py would leave the connection open.
        if problem.response is not None:
            problem.response.close()
        return
    raw = getattr(inside, "_sock", inside)

    def ask_it() -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                raw.sendall(data)
            raw.shutdown(socket.SHUT_WR)

    asking = threading.Thread(target=ask_it)
    asking.start()
    try:
        for stream, data in frames_iter(inside, tty=False):
            if stream == 1:
                client.sendall(data)
    finally:
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            raw.shutdown(socket.SHUT_RDWR)
        asking.join()
        # docker-py hands out three layers around one socket, and each holds it open.
        for layer in (inside, raw, getattr(inside, "_response", None)):
            if layer is not None:
                layer.close()
