"""Where code that is not ours runs (a commit's tests, a model's judging, a training): without our
credentials, without a way to ours, and bounded.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import functools
import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import msgspec

from tandem.errors import SandboxError
from tandem.util.folders import scratch

log = logging.getLogger("tandem.sandbox")

_CONFINED = "own namespaces: no network, no other process, only its own files"
_CONFINED_ONLINE = "own namespaces: no other process, only its own files"
_TEMPORARY = 2 * 2**30
_SYSTEM = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"),
    *("/etc/alternatives", "/etc/ca-certificates", "/etc/fonts", "/etc/ld.so.cache"),
    *("/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/localtime", "/etc/mime.types"),
    *("/etc/nsswitch.conf", "/etc/pki/tls/certs", "/etc/ssl/certs", "/etc/ssl/openssl.cnf"),
    *("/etc/timezone",),
)
_SECRET = re.compile(r"KEY|SECRET|PASSWORD|TOKEN|CONNECTION_STRING|SAS|CREDENTIAL", re.IGNORECASE)


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a run may use: `seconds` by the clock, bytes of `memory` and `output`, `processes`."""

    seconds: float = 1800.0
    memory: int = 8 * 2**30
    processes: int = 1024
    output: int = 1_000_000


class Finished(msgspec.Struct, frozen=True, kw_only=True):
    """How a run ended. `code` is the exit code (negative: that signal), None when `stopped`."""

    code: int | None
    stdout: bytes
    """At most `limits.output` bytes; the end of what was printed where it was more."""
    stderr: bytes
    seconds: float
    stopped: str = ""
    """Why the sandbox ended it (took too long, used too much memory), else empty."""
    confinement: str = ""
    """What held it, and what did not, in a few words."""


def run(
    argv: Sequence[str],
    *,
    folder: Path,
    readable: Sequence[Path] = (),
    writable: Sequence[Path] = (),
    env: Mapping[str, str],
    limits: Limits = Limits(),  # noqa: B008 - it is frozen
    network: bool = False,
    stdin: bytes | Callable[[], bytes] = b"",
    merge_output: bool = False,
) -> Finished:
    """Run `argv` in the working folder `folder`, which it may write, as all of `writable`.

    It sees the system's own folders and `readable`, a private temporary folder, and nothing else of
    this machine; of the environment just `env`. Everything it started has ended when this returns.
    A `stdin` that is called is asked when it runs already, and may take its time.
    With `merge_output` standard error is in `stdout`. Raises `SandboxError` when it cannot be
    started at all, which is never the fault of what would have run.
    """
    problem = _namespaces_missing()
    if not problem:
        words = _CONFINED_ONLINE if network else _CONFINED
    else:
        words = f"its own session and limits only: this machine gives no namespaces ({problem})"
    with contextlib.ExitStack() as held:
        if problem:
            held.enter_context(_unreadable())
        return _launch(
            argv,
            folder=folder,
            paths=_shown(folder, readable, writable),
            env=env,
            limits=limits,
            network=network,
            stdin=stdin,
            merge_output=merge_output,
            confinement=words,
            confined=not problem,
        )


def redact(text: str) -> str:
    """`text` without the value of any environment variable of ours whose name looks secret."""
    values = {v for k, v in os.environ.items() if _SECRET.search(k) and len(v.strip()) >= 6}
    for value in sorted(values, key=len, reverse=True):
        text = text.replace(value, "…")
    return text


def _shown(folder: Path, readable: Sequence[Path], writable: Sequence[Path]) -> dict[str, bool]:
    """What is shown, by path, and whether it may be written."""
    shown: dict[str, bool] = {}
    # An interpreter of the system is in /usr, which is shown anyway.
    own = [Path(one) for one in {sys.base_prefix, sys.base_exec_prefix} if one != "/usr"]
    for paths, may_write in (((*own, *readable), False), ((folder, *writable), True)):
        for path in paths:
            for name in (str(path.absolute()), os.path.realpath(path)):
                if not Path(name).exists():
                    raise SandboxError(f"{name} is to be shown in a sandbox, and does not exist")
                shown[name] = may_write
    if "/" in shown:
        raise SandboxError("all of this machine is to be shown in a sandbox: name folders below /")
    # Through the name with a link in it nothing can be mounted inside the folder of its real name.
    return {p: w for p, w in shown.items() if os.path.realpath(p) == p or not _below(p, shown)}


