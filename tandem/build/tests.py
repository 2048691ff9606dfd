"""A commit's own tests: run in the sandbox, green only when all of them are known to have run."""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import msgspec

from tandem import sandbox
from tandem.errors import BuildError, SandboxError
from tandem.util.folders import scratch

log = logging.getLogger("tandem.build")

_REPORT_LIMIT = 50_000_000
_TEST_SECONDS = 1800.0
_OUTPUT = 8000

_PLUGIN = """
import json, os
import pytest
_seen = {{"nonce": {nonce!r}, "collected": 0, "done": 0}}
def _main(config):
    return not hasattr(config, "workerinput")
def _tell(name):
    with open(os.path.join({folder!r}, name), "w") as file:
        json.dump(_seen, file)
# When it is loaded: a conftest.py runs before any hook does.
_tell("started")
def pytest_configure(config):
    # A pytest that a test starts is not this one.
    if _main(config):
        os.environ.pop("PYTEST_ADDOPTS", None)
@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session):
    _seen["collected"] = max(_seen["collected"], len(session.items))
@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node, ids):
    _seen["collected"] = max(_seen["collected"], len(ids))
def pytest_runtest_logreport(report):
    _seen["done"] += report.when == "teardown"
@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config):
    if _main(config):
        _tell("finished")
"""


class Failure(msgspec.Struct, frozen=True):
    """One test that failed, with the first line of the reason."""

    test: str
    reason: str


class TestReport(msgspec.Struct, frozen=True, kw_only=True):
    """What the commit's own tests said.

    `seconds` is the whole run's, `output` the end of what it printed.
    """

    __test__ = False  # not a test class, whatever pytest thinks of the name

    passed: bool
    total: int
    skipped: int
    seconds: float
    failures: list[Failure]
    summary: str
    output: str
    confinement: str = ""
    """What held the tests while they ran."""


NO_TESTS = TestReport(
    passed=True,
    total=0,
    skipped=0,
    seconds=0.0,
    failures=[],
    summary="this commit has no tests: its recipe says tests = false",
    output="",
)


def run_tests(folder: Path, test: list[str], *, python: Path) -> TestReport:
    """Run the test command in `folder` with `python`, the interpreter of a locked environment.

    Green takes exit code 0, a whole JUnit report of this run, at least one test that passed, and of
    pytest its own word that it came to its end with as many results as it had collected. Whoever
    writes the tests can still make that up, and answers for it: this finds what did not run.
    Raises `BuildError` when they cannot be run at all.
    """
    path = f"{python.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    local = "/" in test[0] and (folder / test[0]).exists()
    if not local and shutil.which(test[0], path=path) is None:
        raise BuildError(
            f"[tool.tandem.app] of pyproject.toml: test = {test!r} cannot be started: "
            "there is no such program"
        )
    with scratch("tests") as home:
        said, plugin = home / "said", home / "plugin"
        said.mkdir()
        plugin.mkdir()
        report, nonce = said / "report.xml", secrets.token_hex(16)
        (plugin / "tandem_finished.py").write_text(
            _PLUGIN.format(nonce=nonce, folder=str(said)), encoding="utf-8"
        )
        environment = {
            "PATH": path,
            "LANG": os.environ.get("LANG", "C.UTF-8"),
            "VIRTUAL_ENV": str(python.parent.parent),
            "PYTHONNOUSERSITE": "1",
            "PYTHONPATH": str(plugin),
            "PYTEST_ADDOPTS": f"-p tandem_finished --junitxml={report}",
            "TANDEM_TEST_REPORT": str(report),
        }
        log.info("testing: %s", " ".join(test))
        try:
            done = sandbox.run(
                test,
                folder=folder,
                readable=[plugin, *_environment(python)],
                writable=[said],
                env=environment,
                limits=sandbox.Limits(seconds=_TEST_SECONDS, output=_OUTPUT),
                merge_output=True,
            )
        except SandboxError as problem:
            raise BuildError(f"the tests could not be run: {problem}") from problem
        cases = _read_junit(report)
        missing = _unfinished(said, nonce, len(cases or []))
    failures = [failure for case in cases or [] if (failure := _failure(case))]
    skipped = sum(case.find("skipped") is not None for case in cases or [])
    total = len(cases or [])
    good = total - skipped - len(failures)
    wrong = ""
    if done.stopped:
        wrong = f"the tests were stopped: the run {done.stopped}"
    elif failures:
        wrong = f"{len(failures)} of {total} tests failed"
    elif done.code == 5:
        wrong = "no test was found: a commit without tests says `tests = false` in its recipe"
    elif done.code:
        wrong = f"the test command ended with exit code {done.code}"
    elif cases is None:
        wrong = "the tests left no whole JUnit report ($TANDEM_TEST_REPORT), so none has passed"
    elif missing:
        wrong = missing
    elif good < 1:
        wrong = f"no test passed: {skipped} of {total} were skipped"
    words = f"{good} tests passed" + (f", {skipped} skipped" if skipped else "")
    return TestReport(
        passed=not wrong,
        total=total,
        skipped=skipped,
        seconds=round(done.seconds, 2),
        failures=failures,
        summary=wrong or words,
        output=sandbox.redact(done.stdout.decode(errors="replace")),
        confinement=done.confinement,
    )


def _environment(python: Path) -> list[Path]:
    """The folders of a virtual environment, and those that it only links to."""
    home = python.parent.parent
    return [home, *(one.resolve() for one in (home / "lib").glob("python*/site-packages"))]


def _unfinished(said: Path, nonce: str, cases: int) -> str:
    """Why a pytest that began has not run all that it collected; empty for other runners."""
    if not (said / "started").exists():
        return ""
    try:
        with (said / "finished").open("rb") as file:
            told = json.loads(file.read(4096))
        right = told["nonce"] == nonce
        collected, done = int(told["collected"]), int(told["done"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        right, collected, done = False, 0, 0
    if not right:
        return "pytest ended before it was finished, with exit code 0"
    if done < collected or cases < collected:
        return f"{min(done, cases)} of {collected} collected tests have a result"
    return ""


def _read_junit(path: Path) -> list[ET.Element] | None:
    """The cases of a JUnit XML report, the format of most runners; None without a whole one."""
    if path.is_symlink() or not path.is_file() or path.stat().st_size > _REPORT_LIMIT:
        return None
    try:
        root = ET.parse(path).getroot()  # noqa: S314 - bounded, and expat refuses entity bombs
    except (ET.ParseError, OSError, ValueError, RecursionError):
        return None
    return list(root.iter("testcase"))


def _failure(case: ET.Element) -> Failure | None:
    problem = case.find("failure")
    if problem is None:
        problem = case.find("error")
    if problem is None:
        return None
    name = f"{case.get('classname', '')}::{case.get('name', '')}".strip(":")
    reason = (problem.get("message") or problem.text or "").strip().splitlines()
    return Failure(sandbox.redact(name), sandbox.redact(reason[0][:300]) if reason else "")
