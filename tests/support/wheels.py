"""The project's own wheel, built from what is committed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
UV = str(Path(sys.executable).with_name("uv"))


def run(*words: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """What a program printed; fails the test with all of it where it fails."""
    done = subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build_wheel(folder: Path) -> Path:
    """Build the wheel of the newest commit into `folder`."""
    clone = folder / "clone"
    run("git", "clone", "--quiet", str(ROOT), str(clone))
    run(
        *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"),
        *("--disable-pip-version-check", "--wheel-dir", str(folder), str(clone)),
    )
    (wheel,) = folder.glob("tandem_release-*.whl")
    return wheel
