"""Where code that is not ours runs: without our credentials, and bounded.

A commit's tests, a model's judging, a training.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tandem.sandbox.confinement import namespaces_missing, unreadable
from tandem.sandbox.launch import Finished, Limits, launch
from tandem.sandbox.redaction import redact
from tandem.sandbox.visible import shown

__all__ = ["Finished", "Limits", "redact", "run"]

_CONFINED = "own namespaces: no network, no other process, only its own files"
_CONFINED_ONLINE = "own namespaces: no other process, only its own files"


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
    """Run `argv` in `folder`, which it may write, as all of `writable`.

    It sees the system's own folders and `readable`, a private temporary folder, and nothing else of
    this machine; of the environment just `env`. Everything it started has ended when this returns.
    A `stdin` that is called is asked when it runs already, and may take its time.
    With `merge_output` standard error is in `stdout`. Raises `SandboxError` when it cannot be
    started at all, which is never the fault of what would have run.
    """
    problem = namespaces_missing()
    if not problem:
        words = _CONFINED_ONLINE if network else _CONFINED
    else:
        words = f"its own session and limits only: this machine gives no namespaces ({problem})"
    with contextlib.ExitStack() as held:
        if problem:
            held.enter_context(unreadable())
        return launch(
            argv,
            folder=folder,
            paths=shown(folder, readable, writable),
            env=env,
            limits=limits,
            network=network,
            stdin=stdin,
            merge_output=merge_output,
            confinement=words,
            confined=not problem,
        )
