"""One process that answers: from its start to the end of its drain."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable
from typing import Any

from tandem.serving.settings import Settings
from tandem.serving.worker.granian import Server
from tandem.serving.worker.leader import Leader
from tandem.serving.worker.signals import Wakeup

# After the drain the work at hand may take this long; then the process goes, whoever still sends.
LAST_SECONDS = 20.0


class Worker:
    """Answers until SIGTERM: fails readiness, drains, finishes the work."""

    def __init__(self, settings: Settings, draining: threading.Event, leader: Leader) -> None:
        self._settings = settings
        self._draining = draining
        self._leader = leader
        self._wakeup = Wakeup()
        self._stopped = threading.Event()
        self._server = Server(settings, leader, self._on_stopped)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def serve(self, app: Callable[..., Any], listener: socket.socket) -> None:
        """Answer with this WSGI callable on this socket; returns when it has stopped."""
        self._server.start(app, listener)
        self._leader.watch()
        while not self._stopped.is_set():
            self._wakeup.wait()
        self._server.close()

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
        self._server.stop()

    @staticmethod
    def _later(seconds: float, action: Callable[[], None]) -> None:
        timer = threading.Timer(seconds, action)
        timer.daemon = True
        timer.start()
