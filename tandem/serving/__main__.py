"""`python3 -m tandem.serving [MODULE:APP]`: serve a Flask app and its model."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NoReturn

import msgspec

from tandem.errors import TandemError
from tandem.serving import connections
from tandem.serving.memory import shared_memory
from tandem.serving.settings import Settings, read
from tandem.serving.worker.leader import Leader
from tandem.serving.worker.process import Worker
from tandem.serving.worker.sockets import join, listen, reserve
from tandem.serving.worker.supervisor import supervise

if TYPE_CHECKING:
    import mmap
    import socket

    from tandem.serving.service import Service
    from tandem.serving.traces import Traces

USAGE = "usage: python3 -m tandem.serving [MODULE:APP]"


def main(arguments: Sequence[str] = ()) -> int:
    """Serve until SIGTERM.

    0 after a stop that was asked for; 1, with one line on stderr, when it cannot start; 2 for wrong
    arguments.
    """
    if len(arguments) > 1 or any(argument.startswith("-") for argument in arguments):
        print(USAGE, file=sys.stderr)
        return 2
    name = arguments[0] if arguments else None
    try:
        settings = read()
        if settings.workers == 1:
            listener = listen(settings)
            return work(name, 0, lambda: None, settings, lambda: listener, None)
        reserved = reserve(settings)
    except TandemError as error:
        return refuse(error)
    memory = shared_memory(settings.workers)
    # Each listens when it is ready: until then connections go to those that are.
    return supervise(
        settings.workers,
        lambda index, ready: work(name, index, ready, settings, lambda: join(reserved), memory),
    )


def work(
    name: str | None,
    index: int,
    ready: Callable[[], object],
    settings: Settings,
    listening: Callable[[], socket.socket],
    memory: mmap.mmap | None,
) -> int:
    """One worker's life; `ready` is called when it answers."""
    room = connections.allow(settings.connections)
    try:
        # All that is slow to import is imported here, after what can be refused without it.
        from tandem.serving.discovery import find_app
        from tandem.serving.extension import mounted_in
        from tandem.serving.logs import Log
        from tandem.serving.model import load

        app = find_app(name)
        mounted = mounted_in(app)
        # Never a recorded one: what serves has its whole package.
        model = load(settings.model, settings.trust) if settings.model is not None else None
        log = Log(sys.stdout.fileno(), settings.log)
        traces = _traces(settings, model.manifest.name if model else app.name)
        middleware = mounted.start(
            settings, model, log=log, traces=traces, memory=memory, worker=index
        )
    except TandemError as error:
        return refuse(error)
    log.start()
    if room < settings.connections:
        log(
            "warning",
            f"only {room} of {settings.connections} connections can be open (TANDEM_CONNECTIONS): "
            "the limit of open files is too low (ulimit -n)",
        )
        settings = msgspec.structs.replace(settings, connections=room)
    if traces is not None:
        traces.start()
    leader = Leader()
    middleware.step_down = leader.step_down
    worker = Worker(settings, middleware.service.draining, leader)
    listener = listening()
    port = listener.getsockname()[1]
    threading.Thread(
        target=connections.watch,
        args=(connections.Connections(port, settings.connections), middleware.bodies, log),
        name="connections",
        daemon=True,
    ).start()
    log("info", "ready", worker=index, pid=os.getpid(), port=port, **_running(middleware.service))
    ready()
    worker.serve(app.wsgi_app, listener)
    if traces is not None:
        traces.stop()
    log("info", "stopped", worker=index)
    log.flush()
    return 0


def _running(service: Service) -> dict[str, str]:
    model = service.model
    if model is None:
        return {"app": service.name}
    return {
        "app": service.name,
        "model": model.manifest.name,
        "digest": model.digest,
        "runtime": model.predictor.runtime,
    }


def _traces(settings: Settings, model: str) -> Traces | None:
    if not any(name.startswith("OTEL_EXPORTER_OTLP_") for name in os.environ):
        return None
    from tandem.serving.traces import from_environment

    resource = {
        "service.name": settings.app_name or model,
        "service.version": settings.app_commit or "unknown",
        "tandem.model.name": model,
        "tandem.model.version": str(settings.model_version or "unknown"),
    }
    return from_environment(os.environ, resource)


def refuse(error: Exception) -> int:
    """Say why not, in one line."""
    print(f"serving: {' '.join(str(error).split())}", file=sys.stderr)
    return 1


def run(arguments: Sequence[str]) -> NoReturn:
    """`main`, as a program of its own."""
    code = main(arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads of the server may be on their way back: an interpreter that is being taken down ends
    # them by unwinding their stacks, at which granian's part of these aborts the process.
    os._exit(code)


if __name__ == "__main__":
    run(sys.argv[1:])
