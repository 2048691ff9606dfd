"""`python3 -m serving`: verify the package, load it, warm it up, then answer until told to stop."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
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

    from tandem.serving.traces import Traces


def main() -> int:
    """0 after a stop that was asked for; 1, with one line on stderr, when it cannot start."""
    try:
        settings = read()
        if settings.workers == 1:
            listener = listen(settings)
            return work(0, lambda: None, settings, lambda: listener, None)
        reserved = reserve(settings)
    except TandemError as error:
        return refuse(error)
    memory = shared_memory(settings.workers)
    # Each listens when it is ready: until then connections go to those that are.
    return supervise(
        settings.workers,
        lambda index, ready: work(index, ready, settings, lambda: join(reserved), memory),
    )


def work(
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
        from tandem.serving.app import create_app
        from tandem.serving.logs import Log
        from tandem.serving.model import load

        model = load(settings.model)
        log = Log(sys.stdout.fileno(), settings.log)
        traces = _traces(settings, model.manifest.name)
        app = create_app(model, settings, log=log, traces=traces, memory=memory, worker=index)
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
    app.step_down = leader.step_down
    worker = Worker(settings, app.service.draining, leader)
    listener = listening()
    port = listener.getsockname()[1]
    threading.Thread(
        target=connections.watch,
        args=(
            connections.Connections(port, settings.connections),
            app.bodies,
            log,
        ),
        name="connections",
        daemon=True,
    ).start()
    log(
        "info",
        "ready",
        worker=index,
        pid=os.getpid(),
        port=port,
        model=model.manifest.name,
        digest=model.digest,
        runtime=model.predictor.runtime,
    )
    ready()
    worker.serve(app, listener)
    if traces is not None:
        traces.stop()
    log("info", "stopped", worker=index)
    log.flush()
    return 0


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


def run() -> NoReturn:
    """`main`, as a program of its own."""
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads of the server may be on their way back: an interpreter that is being taken down ends
    # them by unwinding their stacks, at which granian's part of these aborts the process.
    os._exit(code)


if __name__ == "__main__":
    run()
