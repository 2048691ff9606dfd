"""Where code that is not ours runs (a commit's tests, a model's judging, a training): without our
credentials, without a way to ours, and bounded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a run may use: `seconds` by the clock, bytes of `memory` and `output`, `processes`."""

    seconds: float = 1800.0
    memory: int = 8 * 2**30
    processes: int = 1024
    output: int = 1_000_000


DEFAULT_LIMITS = Limits()


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
    """What held it, in a few words: "own namespaces (bubblewrap)", "another user", ..."""


def run(
    argv: Sequence[str],
    *,
    folder: Path,
    readable: Sequence[Path] = (),
    writable: Sequence[Path] = (),
    env: Mapping[str, str],
    limits: Limits = DEFAULT_LIMITS,
    network: bool = False,
    stdin: bytes = b"",
    merge_output: bool = False,
) -> Finished:
    """Run `argv` in the working folder `folder`, which it may write, as all of `writable`.

    It sees the system's own folders and `readable`, a private temporary folder, and nothing else of
    this machine; of the environment just `env`. Everything it started has ended when this returns.
    With `merge_output` standard error is in `stdout`. Raises `SandboxError` when it cannot be
    started at all, which is never the fault of what would have run.
    """
    raise NotImplementedError
