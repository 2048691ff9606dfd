"""Whether this machine gives namespaces, and what is done where it does not."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import os
import sys
import threading
from collections.abc import Iterator

from tandem.errors import SandboxError
from tandem.sandbox.launch import Limits, launch
from tandem.util.folders import scratch

log = logging.getLogger("tandem.sandbox")

_dumpable = threading.Lock()
_running: set[object] = set()


@functools.cache
def namespaces_missing() -> str:
    """Why this machine gives no namespaces; empty where it does. Asked only once."""
    if sys.platform != "linux":
        return f"{sys.platform} has none"
    with scratch("sandbox") as folder:
        try:
            done = launch(
                ["/bin/sh", "-c", "test ! -e /.old"],
                folder=folder,
                paths={os.path.realpath(folder): True},
                env={},
                limits=Limits(seconds=60),
                network=False,
                stdin=b"",
                merge_output=True,
                confinement="",
                confined=True,
            )
            problem = "" if done.code == 0 else f"exit code {done.code}"
        except SandboxError as failed:
            problem = str(failed).partition(" failed: ")[2] or str(failed)
    if problem:
        log.warning(
            "code that is not ours runs with its own session and limits only, not in namespaces: "
            "%s",
            problem,
        )
    return problem


@contextlib.contextmanager
def unreadable() -> Iterator[None]:
    """While it lasts no other process reads our environment and memory from /proc."""
    if sys.platform != "linux":
        yield
        return
    libc, this = ctypes.CDLL(None), object()
    with _dumpable:
        _running.add(this)
        libc.prctl(4, 0, 0, 0, 0)
    try:
        yield
    finally:
        with _dumpable:
            _running.discard(this)
            if not _running:
                libc.prctl(4, 1, 0, 0, 0)
