"""Object stores for tests: in memory, counting requests, killing at a step, and real ones."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from support.services import require
from tandem.errors import Conflict, NotFound
from tandem.storage import Stat, Store, open_store

CONTAINER = "tandem-tests"


class MemoryStore:
    """Objects in a dictionary: as quick as a store can be, and correct under threads."""

    url = "memory:"

    def __init__(self) -> None:
        self.objects: dict[str, tuple[bytes, str]] = {}
        self._lock = threading.Lock()
        self._writes = 0

    def head(self, key: str) -> Stat | None:
        found = self.objects.get(key)
        return Stat(key, len(found[0]), found[1]) if found else None

    def read(self, key: str) -> tuple[bytes, str]:
        try:
            return self.objects[key]
        except KeyError:
            raise NotFound(f"memory: no object {key}") from None

    def get(self, key: str, *, start: int = 0, if_match: str | None = None) -> Iterator[bytes]:
        data, etag = self.read(key)
        if if_match is not None and etag != if_match:
            raise Conflict(f"memory: {key} was replaced")
        yield data[start:]

    def put(
        self,
        key: str,
        data: bytes | BinaryIO,
        *,
        if_absent: bool = False,
        if_match: str | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Stat:
        content = data if isinstance(data, bytes) else data.read()
        with self._lock:
            there = self.objects.get(key)
            if (if_absent and there) or (if_match and (not there or there[1] != if_match)):
                raise Conflict(f"memory: {key}")
            self._writes += 1
            self.objects[key] = (content, str(self._writes))
        if progress:
            progress(len(content))
        return Stat(key, len(content), self.objects[key][1])

    def list(self, prefix: str = "", *, after: str = "") -> Iterator[Stat]:
        for key in sorted(self.objects):
            if key.startswith(prefix) and key > after:
                yield Stat(key, len(self.objects[key][0]), self.objects[key][1])

    def delete(self, key: str) -> None:
        self.objects.pop(key, None)


class CountingStore:
    """Another store, with the requests that are made of it counted by kind."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.url = store.url
        self.requests: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.store, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.requests[name] += 1
            return method(*args, **kwargs)

        return counted


class DeadlyStore:
    """Another store; the process is killed before, or just after, its `step`-th request."""

    def __init__(self, store: Store, step: int, *, after: bool) -> None:
        self.store = store
        self.url = store.url
        self._left = step
        self._after = after

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.store, name)

        def deadly(*args: Any, **kwargs: Any) -> Any:
            self._left -= 1
            if self._left == 0 and not self._after:
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                return method(*args, **kwargs)
            finally:
                if self._left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        return deadly


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def moto() -> Iterator[str]:
    """The moto server in a process of its own; gives its address."""
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{address}/moto-api/", timeout=5).close()
                break
            if server.poll() is not None:
                raise RuntimeError("the moto server ended")
            time.sleep(0.05)
        yield address
    finally:
        server.kill()
        server.wait()


def azurite_store(prefix: str | None = None) -> Store:
    """A prefix of its own in Azurite's test container; skips where there is no Azurite."""
    require("azurite")
    from azure.core.exceptions import ResourceExistsError
    from azure.storage.blob import ContainerClient

    connection = os.environ["AZURE_STORAGE_CONNECTION_STRING"]
    with (
        contextlib.suppress(ResourceExistsError),
        ContainerClient.from_connection_string(connection, CONTAINER) as container,
    ):
        container.create_container()
    account = dict(part.split("=", 1) for part in connection.strip(";").split(";"))["AccountName"]
    return open_store(f"az://{account}/{CONTAINER}/{prefix or uuid.uuid4().hex}")


def emptied(store: Store) -> None:
    """Remove what a test left in a shared container."""
    for stat in list(store.list()):
        store.delete(stat.key)
