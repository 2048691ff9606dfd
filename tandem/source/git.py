"""Git run as a program, clean of any surrounding repository."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tandem.errors import SourceError
from tandem.settings import redact


def git(
    *arguments: str,
    at: Path | None = None,
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
) -> str:
    """What git prints; raises `SourceError` with its last line of complaint."""
    # A repository that git was started from (a hook, say) must not leak into ours; `ext::` remotes
    # run programs.
    clean = {
        k: v for k, v in os.environ.items() if not k.startswith("GIT_") or k == "GIT_SSL_CAINFO"
    }
    clean |= {
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ALLOW_PROTOCOL": "file:git:http:https:ssh",
        "LC_ALL": "C",
    }
    where = [f"--git-dir={at}"] if at else []
    try:
        done = subprocess.run(
            ["git", *where, *arguments],
            env=clean | (env or {}), cwd=cwd, capture_output=True, text=True, timeout=600,
            stdin=subprocess.DEVNULL, errors="replace",
        )  # fmt: skip
    except FileNotFoundError:
        raise SourceError("the program `git` is not on the PATH: install Git") from None
    except subprocess.TimeoutExpired:
        raise SourceError(f"git {arguments[0]} took longer than 600 s") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        fatal = next((line for line in lines if line.startswith(("fatal:", "error:"))), None)
        raise SourceError(redact(fatal or (lines[-1] if lines else f"exit {done.returncode}")))
    return done.stdout


def is_branch_name(name: str) -> bool:
    """Whether git takes it for the name of a branch."""
    return (
        subprocess.run(
            ["git", "check-ref-format", "--branch", name], capture_output=True
        ).returncode
        == 0
    )
