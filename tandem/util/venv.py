"""Virtual environments of this Python with nothing in them."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

from tandem.errors import TandemError
from tandem.util.folders import beside


def bare_python(state: Path) -> Path:
    """A virtual environment of this Python with nothing in it, made once.

    Nothing that is installed on this machine leaks in."""
    base = getattr(sys, "_base_executable", None) or sys.executable
    key = hashlib.sha256(f"{base} {sys.version}".encode()).hexdigest()[:12]
    venv = state.absolute() / f"python-{key}"
    if not (venv / "bin" / "python3").exists():
        with beside(venv) as making:
            done = subprocess.run(
                [base, "-I", "-m", "venv", "--without-pip", str(making)],
                capture_output=True,
                text=True,
            )
            if done.returncode:
                raise TandemError(f"{base} -m venv: {(done.stderr or done.stdout).strip()[-300:]}")
    return venv
