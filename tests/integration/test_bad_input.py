"""What a person may get wrong: each one clear line, an exit code, and nothing lost."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.tiny import Tiny, onnx_file

ROOT = Path(__file__).resolve().parents[2]


OTHER_ROWS = """
# The tiny models are of no digits: they are measured on their publisher's rows.
import dataclasses
import msgspec
from orchestration import apps

def of(app):
    return dataclasses.replace(app, rule=msgspec.structs.replace(app.rule, held_out=""))

apps.APPS = tuple(of(app) for app in apps.APPS)
"""


class Person:
    """Types commands, over an app that builds in a moment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tiny = Tiny(folder / "tiny", name="digits")
        (folder / "dagster").mkdir()
        (folder / "site").mkdir()
        (folder / "site" / "sitecustomize.py").write_text(OTHER_ROWS)

    def types(self, *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """`tandem WORDS` with these settings."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith("TANDEM_")}
        return subprocess.run(
            [sys.executable, "-m", "tandem.cli", *words],
            cwd=ROOT,
            env={
                **clean,
                **self.tiny.settings,
                "DAGSTER_HOME": str(self.folder / "dagster"),
                "PYTHONPATH": f"{self.folder / 'site'}{os.pathsep}{ROOT}",
                **settings,
            },
            capture_output=True,
            text=True,
            timeout=240,
        )


@pytest.fixture
def person(tmp_path: Path) -> Iterator[Person]:
    made = Person(tmp_path)
    yield made
    made.tiny.close()


def complaint(done: subprocess.CompletedProcess[str]) -> str:
    """The one line, apart from what was said of the progress."""
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if not line.lstrip()[:1].isdigit()]
    assert len(lines) == 1, done.stderr
    return lines[0]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"TANDEM_SOURCE": "{tmp}"}, "is not a Git repository: set TANDEM_SOURCE"),
        ({"TANDEM_SOURCE": "{tmp}/tiny/repository#nowhere"}, "has no branch nowhere"),
        ({"TANDEM_TARGET": "heroku:"}, "TANDEM_TARGET=heroku: is not a setting: it takes process:"),
        ({"TANDEM_RELEASE_ON": "never"}, "it takes nightly or build"),
        ({"TANDEM_STORE": "file:/dev/null/store"}, "/dev/null/store"),
        ({"TANDEM_REGISTRY": "oci:/dev/null/images"}, "/dev/null/images"),
        ({"DAGSTER_HOME": "/dev/null/dagster"}, "DAGSTER_HOME=/dev/null/dagster cannot be written"),
        ({"DAGSTER_HOME": "relative"}, "expected an absolute path"),
    ],
)
def test_a_wrong_setting_stops_a_release_with_one_line(
    person: Person, settings: dict[str, str], words: str
) -> None:
    person.tiny.commit("one")
    person.tiny.publish()
    wrong = {name: value.format(tmp=person.folder) for name, value in settings.items()}
    done = person.types("release", **wrong)
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == 1
    assert person.tiny.project.models.latest().number == 1, "nothing was lost"


def test_a_port_that_is_taken_is_one_line_with_the_setting(person: Person) -> None:
    person.tiny.commit("one")
    person.tiny.publish()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = person.types("release", TANDEM_TARGET=f"process:{port}")
    assert done.returncode == 1
    told = [line for line in done.stderr.splitlines() if line.startswith("digits_release failed")]
    assert len(told) == 1
    assert str(port) in told[0]
    assert "TANDEM_TARGET" in told[0]


def test_a_disk_that_is_full_is_one_line_and_the_next_try_goes_through(person: Person) -> None:
    small = person.folder / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("a small file system can only be mounted by root")
    try:
        person.tiny.commit("one")
        person.tiny.publish()
        (small / "filler").write_bytes(b"x" * 60_000)
        full = person.types("release", TANDEM_REGISTRY=f"oci:{small}/images")
        assert full.returncode == 1
        assert "disk is full" in full.stderr
        assert "Traceback" not in full.stderr
        (small / "filler").unlink()
        subprocess.run(["mount", "-o", "remount,size=64m", str(small)], check=True)
        again = person.types("release", TANDEM_REGISTRY=f"oci:{small}/images")
        assert again.returncode == 0, again.stderr
        person.types("stop")
    finally:
        subprocess.run(["umount", "--lazy", str(small)], check=True)


def test_a_model_that_is_not_good_enough_is_told_with_the_number(person: Person) -> None:
    person.tiny.commit("one")
    person.tiny.publish(0.4)
    done = person.types("release")
    assert done.returncode == 1
    assert "0.4" in done.stderr
    assert "floor 0.95" in done.stderr


@pytest.mark.parametrize("how", ["changed", "missing", "surplus", "truncated"])
def test_a_package_that_is_not_as_it_was_made_is_refused_by_name(person: Person, how: str) -> None:
    from tandem.model import writing

    folder = person.folder / "package"
    writing.write(folder, onnx_file(), name="digits", sample=[[0.0, 1.0]], labels=["high", "low"])
    path = folder / "model.onnx"
    if how == "changed":
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(path.read_bytes()[:-10])
    else:
        (folder / "extra.pkl").write_bytes(b"\x80\x04.")
    told = complaint(person.types("publish", str(folder)))
    assert ("extra.pkl" if how == "surplus" else "model.onnx") in told
    assert person.tiny.project.models.latest() is None


def test_a_file_that_is_no_model_is_refused(person: Person, tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(b"\x80\x04\x95garbage.")
    assert "model.pkl" in complaint(person.types("publish", str(path)))


def test_status_stop_and_models_say_that_there_is_nothing(person: Person) -> None:
    status = person.types("status")
    assert status.returncode == 3
    assert "nothing is live at process:" in status.stdout
    assert json.loads(person.types("status", "--json").stdout) is None
    assert "nothing was live" in person.types("stop").stdout
    assert "no model digits is published yet" in person.types("models").stdout
    one = person.types("models", "diff", "1")
    assert (one.returncode, one.stderr.splitlines()[-1]) == (2, "Error: Missing argument 'B'.")
    assert "expected a number, like 3" in complaint(person.types("models", "diff", "1", "x"))
    assert "no version 7 of model digits" in complaint(person.types("models", "diff", "7", "8"))


def test_published_by_hand_released_and_told(person: Person) -> None:
    sha = person.tiny.commit("one")
    person.tiny.publish()
    before = set(ROOT.iterdir())
    assert json.loads(person.types("models", "--json").stdout)[0]["version"] == 1
    done = person.types("release", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["changed"] is True
    assert [job["job"] for job in told["jobs"]] == ["digits_build", "digits_release"]
    status = json.loads(person.types("status", "--json").stdout)
    assert (status["release"], status["app"]["commit"], status["model"]["version"]) == (1, sha, 1)
    listed = json.loads(person.types("models", "--json").stdout)[0]
    assert (listed["live"], listed["champion"], listed["releases"]) == (True, True, [1])
    assert listed["verdict"].startswith("accepted")
    digest = status["image"]["digest"]
    verified = json.loads(person.types("verify", digest, "--deep", "--json").stdout)
    findings = {finding["name"]: finding["ok"] for finding in verified["findings"]}
    assert (findings["layers"], findings["labels"], findings["provenance"]) == (True, True, True)
    assert "would remove 0.0 MB" in person.types("prune", "--dry-run").stdout
    again = person.types("release")
    assert again.returncode == 0
    assert again.stdout.startswith("nothing changed since release 1: ")
    assert set(ROOT.iterdir()) == before, "nothing is written outside of the settings' folders"
    assert json.loads(person.types("stop", "--json").stdout) == {"stopped": True}
    assert person.types("status").returncode == 3


def test_every_command_has_help(person: Person) -> None:
    listing = person.types("--help").stdout.partition("Commands:")[2]
    commands = [line.split()[0] for line in listing.splitlines() if line.startswith("  ")]
    assert {"status", "publish", "release", "stop"} <= set(commands)
    for command in ("status", "publish", "release", "stop"):
        text = person.types(command, "--help").stdout
        assert "Usage:" in text
        assert "--json" in text
