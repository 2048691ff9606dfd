"""What a commit says of itself, and how its tests are run and read."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from textwrap import indent

import pytest
from support.oci_samples import locked, wheel

from tandem.build.app_build import Builds
from tandem.build.environment import locked_environment
from tandem.build.recipe import read_recipe
from tandem.build.tests import NO_TESTS, TestReport, run_tests
from tandem.errors import BuildError
from tandem.oci.app_image.lock_file import refuse_other_sources
from tandem.storage import open_store
from tandem.util.folders import clean_folder

RECIPE = """
[tool.tandem.app]
name = "shop"
paths = ["app"]
lock = "lock.txt"
test-lock = "test-lock.txt"
test = ["python", "-m", "unittest"]
command = ["python3", "-m", "app"]
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    (folder / "app").mkdir(parents=True)
    for name in ("lock.txt", "test-lock.txt"):
        (folder / name).touch()
    (folder / "pyproject.toml").write_text(RECIPE)
    return folder


def test_the_recipe_is_read_from_the_commit(checkout: Path) -> None:
    recipe = read_recipe(checkout, "shop")
    assert recipe.paths == ["app"]
    assert recipe.test_lock == "test-lock.txt"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"app"', '"../secrets"', "inside the repository"),
        ('"app"', '"/etc"', "inside the repository"),
        ('"app"', '"missing"', "no such path"),
        ('"lock.txt"', '""', "must not be empty"),
        ('["app"]', "[]", "must not be empty"),
        ('name = "shop"', 'name = "other"', "describes 'other'"),
        ('name = "shop"', 'nmae = "shop"', "nmae"),
        ("[tool.tandem.app]", "[tool.other]", "no requirements.txt"),
        ("[tool.tandem.app]", "[tool.tandem.app", "pyproject.toml"),
    ],
)
def test_a_wrong_recipe_is_one_line(checkout: Path, old: str, new: str, message: str) -> None:
    (checkout / "pyproject.toml").write_text(RECIPE.replace(old, new, 1))
    with pytest.raises(BuildError, match=message) as caught:
        read_recipe(checkout, "shop")
    assert "\n" not in str(caught.value)


def test_a_command_may_be_a_line_as_in_a_procfile(checkout: Path) -> None:
    text = RECIPE.replace('["python3", "-m", "app"]', '"gunicorn --bind $HOST:$PORT app:app"')
    (checkout / "pyproject.toml").write_text(text)
    started = "exec python3 -m gunicorn --bind $HOST:$PORT app:app"
    assert read_recipe(checkout, "shop").command == ["sh", "-c", started]


