"""Versions and hashes of what a commit asks for: its own, or resolved once and kept."""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import re
import subprocess
import tomllib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from tandem.build.requirements import Requirements, from_pylock, read_requirements
from tandem.errors import BuildError, Conflict, NotFound, RecipeError
from tandem.storage import Store
from tandem.util.folders import scratch

log = logging.getLogger("tandem.build")

PYTHONS = ("3.8", "3.9", "3.10", "3.11", "3.12", "3.13", "3.14")
_SECONDS = 600.0
_SOLVED = re.compile(
    r"No solution found|not found in the package registry|no wheels? with|Couldn't parse"
)
"""What uv says when it could look and found that it cannot be; else an index was unreachable."""


class Lock(msgspec.Struct, frozen=True, kw_only=True):
    """A requirements file that pins everything by hash.

    `own`: it is the commit's, unchanged; `notes`: what had to be changed to make it.
    """

    text: str
    own: bool
    notes: list[str] = []


class Locks:
    """The locks that were made for one app, by what they were made from."""

    def __init__(self, store: Store, app: str) -> None:
        self._store = store
        self._prefix = f"apps/{app}/locks/"

    def of(self, key: str) -> str | None:
        """The lock that was made from that."""
        try:
            return self._store.read(f"{self._prefix}{key}.txt")[0].decode()
        except NotFound:
            return None

    def keep(self, key: str, text: str) -> str:
        """Keep a lock; the one that counts, where another was made at the same moment."""
        try:
            self._store.put(f"{self._prefix}{key}.txt", text.encode(), if_absent=True)
        except Conflict:
            return self.of(key) or text
        return text


def lock(
    folder: Path, name: str, *, locks: Locks, python: str, also: Sequence[str] = (), more: str = ""
) -> Lock:
    """The lock for `name` of a checkout, for Python `python` ("3.11").

    `also`: requirements on top, where the file does not name them; `more`: a file of others. What
    has no hashes is resolved once, and the same input gives the same versions ever after. Raises
    `RecipeError` naming the pin that cannot be had, and `BuildError` where an index is unreachable.
    """
    asked, text = _read(folder, name)
    notes = list(asked.notes)
    constraints = list(asked.constraints)
    extra = [line for line in also if re.split(r"[=<>~! ]", line)[0] not in asked.names]
    if more:
        others = read_requirements(folder, more)
        extra += [line.split(" --hash=")[0] for line in others.lines]
        constraints += others.constraints
        notes += others.notes
    if asked.hashed and not extra and not notes:
        return Lock(text=text, own=True)
    lines = [line.split(" --hash=")[0].strip() for line in asked.lines]
    made_from = msgspec.json.encode([lines, extra, constraints, asked.options, python])
    key = hashlib.sha256(made_from).hexdigest()[:32]
    kept = locks.of(key)
    if kept is None:
        log.info("resolving %s for Python %s", name, python)
        resolved = _resolve([*lines, *extra], constraints, asked.options, python, name)
        kept = locks.keep(key, resolved)
    return Lock(text=kept, own=False, notes=notes)


def _read(folder: Path, name: str) -> tuple[Requirements, str]:
    base = Path(name).name
    if base == "pylock.toml":
        lines = from_pylock(folder, name)
    elif base == "uv.lock":
        lines = _uv(
            ["export", "--frozen", "--no-dev", "--no-emit-project", "--no-header", "--quiet"],
            cwd=folder / Path(name).parent,
        ).splitlines()
    elif base == "pyproject.toml":
        lines = _dependencies(folder / name)
    else:
        asked = read_requirements(folder, name)
        text = (folder / name).read_bytes().decode("utf-8", "replace")
        return asked, text
    with scratch("requirements") as home:
        (home / "requirements.txt").write_text("\n".join(lines) + "\n", "utf-8")
        asked = read_requirements(home, "requirements.txt")
    return asked, "\n".join(lines) + "\n"


def _dependencies(path: Path) -> list[str]:
    try:
        project = tomllib.loads(path.read_text("utf-8"))["project"]
        return [str(line) for line in project["dependencies"]]
    except (OSError, ValueError, KeyError, TypeError):
        raise RecipeError("pyproject.toml has no [project] dependencies") from None


def _resolve(
    lines: Sequence[str], constraints: Sequence[str], options: Sequence[str], python: str, name: str
) -> str:
    with scratch("requirements") as home:
        (home / "requirements.in").write_text("\n".join([*options, *lines]) + "\n", "utf-8")
        (home / "constraints.in").write_text("\n".join(constraints) + "\n", "utf-8")
        words = [
            "pip", "compile", "requirements.in", "--constraint", "constraints.in", "--quiet",
            "--generate-hashes", "--only-binary=:all:", "--no-header", "--no-annotate",
            "--no-emit-index-url", "--no-emit-find-links", "--no-progress",
            "--index-strategy=unsafe-best-match",
            f"--python-platform={platform.machine()}-unknown-linux-gnu",
        ]  # fmt: skip
        try:
            return _uv([*words, f"--python-version={python}"], cwd=home)
        except BuildError as problem:
            reason = str(problem)
        would = ""
        if re.search(r"no wheels? with a matching Python|Requires-Python|only-binary", reason):
            for other in sorted(PYTHONS, key=lambda v: abs(_minor(v) - _minor(python))):
                if other != python and _resolves([*words, f"--python-version={other}"], home):
                    would = f"; Python {other} would do, or another version of that library"
                    break
    if not _SOLVED.search(reason):
        raise BuildError(f"{name} could not be resolved: {reason}")
    raise RecipeError(f"{name} cannot be installed for Python {python}: {reason}{would}")


def _minor(version: str) -> int:
    return int(version.partition(".")[2])


def _resolves(words: Sequence[str], home: Path) -> bool:
    try:
        _uv(words, cwd=home)
    except BuildError:
        return False
    return True


def _uv(words: Sequence[str], *, cwd: Path) -> str:
    """What uv prints. Raises `BuildError` with its reason in one line."""
    from tandem.oci.app_image.pip_settings import uv_configuration, uv_settings

    try:
        from uv import find_uv_bin

        program = find_uv_bin()
    except (ImportError, FileNotFoundError):
        raise BuildError("uv is missing: pip install 'tandem-release[dagster]'") from None
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    try:
        done = subprocess.run(
            [program, *words, *uv_configuration(env)],
            cwd=cwd,
            env=env | uv_settings(env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise BuildError(f"uv {words[0]} took more than {_SECONDS:.0f} s") from None
    if done.returncode:
        text = re.sub(r"[\u00d7\u251c\u2570\u2500\u25b6\u2502\u2509]", " ", done.stderr)
        text = re.sub(r"://[^/@\s]+@", "://", " ".join(text.split()))
        raise BuildError(text if len(text) < 500 else f"{text[:500]}…")
    return done.stdout