def _below(path: str, others: Mapping[str, bool]) -> bool:
    return any(path.startswith(f"{one}/") for one in (*others, "/usr"))


def _launch(
    argv: Sequence[str],
    *,
    folder: Path,
    paths: Mapping[str, bool],
    env: Mapping[str, str],
    limits: Limits,
    network: bool,
    stdin: bytes | Callable[[], bytes],
    merge_output: bool,
    confinement: str,
    confined: bool,
) -> Finished:
    with scratch("sandbox") as base:
        home = "/tmp" if confined else str(base)  # noqa: S108 - a private one
        system = (*_SYSTEM, "/etc/resolv.conf") if network else _SYSTEM
        spec: dict[str, Any] = {
            "argv": list(argv),
            "folder": os.path.realpath(folder),
            "paths": dict(paths),
            "system": system,
            "env": {"HOME": home, "TMPDIR": home} | dict(env),
            "base": os.path.realpath(base),
            "temporary": min(_TEMPORARY, limits.memory),
            "memory": limits.memory,
            "processes": limits.processes,
            "seconds": limits.seconds,
            "network": network,
            "confined": confined,
            "parent": os.getpid(),
        }
        started = time.monotonic()
        answer, stdout, stderr = _exchange(spec, stdin, merge_output, limits)
        seconds = time.monotonic() - started
    if "code" not in answer:
        said = answer.get("error") or "its own program was ended from outside"
        raise SandboxError(f"the sandbox for {argv[0]} failed: {said}")
    return Finished(
        code=answer["code"],
        stdout=stdout,
        stderr=stderr,
        seconds=seconds,
        stopped=answer["stopped"],
        confinement=confinement,
    )


def _exchange(
    spec: dict[str, Any],
    stdin: bytes | Callable[[], bytes],
    merge_output: bool,
    limits: Limits,
) -> tuple[dict[str, Any], bytes, bytes]:
    """Start the launcher, feed it, and collect what comes back until all of it has ended."""
    wanted, tell = os.pipe()
    listen, say = os.pipe()
    try:
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", launcher_file(), str(wanted), str(say)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT if merge_output else subprocess.PIPE,
                pass_fds=(wanted, say),
                env={"LANG": "C.UTF-8"},
                start_new_session=True,
            )
        except OSError as problem:
            os.close(tell)
            raise SandboxError(f"a sandbox cannot be started: {problem.strerror}") from None
    finally:
        os.close(wanted)
        os.close(say)
        if sys.exc_info()[0]:
            os.close(listen)
    tails = [_Tail(pipe, limits.output) for pipe in (process.stdout, process.stderr) if pipe]
    feeder = threading.Thread(target=_feed, args=(process.stdin, stdin), daemon=True)
    with process, os.fdopen(listen, "rb") as answers:
        try:
            with contextlib.suppress(BrokenPipeError), os.fdopen(tell, "wb") as file:
                file.write(json.dumps(spec).encode())
            feeder.start()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=limits.seconds + 60)
        finally:
            if process.poll() is None:
                # It ends what it started, and would not if it were killed at once.
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=10)
                process.kill()
        said = answers.read()
        outputs = [tail.all() for tail in tails]
    return json.loads(said or b"{}"), outputs[0], outputs[1] if len(outputs) > 1 else b""


def launcher_file() -> str:
    """The program that is started; a file, as it must not import anything of ours."""
    return str(Path(__file__).with_name("launcher.py"))


def _feed(pipe: IO[bytes], data: bytes | Callable[[], bytes]) -> None:
    with contextlib.suppress(OSError, ValueError), pipe:
        pipe.write(data if isinstance(data, bytes) else data())


class _Tail:
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


@functools.cache
def _namespaces_missing() -> str:
    """Why this machine gives no namespaces, or nothing when it does; asked once a process."""
    if sys.platform != "linux":
        return f"{sys.platform} has none"
    with scratch("sandbox") as folder:
        try:
            done = _launch(
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


_dumpable = threading.Lock()
_running: set[object] = set()


@contextlib.contextmanager
def _unreadable() -> Iterator[None]:
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
