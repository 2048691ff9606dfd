"""The process around the app: granian on a socket, and a stop that loses no request."""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

from tandem.errors import SettingError
from tandem.serving.leader import Leader
from tandem.serving.settings import Settings

BACKLOG = 1024
# Seconds that an idle thread is kept: for good, as the only one that is not parked may be idle.
KEPT = 10 * 365 * 86400
# After the drain the work at hand may take this long; then the process goes, whoever still sends.
LAST_SECONDS = 20.0


def listen(settings: Settings) -> socket.socket:
    """The listening socket, made by us so that a taken port is found. Raises SettingError."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return _listening(family, (settings.host, settings.port), shared=False)
    except OSError as error:
        raise SettingError(
            f"HOST={settings.host} PORT={settings.port}: cannot listen there ({error.strerror}); "
            "choose a free port"
        ) from None


def reserve(settings: Settings) -> socket.socket:
    """A socket that keeps the port for several workers, itself silent. Raises SettingError."""
    with listen(settings) as free:
        family, address = free.family, free.getsockname()
    keeper = _socket(family, shared=True)
    keeper.bind(address)
    return keeper


def join(reserved: socket.socket) -> socket.socket:
    """A worker's own socket on the reserved port: the kernel spreads connections over them."""
    return _listening(reserved.family, reserved.getsockname(), shared=True)


def _listening(family: int, address: Any, *, shared: bool) -> socket.socket:
    listener = _socket(family, shared=shared)
    try:
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


def _socket(family: int, *, shared: bool) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(shared))
    # Connections inherit it: without, a small answer waits 40 ms for the client's delayed ACK.
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    return made


class Wakeup:
    """Lets the main thread sleep until a signal comes, and lose none.

    One that comes just before a thread waits for a lock or a child is otherwise handled when that
    wait ends: perhaps never. Python's own handler in C writes to a pipe (signal.set_wakeup_fd),
    from whichever thread the kernel has picked.
    """

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)

    def wait(self) -> None:
        """Sleep until a signal has come, or `wake` was called, since the last time."""
        os.read(self._read, 512)

    def wake(self) -> None:
        """End the sleep, from any thread."""
        with contextlib.suppress(BlockingIOError):  # full: it will not sleep
            os.write(self._write, b"\0")


class Worker:
    """One process that answers: from its start to the end of its drain."""

    def __init__(self, settings: Settings, draining: threading.Event, leader: Leader) -> None:
        from granian._granian import WorkerSignal

        self._settings = settings
        self._draining = draining
        self._leader = leader
        self._stop = WorkerSignal()
        self._wakeup = Wakeup()
        self._stopped = threading.Event()
        self._stop.add_cb(self._on_stopped)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def serve(self, app: Callable[..., Any], listener: socket.socket) -> None:
        """Answer until SIGTERM: fail readiness, go on for the drain's seconds, finish the work.

        This does what a worker of granian does (granian.server.mp). Granian's own entry puts it in
        a second process, which a kill of the first one would leave behind with the port.
        """
        import asyncio

        import granian._futures
        import granian._granian
        from granian.http import HTTP1Settings

        # The lock pins the version that these belong to; its type hints are behind its code.
        native: Any = granian._granian
        schedule: Any = granian._futures._new_cbscheduler
        settings = self._settings
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
        loop = asyncio.new_event_loop()
        handle = caller(app, self._leader)
        server.serve_mtr(schedule(loop, handle, impl_asyncio=True), loop, self._stop)
        self._leader.watch()
        while not self._stopped.is_set():
            self._wakeup.wait()
        loop.close()

    def _on_stopped(self) -> None:
        self._stopped.set()
        self._wakeup.wake()

    def _on_signal(self, number: int, frame: object) -> None:
        if self._draining.is_set():
            return
        self._draining.set()
        # Ctrl-C is a person who waits; SIGTERM is a platform that still sends us requests.
        self._later(self._settings.drain_seconds if number == signal.SIGTERM else 0.0, self._finish)

    def _finish(self) -> None:
        self._later(LAST_SECONDS, lambda: os._exit(0))
        self._leader.close()
        self._stop.set()

    @staticmethod
    def _later(seconds: float, action: Callable[[], None]) -> None:
        timer = threading.Timer(seconds, action)
        timer.daemon = True
        timer.start()


def prefer_throughput() -> None:
    """Let no thread that wakes up interrupt one that works (sched(7), SCHED_BATCH).

    The event loop and the leader wake each other all the time. On one processor they otherwise
    take turns at each request, where one could read or answer all that wait.
    """
    # Where the platform has no such thing, or a sandbox forbids it, all works as well, but slower.
    with contextlib.suppress(AttributeError, OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def caller(app: Callable[..., Any], leader: Leader) -> Callable[[Any, dict[str, Any]], None]:
    """What granian calls with each request: `app` as WSGI has it (PEP 3333), then the answer.

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


# --- several workers ---

REGION = 8 * 2**20
"""Bytes of memory that a worker shares with the others: touched only as far as it is used."""


def shared_memory(workers: int) -> mmap.mmap:
    """A region for each worker, which processes forked afterwards share."""
    return mmap.mmap(-1, workers * REGION)


FAILURES = 3
"""So many workers in a row that die within `SOON` seconds end the service, for all to see."""
SOON = 5.0


def supervise(count: int, work: Callable[[int, Callable[[], object]], int]) -> int:
    """Fork `count` processes that do `work(index, ready)`, replace the dead, end when told to.

    The first is waited for until it calls `ready`: what stops one stops all, said once.
    """
    children: dict[int, tuple[int, float]] = {}
    stopping = False
    # Open in this process only: a worker that reads its end learns that we are gone.
    alive, held = os.pipe()

    def forward(number: int, frame: object) -> None:
        nonlocal stopping
        stopping = True
        for pid in children:
            os.kill(pid, number)

    def fork(index: int, ready: Callable[[], object] = lambda: None) -> None:
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            os.close(held)
            threading.Thread(target=_end_with_parent, args=(alive,), daemon=True).start()
            code = 1
            try:
                code = work(index, ready)
            except Exception:  # noqa: BLE001 - a fork must end here, whatever happened in it
                traceback.print_exc()
            finally:
                os._exit(code)
        children[pid] = (index, time.monotonic())

    wakeup = Wakeup()
    signal.signal(signal.SIGTERM, forward)
    signal.signal(signal.SIGINT, forward)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)  # for the wakeup alone
    told, tell = os.pipe()
    fork(0, lambda: os.write(tell, b"1"))
    os.close(tell)
    started = os.read(told, 1) == b"1"  # else it is dead
    quick = 0
    others = range(1, count) if started else ()
    for index in others:
        if not stopping:
            fork(index)
    worst = False
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            wakeup.wait()
            continue
        index, since = children.pop(pid)
        code = os.waitstatus_to_exitcode(status)
        if stopping:
            # One that was still loading has nothing to finish, and ends by the signal itself.
            worst = worst or code not in (0, -signal.SIGTERM, -signal.SIGINT)
            continue
        quick = quick + 1 if time.monotonic() - since < SOON else 1
        if quick >= FAILURES or (index == 0 and not others):
            worst = True
            forward(signal.SIGTERM, None)
            continue
        fork(index)
    return 1 if worst else 0


def _end_with_parent(alive: int) -> None:
    os.read(alive, 1)
    os._exit(1)
