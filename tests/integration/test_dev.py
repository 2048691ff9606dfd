"""`make dev`: commits and models reach the live service with nobody touching anything."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import psutil
import pytest
from support.tiny import Tiny, free_port

from tandem.dagster import recovery

ROOT = Path(__file__).resolve().parents[2]
PROJECT = '[tool.tandem]\napps = "support.dev_location:APPS"\n'
WORKSPACE = (
    "load_from: [{python_module: {module_name: support.dev_location, location_name: tandem}}]"
)


class Dev:
    """Dagster's UI and daemon, as `make dev` starts them, over an app that builds in a moment."""

    def __init__(self, folder: Path) -> None:
        self.live = free_port()
        self.tiny = Tiny(folder / "tiny", TANDEM_TARGET=f"process:{self.live}")
        self.ui = free_port()
        self.log = folder / "dev.log"
        self.mark = f"{folder}"
        home = self.home = folder / "dagster"
        home.mkdir()
        environment = {k: v for k, v in os.environ.items() if not k.startswith("TANDEM_")}
        environment |= self.tiny.settings
        self.environment = environment | {
            "DAGSTER_HOME": str(home),
            "TANDEM_RELEASE_ON": "build",
            "TANDEM_TEST": self.mark,
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        self.folder = folder
        (folder / "workspace.yaml").write_text(WORKSPACE)
        (folder / "pyproject.toml").write_text(PROJECT)
        self.start()

    def start(self) -> None:
        """Start it, anew where it was killed."""
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tandem.dagster", "dev", "--port", str(self.ui)],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def family(self) -> list[psutil.Process]:
        """Every process that was started by it and is not the live service."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("TANDEM_TEST") == self.mark:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def stop(self) -> None:
        """As Ctrl-C does."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGINT)
        self.process.wait(timeout=60)


@pytest.fixture
def dev(tmp_path: Path) -> Iterator[Dev]:
    made = Dev(tmp_path)
    try:
        yield made
    finally:
        try:
            made.stop()
        finally:
            for process in made.family():
                process.kill()
            made.tiny.close()


def wait(until: Callable[[], bool], what: str, dev: Dev, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert dev.process.poll() is None, dev.log.read_text()[-3000:]
        assert time.monotonic() < end, f"{what}: {dev.log.read_text()[-3000:]}"
        time.sleep(0.2)


def says(dev: Dev, commit: str, version: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{dev.live}/version", timeout=5) as answer:
            said = json.load(answer)
    except (OSError, urllib.error.URLError):
        return False
    return (said["app"]["commit"], said["model"]["version"]) == (commit, version)


def test_commits_and_models_reach_the_live_service_by_themselves(dev: Dev) -> None:
    one = dev.tiny.commit("one")
    dev.tiny.publish(0.98)
    wait(lambda: says(dev, one, 1), "the first pair goes live", dev)
    two = dev.tiny.commit("two")
    wait(lambda: says(dev, two, 1), "a commit goes live", dev)
    dev.tiny.publish(0.99)
    wait(lambda: says(dev, two, 2), "a model goes live", dev)
    wait(
        lambda: [r.number for r in dev.tiny.project.ledger.releases.newest_first()] == [3, 2, 1],
        "three releases are recorded",
        dev,
    )
    records = dev.tiny.project.ledger.releases
    assert records.read(2).trigger.startswith("sensor tiny_new_commit: commit ")
    assert records.read(3).trigger == "sensor tiny_new_model: model v2"
    assert len(list(dev.tiny.project.ledger.images.newest_first())) == 3, "none is built twice"

    dev.stop()
    deadline = time.monotonic() + 20
    while (left := dev.family()) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert [process.cmdline() for process in left] == []
    assert says(dev, two, 2), "the service goes on"


def runs_on(dev: Dev) -> list[dg.DagsterRun]:
    with dg.DagsterInstance.from_config(str(dev.home)) as instance:
        return instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))


def kill(dev: Dev, victim: str) -> None:
    """Kill -9 of one of the processes of `make dev`, or of all."""
    if victim == "run worker":
        worker = runs_on(dev)[0].tags[recovery.PROCESS].split("/")[2]
        psutil.Process(int(worker)).kill()
        return
    words = {"code server": ["api", "grpc"], "daemon": ["dagster._daemon"], "all of Dagster": []}
    for process in dev.family():
        with contextlib.suppress(psutil.NoSuchProcess):
            if all(word in process.cmdline() for word in words[victim]):
                process.kill()


@pytest.mark.parametrize("victim", ["run worker", "code server", "daemon", "all of Dagster"])
def test_what_is_killed_in_the_middle_of_a_release_goes_on_by_itself(dev: Dev, victim: str) -> None:
    one = dev.tiny.commit("one")
    dev.tiny.publish(0.98)
    wait(lambda: says(dev, one, 1), "the first pair goes live", dev)
    wait(lambda: not runs_on(dev), "its run ends", dev)
    two = dev.tiny.commit("two")
    wait(lambda: bool(runs_on(dev)), "a run starts", dev)
    wait(lambda: recovery.PROCESS in (runs_on(dev) or [ended()])[0].tags, "it says who", dev)
    kill(dev, victim)
    if victim in ("daemon", "all of Dagster"):
        # Dagster ends with its daemon; whoever runs it starts it again.
        dev.process.wait(timeout=60)
        dev.start()
    wait(lambda: says(dev, two, 1), "the commit goes live all the same", dev)
    releases = dev.tiny.project.ledger.releases
    wait(
        lambda: [record.number for record in releases.newest_first()] == [2, 1],
        "it is recorded, once",
        dev,
    )
    wait(lambda: not runs_on(dev), "no run stays behind", dev)
    three = dev.tiny.commit("three")
    wait(lambda: says(dev, three, 1), "and so does the next", dev)


def ended() -> dg.DagsterRun:
    """In place of a run that has ended before it was looked at."""
    return dg.DagsterRun(job_name="none", tags={})


def test_a_port_that_is_taken_is_one_line(tmp_path: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "tandem.dagster", "dev", "--port", str(port)],
            cwd=ROOT,
            env={**os.environ, "DAGSTER_HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"tandem: port {port} of 127.0.0.1 cannot be used (Address already in use): "
        "make dev PORT=3001"
    ]
