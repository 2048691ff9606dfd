"""The example as a newcomer meets it: a clone, one command, a digit that is read."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.services import require
from support.tiny import free_port

ROOT = Path(__file__).resolve().parents[2]


class Clone:
    """A fresh clone in an empty folder, with the environment that `make` has set up already."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "clone"
        self.url = f"http://127.0.0.1:{free_port()}"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(self.folder)], check=True)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a module of the clone with the embedded defaults, on a port of its own."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("TANDEM_", "DAGSTER_"))}
        return subprocess.run(
            [sys.executable, "-m", *command],
            cwd=self.folder,
            env={**clean, "TANDEM_TARGET": f"process:{self.url.rpartition(':')[2]}"},
            capture_output=True,
            text=True,
            timeout=800,
        )

    def ask(self, path: str, body: object = None) -> dict:
        """The service's JSON answer."""
        request = urllib.request.Request(
            self.url + path,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)


@pytest.fixture
def clone(tmp_path: Path) -> Iterator[Clone]:
    made = Clone(tmp_path)
    yield made
    made.run("tandem.cli", "stop")


@pytest.mark.timeout(900)
def test_one_command_from_a_clone_to_a_service_that_reads_digits(clone: Clone) -> None:
    require("skopeo")
    done = clone.run("tandem.dagster", "release")
    assert done.returncode == 0, done.stdout + done.stderr
    told = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    head = subprocess.run(
        ["git", "-C", str(clone.folder), "rev-parse", "HEAD"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    assert told["release"] == "1"
    assert told["commit"].startswith(head[:10])
    assert told["url"] == clone.url
    assert "tests passed" in told["tests"]

    version = clone.ask("/version")
    assert version["app"] == {"name": "digits", "commit": head}
    assert version["image"]["digest"] == told["image"]
    assert (version["model"]["version"], version["model"]["runtime"]) == (1, "onnx")
    picture = base64.b64encode((ROOT / "docs" / "seven.png").read_bytes()).decode()
    answer = clone.ask("/score", {"images": [picture]})
    assert answer["predictions"][0]["labels"][0] == "7"
    assert answer["model"] == {"name": "digits", "version": 1}
    assert answer["milliseconds"] >= 0

    tag = f"{head[:12]}-m1"
    copied = clone.folder.parent / "copied"
    copy = ["skopeo", "copy", "--quiet", f"oci:.tandem/images:{tag}", f"oci:{copied}:copied"]
    subprocess.run(copy, cwd=clone.folder, check=True, capture_output=True)

    again = clone.run("tandem.dagster", "release")
    assert again.returncode == 0
    assert again.stdout.startswith("nothing changed since release 1: commit ")
    ignored = subprocess.run(
        ["git", "status", "--porcelain"], cwd=clone.folder, capture_output=True, text=True
    )
    assert ignored.stdout == "", "a release leaves the work tree as it was"
