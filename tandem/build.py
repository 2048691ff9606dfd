"""An app build: one commit, tested in its locked environment and laid into image layers; made once
a tree.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from tandem.errors import BuildError, NotFound
from tandem.oci import Layer, Transfer
from tandem.storage import Store

log = logging.getLogger("tandem.build")

_REPORT_LIMIT = 50_000_000
_TEST_SECONDS = 1800.0
_OUTPUT = 8000
_PLUGIN = "tandem_session"
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
    """False: this repository has no tests, by its own word, and every page says so."""


class Failure(msgspec.Struct, frozen=True):
    """One test that failed, with the first line of the reason."""

    test: str
    reason: str


class TestReport(msgspec.Struct, frozen=True, kw_only=True):
    """What the commit's own tests said; `seconds` is the whole run's, `output` the end of what it
    printed.
    """

    __test__ = False  # not a test class, whatever pytest thinks of the name

    passed: bool
    total: int
    skipped: int
    seconds: float
    failures: list[Failure]
    summary: str
    output: str


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
        """The build of that tree, or None when it was not built yet."""
        try:
            data, _ = self._store.read(f"{self._prefix}{tree}.json")
        except NotFound:
            return None
        try:
            return msgspec.json.decode(data, type=AppBuild)
        except msgspec.MsgspecError as problem:
            log.warning("build %s: its record cannot be read, it is made anew: %s", tree, problem)
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
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as problem:
        raise BuildError(f"{_ENTRY}: {problem}") from None
    except RecursionError:
        raise BuildError("pyproject.toml of this commit is nested too deeply to be read") from None
    except (OSError, TypeError) as problem:
        raise BuildError(f"pyproject.toml of this commit cannot be read: {problem}") from None
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
    if not recipe.paths or not recipe.command or not (recipe.test or not recipe.tests):
        raise BuildError(f"{_ENTRY}: paths, test and command must not be empty")
    return recipe


def locked_environment(lock: Path, home: Path) -> Path:
    """The `python` of a virtual environment with just what the lock file names; made once a lock.

    Raises `BuildError` when something cannot be installed with the hash that is locked.
    """
    from tandem.oci import assemble
    from tandem.oci.wheels import alone
    from tandem.targets import process

    content = lock.read_bytes() + sys.version.encode()
    folder = home / hashlib.sha256(content).hexdigest()[:16]
    libraries = assemble.install(lock, folder / "lib", progress=log.info)
    python = process.bare_python(folder) / "bin" / "python"
    packages = next((python.parent.parent / "lib").glob("python*")) / "site-packages"
    # Not by a .pth file: tools tell a library from the commit's own code by where it is (hypothesis
    # reads all of the latter before its first test).
    with alone(folder / ".lock"):
        if not packages.is_symlink():
            shutil.rmtree(packages, ignore_errors=True)
            packages.symlink_to(libraries.absolute())
    return python


@contextlib.contextmanager
def clean_folder(state: Path, purpose: str) -> Iterator[Path]:
    """An empty folder of our own below `state`, removed afterwards; what a killed run left is
    removed first.
    """
    home = state / purpose
    home.mkdir(parents=True, exist_ok=True)
    for old in home.iterdir():
        if not _alive(old.name.partition("-")[0]):
            shutil.rmtree(old, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=home))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_tests(folder: Path, recipe: Recipe, *, python: Path) -> TestReport:
    """Run the commit's tests in `folder` with `python`, the interpreter of a locked environment.

    Green takes exit code 0, a report of this very run that can be read, at least one test that
    passed, and, where the runner is pytest, as many results as it collected and a session that came
    to its end: tests that did not run never count as passed. (An author owns the tests, and can
    always write some that pass.)

    The tests are somebody's code: they get no variable of ours but the PATH and the locale.
    """
    if not recipe.tests:
        return TestReport(
            passed=True, total=0, skipped=0, seconds=0.0, failures=[],
            summary="this repository has no tests, as its recipe says", output="",
        )  # fmt: skip
    with tempfile.TemporaryDirectory() as home:
        report = Path(home) / "report.xml"
        watch = Path(home) / "session"
        plugin = Path(home) / "plugin"
        plugin.mkdir()
        shutil.copy(Path(__file__).with_name("pytest_session.py"), plugin / f"{_PLUGIN}.py")
        environment = {
            "PATH": f"{python.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "LANG": os.environ.get("LANG", "C.UTF-8"),
            "HOME": home,
            "TMPDIR": home,
            "VIRTUAL_ENV": str(python.parent.parent),
            "PYTHONNOUSERSITE": "1",
            "PYTHONPATH": str(plugin),
            "TANDEM_SESSION": str(watch),
            "PYTEST_ADDOPTS": f"-p {_PLUGIN} --junitxml={report}",
        }
        started = time.monotonic()
        log.info("testing: %s", " ".join(recipe.test))
        code, output = _run(recipe.test, cwd=folder, env=environment)
        seconds = time.monotonic() - started
        results = _read_junit(report)
        unfinished = _unfinished(watch)
    total, skipped, failures = results or (0, 0, [])
    if code is None:
        summary = f"the tests took longer than {_TEST_SECONDS:.0f} s and were stopped"
    elif failures:
        summary = f"{len(failures)} of {total} tests failed"
    elif code == 5:
        summary = "no test was found: a commit without tests is not released"
    elif code:
        summary = f"the test command ended with exit code {code}"
    elif unfinished:
        summary = unfinished
    elif results is None:
        summary = (
            "the test command left no report that can be read: it ended early, or is not pytest "
            "and does not write JUnit XML where --junitxml= in PYTEST_ADDOPTS says"
        )
    elif total - skipped < 1:
        summary = "no test passed" + (f": all {skipped} were skipped" if skipped else "")
    else:
        summary = f"{total - skipped} tests passed" + (f", {skipped} skipped" if skipped else "")
    return TestReport(
        passed=(
            code == 0
            and results is not None
            and not failures
            and not unfinished
            and total - skipped >= 1
        ),
        total=total,
        skipped=skipped,
        seconds=round(seconds, 2),
        failures=failures,
        summary=summary,
        output=output,
    )


def _unfinished(watch: Path) -> str:
    """Why pytest's session did not run all that it collected to its end, or nothing.

    A runner that is not pytest loads no plugin of ours, and leaves no file.
    """
    if not watch.exists():
        return ""
    try:
        counts = dict(
            line.split("=", 1) for line in watch.read_text(encoding="utf-8").split() if "=" in line
        )
        collected, finished = int(counts.get("collected", "-1")), int(counts.get("finished", "-1"))
    except (OSError, UnicodeDecodeError, ValueError):
        return "the test session's record cannot be read"
    if finished < 0:
        return "the test session ended before it was finished"
    if finished < collected:
        return f"{finished} of {collected} collected tests were run"
    return ""


def _run(argv: list[str], *, cwd: Path, env: dict[str, str]) -> tuple[int | None, str]:
    """Exit code (None: timed out) and the end of the output; what the tests started ends too."""
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(
                argv,
                cwd=cwd,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as problem:
            raise BuildError(
                f"{_ENTRY}: test = {argv!r} cannot be started: {problem.strerror}"
            ) from None
        code: int | None = None
        try:
            code = process.wait(timeout=_TEST_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        size = output.seek(0, os.SEEK_END)
        output.seek(max(0, size - _OUTPUT))
        return code, output.read().decode(errors="replace")


def _read_junit(path: Path) -> tuple[int, int, list[Failure]] | None:
    """Counts and failures of a JUnit XML report, the format that pytest and most runners write.

    None where there is no report that can be read.
    """
    if path.is_symlink() or not path.is_file() or path.stat().st_size > _REPORT_LIMIT:
        return None
    try:
        root = ET.parse(path).getroot()  # noqa: S314 - bounded, and expat refuses entity bombs
    except (ET.ParseError, RecursionError, ValueError):
        return None
    cases = list(root.iter("testcase"))
    skipped = sum(case.find("skipped") is not None for case in cases)
    failures = []
    for case in cases:
        problem = case.find("failure")
        if problem is None:
            problem = case.find("error")
        if problem is not None:
            name = f"{case.get('classname', '')}::{case.get('name', '')}".strip(":")
            reason = (problem.get("message") or problem.text or "").strip().splitlines()
            failures.append(Failure(name, reason[0][:300] if reason else ""))
    return len(cases), skipped, failures


def _alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True
