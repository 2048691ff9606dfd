"""Listening sockets: one for a single worker, or one each on a shared port."""

from __future__ import annotations

import socket
from typing import Any

from tandem.errors import SettingError
from tandem.serving.settings import Settings

BACKLOG = 1024


def listen(settings: Settings) -> socket.socket:
    """The listening socket. Raises SettingError where the port is taken."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return _listening(family, (settings.host, settings.port), shared=False)
    except OSError as error:
        raise SettingError(
            f"HOST={settings.host} PORT={settings.port}: cannot listen there ({error.strerror}); "
            "choose a free port"
        ) from None


def reserve(settings: Settings) -> socket.socket:
    """A silent socket that keeps the port for several workers. Raises SettingError."""
    with listen(settings) as free:
        family, address = free.family, free.getsockname()
    keeper = _socket(family, shared=True)
    keeper.bind(address)
    return keeper


def join(reserved: socket.socket) -> socket.socket:
    """A worker's own socket on the reserved port; the kernel spreads connections."""
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
    created = socket.socket(family, socket.SOCK_STREAM)
    created.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    created.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(shared))
    # Connections inherit it: without, a small answer waits 40 ms for the client's delayed ACK.
    created.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if family == socket.AF_INET6:
        created.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    return created
