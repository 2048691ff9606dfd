"""The launcher started, fed, and listened to until all that it started has ended."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from tandem.errors import SandboxError


def exchange(
    spec: dict[str, Any],
    stdin: bytes | Callable[[], bytes],
    merge_output: bool,
    *,
    seconds: float,
    output: int,
) -> tuple[dict[str, Any], bytes, bytes]:
    """Start the launcher, feed it, and collect its output until all has ended."""
    wanted, send = os.pipe()
    listen, answer = os.pipe()
    try:
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", launcher_file(), str(wanted), str(answer)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT if merge_output else subprocess.PIPE,
                pass_fds=(wanted, answer),
                env={"LANG": "C.UTF-8"},
                start_new_session=True,
            )
        except OSError as problem:
            os.close(send)
            raise SandboxError(f"a sandbox cannot be started: {problem.strerror}") from None
    finally:
        os.close(wanted)
        os.close(answer)
        if sys.exc_info()[0]:
            os.close(listen)
    tails = [Tail(pipe, output) for pipe in (process.stdout, process.stderr) if pipe]
    feeder = threading.Thread(target=_feed, args=(process.stdin, stdin), daemon=True)
    with process, os.fdopen(listen, "rb") as answers:
        try:
            with contextlib.suppress(BrokenPipeError), os.fdopen(send, "wb") as file:
                file.write(json.dumps(spec).encode())
            feeder.start()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=seconds + 60)
        finally:
            if process.poll() is None:
                # It ends what it started, and would not if it were killed at once.
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=10)
                process.kill()
        report = answers.read()
        outputs = [tail.all() for tail in tails]
    return json.loads(report or b"{}"), outputs[0], outputs[1] if len(outputs) > 1 else b""


def launcher_file() -> str:
    """The program that is started; a file, as it must not import anything of ours."""
    return str(Path(__file__).with_name("launcher.py"))


def _feed(pipe: IO[bytes], data: bytes | Callable[[], bytes]) -> None:
    with contextlib.suppress(OSError, ValueError), pipe:
        pipe.write(data if isinstance(data, bytes) else data())


class Tail:
    """Reads a pipe to its end in a thread of its own, and keeps the last `size` bytes."""

    def __init__(self, pipe: IO[bytes], size: int) -> None:
        self._pipe, self._size, self._kept = pipe, size, 0
        self._parts: collections.deque[bytes] = collections.deque()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            while part := os.read(self._pipe.fileno(), 65536):
                self._parts.append(part)
                self._kept += len(part)
                while self._kept - len(self._parts[0]) >= self._size:
                    self._kept -= len(self._parts.popleft())

    def all(self) -> bytes:
        # Its end comes with that of the last writer; one that escaped shall not keep us.
        self._thread.join(timeout=10)
        return b"".join(list(self._parts))[-self._size :]
