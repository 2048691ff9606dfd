"""An app build: one commit, tested in its locked environment and laid into image layers; made once
a tree.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from tandem.build import tests
from tandem.build.tests import NO_TESTS, Failure, TestReport
from tandem.errors import BuildError, NotFound, one_line
from tandem.model.interface import Takes
from tandem.oci import Layer, Transfer
from tandem.storage import Store
from tandem.util.venv import bare_python

__all__ = ["NO_TESTS", "AppBuild", "Builds", "Failure", "Recipe", "TestReport"]
__all__ += ["locked_environment", "read_recipe", "run_tests"]

log = logging.getLogger("tandem.build")

_ENTRY = "[tool.tandem.app] of pyproject.toml"


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab", kw_only=True):
    """What a commit says of itself in `[tool.tandem.app]`: what is packed, what locks it, how it is
    tested.
    """

    name: str
    paths: list[str]
    lock: str
    test_lock: str
    test: list[str]
    command: list[str]
    tests: bool = True
    """False for a repository that wants no tests, which every report of it then says."""
    model: Takes | None = None
    """The model that the code is written for, where it says so."""


class AppBuild(msgspec.Struct, frozen=True, kw_only=True):
    """A tested tree. `layers` and `image` (the digest of the image without a model) only when it
    passed.
    """

    commit: str
    tree: str
    subject: str
    time: str
    """When it was committed, RFC 3339."""
    report: TestReport
    recipe: Recipe
    made_for: str
    """What else decided what was made: base image, builder, Python."""
    image: str | None = None
    lock_digest: str = ""
    locked: dict[str, str] = {}
    """The versions that the lock file names, by library."""
    base_digest: str = ""
    builder: str = ""
    components: int = 0
    """How many libraries the bill of materials names."""
    layers: list[Layer] = []
    transfers: list[Transfer] = []
    left_out: list[str] = []

    @property
    def passed(self) -> bool:
        """Whether anything may be released from it."""
        return self.report.passed and self.image is not None


class Builds:
    """The builds of one app, found by tree hash: `apps/APP/builds/TREE.json`."""

    def __init__(self, store: Store, app: str) -> None:
        self._store = store
        self._prefix = f"apps/{app}/builds/"

    def of(self, tree: str) -> AppBuild | None:
        """The build of that tree, or None when it was not built yet or its record is of no use."""
        try:
            data, _ = self._store.read(f"{self._prefix}{tree}.json")
        except NotFound:
            return None
        try:
            return msgspec.json.decode(data, type=AppBuild)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
            log.warning("the record of build %s is made again: %s", tree[:10], one_line(problem))
            return None

    def keep(self, build: AppBuild) -> None:
        """Write the build, over an earlier one of the same tree."""
        self._store.put(f"{self._prefix}{build.tree}.json", msgspec.json.encode(build))


def read_recipe(folder: Path, app: str) -> Recipe:
    """The recipe of a checked-out commit.

    Raises `BuildError` when it is missing, malformed, names paths outside the folder, or another
    app.
    """
    path = folder / "pyproject.toml"
    try:
        table: Any = tomllib.loads(path.read_text(encoding="utf-8"))["tool"]["tandem"]["app"]
        recipe = msgspec.convert(table, Recipe)
    except FileNotFoundError:
        raise BuildError("this commit has no pyproject.toml: it needs [tool.tandem.app]") from None
    except KeyError:
        raise BuildError("pyproject.toml of this commit has no [tool.tandem.app]") from None
    except OSError as problem:
        raise BuildError(f"pyproject.toml of this commit: {problem.strerror}") from None
    except RecursionError:
        raise BuildError(f"{_ENTRY}: it is nested too deeply") from None
    except (TypeError, ValueError, msgspec.ValidationError) as problem:
        raise BuildError(f"{_ENTRY}: {one_line(problem)}") from None
    if recipe.name != app:
        raise BuildError(f"{_ENTRY} describes {recipe.name!r}; this is the build of {app!r}")
    for entry in (*recipe.paths, recipe.lock, recipe.test_lock):
        pure = PurePosixPath(entry)
        if pure.is_absolute() or ".." in pure.parts or not pure.parts:
            raise BuildError(f"{_ENTRY} names {entry!r}: a path inside the repository is wanted")
        if not (folder / entry).resolve().is_relative_to(folder.resolve()):
            raise BuildError(f"{_ENTRY} names {entry!r}, a link that leads outside")
        if not (folder / entry).exists():
            raise BuildError(f"{_ENTRY} names {entry!r}: this commit has no such path")
    if not recipe.paths or not recipe.command or (recipe.tests and not recipe.test):
        raise BuildError(f"{_ENTRY}: paths, test and command must not be empty")
    return recipe


def locked_environment(lock: Path, home: Path) -> Path:
    """The `python` of a virtual environment with just what the lock file names; made once a lock.

    Raises `BuildError` when something cannot be installed with the hash that is locked.
    """
    from tandem.oci.app_image.wheels import alone, install

    content = lock.read_bytes() + sys.version.encode()
    folder = home / hashlib.sha256(content).hexdigest()[:16]
    libraries = install(lock, folder / "lib", progress=log.info)
    python = bare_python(folder) / "bin" / "python"
    packages = next((python.parent.parent / "lib").glob("python*")) / "site-packages"
    # Not by a .pth file: tools tell a library from the commit's own code by where it is (hypothesis
    # reads all of the latter before its first test).
    with alone(folder / ".lock"):
        if not packages.is_symlink():
            shutil.rmtree(packages, ignore_errors=True)
            # The tests may not write here, so the byte code is made now.
            compiling = [str(python), "-I", "-m", "compileall", "-q", str(libraries)]
            subprocess.run(compiling, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            packages.symlink_to(libraries.absolute())
    os.utime(folder)  # what is not used for long is removed
    return python


def run_tests(folder: Path, recipe: Recipe, *, python: Path) -> TestReport:
    """Run the commit's tests in `folder` with `python`, the interpreter of a locked environment.

    The tests are somebody's code: they run in the sandbox. Raises `BuildError` when they could not
    be run, which says nothing of the commit.
    """
    return tests.run(folder, recipe.test, python=python) if recipe.tests else NO_TESTS
