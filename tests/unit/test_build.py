"""What a commit says of itself, and how its tests are run and read."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from oci_samples import locked, wheel

from tandem.build import (
    Builds,
    Recipe,
    TestReport,
    clean_folder,
    locked_environment,
    read_recipe,
    run_tests,
)
from tandem.errors import BuildError
from tandem.storage import open_store

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
        ('"lock.txt"', '""', "inside the repository"),
        ('["app"]', "[]", "must not be empty"),
        ('name = "shop"', 'name = "other"', "describes 'other'"),
        ('name = "shop"', 'nmae = "shop"', "nmae"),
        ("[tool.tandem.app]", "[tool.other]", "has no"),
        ("[tool.tandem.app]", "[tool.tandem.app", "pyproject.toml"),
    ],
)
def test_a_wrong_recipe_is_one_line(checkout: Path, old: str, new: str, message: str) -> None:
    (checkout / "pyproject.toml").write_text(RECIPE.replace(old, new, 1))
    with pytest.raises(BuildError, match=message) as caught:
        read_recipe(checkout, "shop")
    assert "\n" not in str(caught.value)


def test_a_link_out_of_the_commit_is_refused(checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (checkout / "app").rmdir()
    (checkout / "app").symlink_to(tmp_path / "outside")
    with pytest.raises(BuildError, match="leads outside"):
        read_recipe(checkout, "shop")


def recipe(*test: str) -> Recipe:
    return Recipe(
        name="shop",
        paths=["app"],
        lock="lock.txt",
        test_lock="lock.txt",
        test=list(test),
        command=["x"],
    )


def run(folder: Path, script: str) -> object:
    (folder / "script.py").write_text(script)
    return run_tests(
        folder,
        recipe("python", "script.py"),
        python=Path(sys.executable),
    )


JUNIT = """
import os, sys
target = os.environ["PYTEST_ADDOPTS"].partition("=")[2]
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


def test_what_the_tests_started_ends_with_them(checkout: Path) -> None:
    script = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'],"
        " stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)\n"
        "print(child.pid)\n"
    )
    report = run(checkout, script)
    pid = int(report.output.split()[0])
    # The signal is sent by then; the kernel may take a moment to carry it out.
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(pid).wait(timeout=20)


def test_a_test_command_that_does_not_exist_is_one_line(checkout: Path) -> None:
    with pytest.raises(BuildError, match="cannot be started"):
        run_tests(
            checkout,
            recipe("no-such-program"),
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


PASSES = "def test_one():\n    pass\n"
FAILS = "def test_two():\n    assert False\n"
FORGED = """
import os
path = os.environ["PYTEST_ADDOPTS"].rpartition("=")[2]
open(path, "w").write("<testsuite>" + "<testcase classname='a' name='b'/>" * 999 + "</testsuite>")
os._exit(0)
"""
EXITS = "import os\ndef test_end():\n    os._exit(0)\n"
UNFINISHED = "session ended before it was finished"


def pytest_report(folder: Path, files: dict[str, str]) -> TestReport:
    """What is made of a commit with these test files, run by pytest as its recipe says."""
    for name, content in files.items():
        (folder / name).write_text(content)
    command = recipe("python", "-m", "pytest", "-q", "-p", "no:cacheprovider")
    return run_tests(folder, command, python=Path(sys.executable))


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"test_a.py": FAILS, "conftest.py": "import os; os._exit(0)"}, ""),
        ({"test_a.py": FAILS, "conftest.py": FORGED}, UNFINISHED),
        (
            {"test_a.py": PASSES + "import os\ndef test_end():\n    os._exit(0)\n" + FAILS},
            UNFINISHED,
        ),
        (
            {
                "test_a.py": PASSES
                + "import pytest\ndef test_end():\n    pytest.exit('enough', returncode=0)\n"
            },
            "of 2 collected tests were run",
        ),
        (
            {"test_a.py": "import pytest\n@pytest.mark.skip\ndef test_one():\n    pass\n"},
            "no test passed: all 1 were skipped",
        ),
        ({"test_a.py": ""}, "no test was found"),
    ],
    ids=["exit", "forged", "exit in a test", "pytest.exit", "all skipped", "none"],
)
def test_tests_that_did_not_run_never_count_as_passed(
    checkout: Path, files: dict[str, str], words: str
) -> None:
    report = pytest_report(checkout, files)
    assert not report.passed
    assert words in report.summary


def test_what_pytest_ran_to_its_end_is_green(checkout: Path) -> None:
    report = pytest_report(checkout, {"test_a.py": PASSES})
    assert report.passed, report.output
    assert report.summary == "1 tests passed"


def test_a_command_that_leaves_no_report_is_red(checkout: Path) -> None:
    report = run_tests(checkout, recipe("true"), python=Path(sys.executable))
    assert not report.passed
    assert "left no report" in report.summary


@pytest.mark.parametrize("content", ["<testsuite><testcase", "<a>" * 100_000, "no XML"])
def test_a_report_that_cannot_be_read_is_red(checkout: Path, content: str) -> None:
    write = "import os; open(os.environ['PYTEST_ADDOPTS'].partition('=')[2], 'w')"
    report = run(checkout, f"{write}.write({content!r})")
    assert not report.passed
    assert "left no report" in report.summary


def test_a_repository_may_say_that_it_has_no_tests(checkout: Path) -> None:
    (checkout / "pyproject.toml").write_text(RECIPE.replace("test = [", "tests = false\ntest = ["))
    said = read_recipe(checkout, "shop")
    report = run_tests(checkout, said, python=Path(sys.executable))
    assert report.passed
    assert report.summary == "this repository has no tests, as its recipe says"


@pytest.mark.parametrize("what", ["deep", "folder", "not a table"])
def test_a_pyproject_that_cannot_be_read_is_one_line(checkout: Path, what: str) -> None:
    path = checkout / "pyproject.toml"
    path.unlink()
    if what == "deep":
        path.write_text("a = " + "[" * 100_000)
    elif what == "folder":
        path.mkdir()
    else:
        path.write_text("[tool]\ntandem = 1\n")
    with pytest.raises(BuildError, match=r"pyproject\.toml") as caught:
        read_recipe(checkout, "shop")
    assert "\n" not in str(caught.value)


def test_a_build_record_that_was_cut_is_no_build(tmp_path: Path) -> None:
    store = open_store(f"file:{tmp_path}")
    store.put("apps/shop/builds/abc.json", b'{"commit": "abc", "tr')
    assert Builds(store, "shop").of("abc") is None
