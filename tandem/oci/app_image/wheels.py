"""Locked wheels: installed by hash, and tidied to what they ship themselves."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import uv

from tandem.errors import BuildError
from tandem.oci.app_image.lock_file import refuse_other_sources, without_login
from tandem.oci.app_image.pip_settings import uv_configuration, uv_settings
from tandem.oci.app_image.python_runtime import PythonRuntime
from tandem.oci.components import Component, component_of
from tandem.util.files import locked

MOST_WORDS = 600


def install(
    lock: Path,
    into: Path,
    *,
    runtime: PythonRuntime | None = None,
    python: str = sys.executable,
    progress: Callable[[str], None] | None = None,
) -> Path:
    """Install the wheels of a hash-locked file into the new folder `into`.

    A folder that is there already is whole, and used as it is. uv installs, with the person's own
    settings for pip and uv (index, proxy, certificates). Nothing is built and no code of a package
    runs: wheels only, each one's hash checked. Raises `BuildError` with uv's own last words.
    """
    if into.is_dir():
        return into
    into.parent.mkdir(parents=True, exist_ok=True)
    with locked(into.parent / f".{into.name}.lock"):
        if into.is_dir():
            return into
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=into.parent) as temporary:
            target = Path(temporary) / "lib"
            if progress:
                progress(f"installing {lock.name}")
            _install(lock, target, runtime, python)
            target.rename(into)
    return into


def _install(lock: Path, target: Path, runtime: PythonRuntime | None, python: str) -> None:
    refuse_other_sources(lock)
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    argv = [_uv(), "pip", "install", "--python", python, "--target", str(target)]
    argv += ["--quiet", "--no-progress", "--require-hashes", "--no-deps", "--only-binary=:all:"]
    argv += ["--index-strategy=unsafe-best-match", *uv_configuration(env), "-r", str(lock)]
    if runtime:
        argv += [f"--python-version={runtime.version}", f"--python-platform={_uv_tag(runtime)}"]
    completed = subprocess.run(
        argv,
        env=env | uv_settings(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        umask=0o022,
    )
    if completed.returncode:
        lines = [
            line.strip(" \t\u00d7\u251c\u2570\u2500\u25b6\u2502")
            for line in completed.stderr.splitlines()
        ]
        words = without_login(" ".join(line for line in lines if line and "WARNING" not in line))
        words = words if len(words) < MOST_WORDS else "…" + words[-MOST_WORDS:]
        raise BuildError(f"installing {lock.name} failed: {words or 'uv gave no reason'}")


def _uv() -> str:
    try:
        return uv.find_uv_bin()
    except FileNotFoundError:
        raise BuildError(
            "the program uv is not beside this Python: run `python -m pip install uv`"
        ) from None


def _uv_tag(runtime: PythonRuntime) -> str:
    # uv knows the platforms that wheels are made for; the newest of them that this libc can load.
    known = (17, 28, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40)
    minor = int(runtime.libc.rpartition(".")[2] or 17)
    machine = {"amd64": "x86_64", "arm64": "aarch64"}[runtime.platform.architecture]
    return f"{machine}-manylinux_2_{max(n for n in known if n <= max(minor, 17))}"


_NOISE = {"INSTALLER", "REQUESTED", "RECORD", "direct_url.json", "uv_cache.json", "uv_build.json"}
"""Files of a `.dist-info` that tell who installed it, when and from where."""


def tidy(lib: Path) -> tuple[Component, ...]:
    """Leave only what the wheels ship in a folder, and list them.

    Scripts go (their first line names this machine's Python; `python3 -m` does the same),
    installers' notes go, and each RECORD is written again in order, without them.
    """
    (lib / ".lock").unlink(missing_ok=True)
    scripts = lib / "bin"
    if scripts.is_dir():
        for script in scripts.iterdir():
            with script.open("rb") as file:
                if file.read(2) == b"#!":
                    script.unlink()
        if not any(scripts.iterdir()):
            scripts.rmdir()
    components = []
    for info in sorted(lib.glob("*.dist-info")):
        text = (info / "METADATA").read_text("utf-8", "replace")
        components.append(component_of(text, info.name))
        record = info / "RECORD"
        rows = []
        if record.exists():
            for row in csv.reader(record.read_text("utf-8").splitlines()):
                inside = row and not row[0].startswith(("..", "/")) and not row[0].endswith(".pyc")
                if inside and (lib / row[0]).exists() and Path(row[0]).name not in _NOISE:
                    rows.append([row[0], *row[1:3]])
        for name in _NOISE:
            (info / name).unlink(missing_ok=True)
        rewritten = io.StringIO()
        own = f"{info.name}/RECORD"
        csv.writer(rewritten, lineterminator="\n").writerows([*sorted(rows), [own, "", ""]])
        record.write_text(rewritten.getvalue(), "utf-8")
    return tuple(components)
