"""Byte code for an image: the interpreters that fit, and files dealt out to them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tandem.errors import BuildError
from tandem.oci.app_image.python_runtime import host_python


def compile_python(
    root: Path, out: Path, prefix: str, files: Sequence[str], *, python: str = sys.executable
) -> None:
    """Write reproducible `.pyc` files for `files` of `root` below `out`."""
    workers = min(os.cpu_count() or 1, 1 + len(files) // 100)
    # Large files last long; dealt out in turn by size, the workers end together.
    by_size = sorted(files, key=lambda file: (-(root / file).stat().st_size, file))

    def work(share: Sequence[str]) -> subprocess.CompletedProcess[str]:
        order = {"root": str(root), "out": str(out), "prefix": prefix, "files": share}
        program = Path(__file__).with_name("bytecode.py")
        return subprocess.run(
            [python, "-I", "-S", str(program)],
            input=json.dumps(order),
            capture_output=True,
            text=True,
            umask=0o022,
        )

    with ThreadPoolExecutor(workers) as pool:
        for done in pool.map(work, [by_size[n::workers] for n in range(workers)]):
            if done.returncode:
                last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
                raise BuildError(f"compiling for Python {python}: {last}")


def interpreter(version: str) -> str:
    """A Python on this machine whose byte code that version reads, or `BuildError`."""
    if version == host_python().version:
        return sys.executable
    if found := shutil.which(f"python{version}"):
        return found
    raise BuildError(
        f"the base image has Python {version}, this machine has {host_python().version} and no "
        f"python{version}: take a base image with Python {host_python().version}, install "
        f"python{version} here, or set TANDEM_BUILDER=docker"
    )