def test_a_link_out_of_the_commit_is_refused(checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (checkout / "app").rmdir()
    (checkout / "app").symlink_to(tmp_path / "outside")
    with pytest.raises(BuildError, match="leads outside"):
        read_recipe(checkout, "shop")


def run(folder: Path, script: str) -> TestReport:
    (folder / "script.py").write_text(script)
    return run_tests(
        folder,
        ["python", "script.py"],
        python=Path(sys.executable),
    )


JUNIT = """
import os, sys
target = os.environ["TANDEM_TEST_REPORT"]
open(target, "w").write('''<testsuites><testsuite>{cases}</testsuite></testsuites>''')
sys.exit({code})
"""


def test_failures_are_reported_by_name(checkout: Path) -> None:
    cases = (
        '<testcase classname="tests.a" name="test_one"/>'
        '<testcase classname="tests.a" name="test_two">'
        '<failure message="1 != 2&#10;more"/></testcase>'
        '<testcase classname="tests.b" name="test_three"><error message="no file"/></testcase>'
        '<testcase classname="tests.b" name="test_four"><skipped message="no network"/></testcase>'
    )
    report = run(checkout, JUNIT.format(cases=cases, code=1))
    assert not report.passed
    assert (report.total, report.skipped) == (4, 1)
    assert [(f.test, f.reason) for f in report.failures] == [
        ("tests.a::test_two", "1 != 2"),
        ("tests.b::test_three", "no file"),
    ]
    assert report.summary == "2 of 4 tests failed"


def test_passed_tests_are_counted(checkout: Path) -> None:
    report = run(checkout, JUNIT.format(cases='<testcase name="a"/><testcase name="b"/>', code=0))
    assert report.passed
    assert report.summary == "2 tests passed"


def test_a_failure_in_the_report_counts_whatever_the_exit_code(checkout: Path) -> None:
    cases = '<testcase name="a"><failure message="no"/></testcase>'
    assert not run(checkout, JUNIT.format(cases=cases, code=0)).passed


def test_no_test_at_all_is_not_a_pass(checkout: Path) -> None:
    report = run(checkout, "import sys; sys.exit(5)")
    assert not report.passed
    assert "no test was found" in report.summary


def test_a_crash_keeps_the_end_of_what_was_printed(checkout: Path) -> None:
    report = run(checkout, "print('about to crash'); raise SystemExit(3)")
    assert not report.passed
    assert "exit code 3" in report.summary
    assert "about to crash" in report.output


def test_an_unreadable_report_does_not_hide_the_exit_code(checkout: Path) -> None:
    report = run(checkout, JUNIT.format(cases="<not closed", code=1))
    assert not report.passed


def test_the_tests_see_no_secret_and_no_package_of_ours(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", "AccountKey=hunter2")
    monkeypatch.setenv("TANDEM_STORE", "az://x/y")
    report = run(checkout, "import os; print(sorted(os.environ)); print(os.environ['HOME'])")
    assert "hunter2" not in report.output
    assert "TANDEM_STORE" not in report.output
    assert os.environ["HOME"] + "\n" not in report.output


def test_a_test_command_that_does_not_exist_is_one_line(checkout: Path) -> None:
    with pytest.raises(BuildError, match="cannot be started"):
        run_tests(
            checkout,
            ["no-such-program"],
            python=Path(sys.executable),
        )


def test_a_folder_that_a_killed_run_left_is_removed(tmp_path: Path) -> None:
    left = tmp_path / "checkouts" / "999999999-left"
    left.mkdir(parents=True)
    (left / "file").touch()
    with clean_folder(tmp_path, "checkouts") as folder:
        assert folder.is_dir()
        assert not list(folder.iterdir())
        assert not left.exists()
    assert not folder.exists()


def test_an_environment_has_what_the_lock_names_as_its_own_libraries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheels = tmp_path / "wheels"
    lock = locked(tmp_path / "locks", wheel(wheels, "thing", "1.0", {"thing.py": "word = 'one'\n"}))
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    python = locked_environment(lock, tmp_path / "environments")
    # As a run leaves it that was killed in between.
    next((python.parent.parent / "lib").glob("python*/site-packages")).unlink()
    assert locked_environment(lock, tmp_path / "environments") == python
    told = (
        "import sysconfig, pathlib, sys, thing;"
        "print(thing.word, pathlib.Path(thing.__file__).resolve().is_relative_to("
        "pathlib.Path(sysconfig.get_path('purelib')).resolve()));"
        "import pytest"
    )
    done = subprocess.run([str(python), "-c", told], capture_output=True, text=True)
    assert done.stdout == "one True\n"
    assert "No module named 'pytest'" in done.stderr, "a library of ours leaks in"


def pytest_run(folder: Path, files: dict[str, str]) -> TestReport:
    for name, text in files.items():
        (folder / name).write_text(text)
    return run_tests(
        folder,
        ["python", "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        python=Path(sys.executable),
    )


RED = "def test_red() -> None:\n    assert False\n"
GREEN = "def test_green() -> None:\n    assert True\n"
FORGED = (
    "import os\n"
    "cases = '<testcase name=\"a\"/>' * 999\n"
    "with open(os.environ['TANDEM_TEST_REPORT'], 'w') as file:\n"
    "    file.write(f'<testsuites><testsuite tests=\"999\">{cases}</testsuite></testsuites>')\n"
    "os._exit(0)\n"
)


def test_pytest_that_came_to_its_end_is_green(checkout: Path) -> None:
    report = pytest_run(checkout, {"test_it.py": GREEN})
    assert report.passed, report
    assert report.summary == "1 tests passed"
    assert report.confinement


@pytest.mark.parametrize(
    "files",
    [
        {"test_it.py": RED},
        {"test_it.py": RED, "conftest.py": "import os; os._exit(0)\n"},
        {"test_it.py": RED, "conftest.py": FORGED},
        {"test_it.py": f"{GREEN}\ndef test_more() -> None:\n" + indent(FORGED, "    ")},
        {"test_it.py": f"import pytest\ndef test_x() -> None:\n    pytest.exit('x', 0)\n{RED}"},
        {"test_it.py": f"import pytest\npytestmark = pytest.mark.skip\n{GREEN}"},
        {"empty.py": ""},
    ],
    ids=["red", "exit", "forged", "forged late", "pytest.exit", "skipped", "none"],
)
def test_tests_that_did_not_run_never_count_as_passed(
    checkout: Path, files: dict[str, str]
) -> None:
    report = pytest_run(checkout, files)
    assert not report.passed, report


@pytest.mark.parametrize("command", [["true"], ["python", "-c", "pass"]])
def test_a_command_that_reports_nothing_is_red(checkout: Path, command: list[str]) -> None:
    report = run_tests(checkout, command, python=Path(sys.executable))
    assert not report.passed
    assert "JUnit" in report.summary


def test_a_cut_report_is_red(checkout: Path) -> None:
    assert not run(checkout, JUNIT.format(cases="<not closed", code=0)).passed


def test_a_recipe_may_say_that_there_are_no_tests(checkout: Path) -> None:
    text = RECIPE.replace('test = ["python", "-m", "unittest"]', "test = []\ntests = false")
    (checkout / "pyproject.toml").write_text(text)
    found = read_recipe(checkout, "shop")
    assert not found.tests
    assert NO_TESTS.passed
    assert NO_TESTS.summary == "this commit has no tests: its recipe says tests = false"


def test_a_pyproject_that_cannot_be_read_is_one_line(checkout: Path) -> None:
    path = checkout / "pyproject.toml"
    path.write_text("x = " + "[" * 100_000)
    with pytest.raises(BuildError, match="nested"):
        read_recipe(checkout, "shop")
    path.unlink()
    path.mkdir()
    with pytest.raises(BuildError, match="pyproject"):
        read_recipe(checkout, "shop")


@pytest.mark.parametrize("record", [b"", b'{"commit": "abc', b"{}", b"\xff"])
def test_a_record_that_cannot_be_read_is_made_again(tmp_path: Path, record: bytes) -> None:
    store = open_store(f"file:{tmp_path}")
    store.put("apps/shop/builds/abc.json", record)
    assert Builds(store, "shop").of("abc") is None


def test_the_folder_of_a_run_that_lives_stays(tmp_path: Path) -> None:
    with clean_folder(tmp_path, "checkouts") as first, clean_folder(tmp_path, "checkouts"):
        assert first.is_dir()


@pytest.mark.parametrize(
    "line", ["thing @ https://evil.example/x.whl", "--index-url https://evil.example/", "./thing"]
)
def test_a_lock_that_names_a_place_of_its_own_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text(f"{line}\n")
    with pytest.raises(BuildError, match="TANDEM_ALLOWED_HOSTS"):
        refuse_other_sources(lock)
    monkeypatch.setenv("TANDEM_ALLOWED_HOSTS", "other.example, evil.example")
    if "evil" in line:
        refuse_other_sources(lock)
