"""A release that is killed at any moment and run again ends as if it had not been."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.killed_release import STEPS
from support.tiny import Tiny, free_port

from tandem.oci.pull import pull

SCRIPT = Path(__file__).resolve().parent.parent / "support/killed_release.py"


class Release:
    """A tiny app with a commit and a model, and a port that stays."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.tiny = Tiny(folder, TANDEM_TARGET=f"process:{self.port}")
        self.sha = self.tiny.commit("hello")
        self.tiny.publish()

    def run(self, moment: str) -> subprocess.CompletedProcess[str]:
        """Run it in a process that dies at that moment."""
        return subprocess.run(
            [sys.executable, str(SCRIPT), str(self.tiny.folder), moment, str(self.port)],
            env={**os.environ, "PYTHONPATH": f"{SCRIPT.parent.parent}{os.pathsep}{SCRIPT.parent}"},
            capture_output=True,
            text=True,
            timeout=120,
        )

    def check_nothing_half_made(self) -> None:
        """All that can be seen is whole."""
        project = self.tiny.project
        assert project.models.fetch(1, self.tiny.folder / "seen").manifest.name == "tiny"
        for tag in project.registry.tags():
            if tag.startswith(("sha256-", "model-")):
                continue  # statements about an image; a model for tools that know models alone
            image = pull(project.registry, tag)
            for layer in image.layers:
                assert b"".join(project.registry.get_blob(layer.descriptor.digest))
        for record in project.ledger.images.newest_first():
            assert pull(project.registry, record.digest).digest == record.digest
        for record in project.ledger.releases.newest_first():
            assert record.image == project.ledger.images.latest().digest
        if project.target.current():
            self.check_live()

    def check_live(self) -> None:
        """The service answers, from the commit and the model."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/version", timeout=10) as answer:
            said = json.load(answer)
        assert said["app"]["commit"] == self.sha
        assert said["model"]["version"] == 1
        assert said["image"]["digest"] == self.tiny.project.ledger.images.latest().digest

    def check_end(self) -> None:
        """The state that every release of this pair ends in."""
        ledger = self.tiny.project.ledger
        assert [record.number for record in ledger.releases.newest_first()] == [1]
        assert [record.number for record in ledger.images.newest_first()] == [1]
        self.check_live()


@pytest.fixture
def release(tmp_path: Path) -> Iterator[Release]:
    made = Release(tmp_path / "tiny")
    yield made
    made.tiny.close()


@pytest.mark.parametrize("step", range(len(STEPS) + 1))
def test_killed_between_two_steps(release: Release, step: int) -> None:
    assert release.run(f"step:{step}").returncode == -9
    release.check_nothing_half_made()
    again = release.run("never")
    assert again.returncode == 0, again.stderr
    release.check_end()


@pytest.fixture(scope="session")
def effects(tmp_path_factory: pytest.TempPathFactory) -> int:
    """How many effects a release has that nobody kills."""
    whole = Release(tmp_path_factory.mktemp("whole") / "tiny")
    try:
        done = whole.run("never")
    finally:
        whole.tiny.close()
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 16
    return int(done.stdout)


@pytest.mark.parametrize("part", range(8))
def test_killed_just_before_an_effect(release: Release, effects: int, part: int) -> None:
    # Spread over the whole way; two kills in a row, so that the second run dies too.
    for moment in (1 + effects * (2 * part + 1) // 16, 1 + part):
        killed = release.run(f"effect:{moment}")
        assert killed.returncode in (-9, 0), killed.stderr
        release.check_nothing_half_made()
    again = release.run("never")
    assert again.returncode == 0, again.stderr
    release.check_end()
