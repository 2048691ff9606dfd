"""One run of a program: what it may use, what it sees, how it ended."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from tandem.errors import SandboxError
from tandem.sandbox.exchange import exchange
from tandem.sandbox.visible import SYSTEM
from tandem.util.folders import scratch

TEMPORARY = 2 * 2**30
"""Bytes of the private temporary folder, at most."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a run may use: seconds by the clock, bytes, processes."""

    seconds: float = 1800.0
    memory: int = 8 * 2**30
    processes: int = 1024
    output: int = 1_000_000


class Finished(msgspec.Struct, frozen=True, kw_only=True):
    """How a run ended.

    `code` is the exit code (negative: that signal), None when `stopped`.
    """

    code: int | None
    stdout: bytes
    """At most `limits.output` bytes; the end of what was printed where it was more."""
    stderr: bytes
    seconds: float
    stopped: str = ""
    """Why the sandbox ended it (took too long, used too much memory), else empty."""
    confinement: str = ""
    """What held it, and what did not, in a few words."""


def launch(
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
    """Run it; `paths` are shown, and may be written where True. Raises `SandboxError`."""
    with scratch("sandbox") as base:
        home = "/tmp" if confined else str(base)  # noqa: S108 - a private one
        system = (*SYSTEM, "/etc/resolv.conf") if network else SYSTEM
        spec: dict[str, Any] = {
            "argv": list(argv),
            "folder": os.path.realpath(folder),
            "paths": dict(paths),
            "system": system,
            "env": {"HOME": home, "TMPDIR": home} | dict(env),
            "base": os.path.realpath(base),
            "temporary": min(TEMPORARY, limits.memory),
            "memory": limits.memory,
            "processes": limits.processes,
            "seconds": limits.seconds,
            "network": network,
            "confined": confined,
            "parent": os.getpid(),
        }
        started = time.monotonic()
        answer, stdout, stderr = exchange(
            spec, stdin, merge_output, seconds=limits.seconds, output=limits.output
        )
        seconds = time.monotonic() - started
    if "code" not in answer:
        reason = answer.get("error") or "its own program was ended from outside"
        raise SandboxError(f"the sandbox for {argv[0]} failed: {reason}")
    return Finished(
        code=answer["code"],
        stdout=stdout,
        stderr=stderr,
        seconds=seconds,
        stopped=answer["stopped"],
        confinement=confinement,
    )
