"""A release killed while Dagster runs it is ended and continued by the next."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import psutil
import pytest
from support.tiny import Tiny, free_port

from tandem.dagster import recovery
from tandem.util import processes

SCRIPT = Path(__file__).resolve().parent.parent / "support/killed_dagster.py"


class Release:
    """A tiny app that is released by processes which die."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder.with_name("release.log")
        self.temporary = folder.with_name("temporary")
        self.temporary.mkdir()
        self.port = free_port()
        self.tiny = Tiny(folder, TANDEM_TARGET=f"process:{self.port}")
        self.sha = self.tiny.commit("hello")
        self.tiny.publish()

    def start(self) -> subprocess.Popen[bytes]:
        # Not through a pipe, which whoever outlives it would hold open.
        with self.log.open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-u", str(SCRIPT), str(self.folder), str(self.port)],
                env={
                    **os.environ,
                    "TMPDIR": str(self.temporary),
                    "PYTHONPATH": f"{SCRIPT.parent.parent}{os.pathsep}{SCRIPT.parent}",
                },
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def killed_at(self, words: str, number: int = signal.SIGKILL, after: float = 0.0) -> str:
        """Start it, send the signal once it prints the words, and return its output."""
        process = self.start()
        while process.poll() is None and words not in self.log.read_text():
            time.sleep(0.01)
        time.sleep(after)
        process.send_signal(number)
        process.wait(timeout=60)
        return self.log.read_text()

    def instance(self) -> dg.DagsterInstance:
        return dg.DagsterInstance.from_config(str(self.folder / "dagster"))

    def finish(self) -> str:
        """Run it to its end."""
        done = self.start()
        done.wait(timeout=120)
        said = self.log.read_text()
        assert done.returncode == 0, said
        return said

    def check_end(self) -> None:
        """The state that every release of this pair ends in, and nothing else is left."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/version", timeout=10) as answer:
            assert json.load(answer)["app"]["commit"] == self.sha
        ledger = self.tiny.project.ledger
        assert [record.number for record in ledger.releases.newest_first()] == [1]
        with self.instance() as instance:
            on = [*recovery._ON, dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.QUEUED]
            assert instance.get_runs(dg.RunsFilter(statuses=on)) == []
            assert not instance.event_log_storage.get_concurrency_keys()
        assert len(self.services()) == 1, "one instance serves, and none was left half-started"
        left = [path for path in self.temporary.rglob("*") if path.is_file()]
        assert left == [], "no temporary file stays"
        unfinished = [*self.folder.rglob(".partial-*"), *self.folder.rglob(".making-*")]
        assert len(unfinished) <= 2, "what was half-made goes with the daily tidying"
        assert self.listening() == {self.port}, "no other port is held"
        assert self.followers() == [], "nobody follows the output of a run that has ended"

    def followers(self) -> list[list[str]]:
        """The programs by which Dagster shows a run's output, and that still run."""
        commands = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
        return [
            command
            for command in commands
            if command[:1] == ["tail"] and command[-1].startswith(str(self.folder))
        ]

    def listening(self) -> set[int]:
        """The ports that the app's processes listen on, but its service's private one."""
        private = {process.pid for process in self.services()}
        found = set()
        for process in psutil.process_iter(["cmdline"]):
            words = " ".join(process.info["cmdline"] or [])
            if str(self.folder) in words and process.pid not in private:
                with contextlib.suppress(psutil.Error):
                    listens = process.net_connections("tcp")
                    found |= {one.laddr.port for one in listens if one.status == "LISTEN"}
        return found

    def services(self) -> list[psutil.Process]:
        """The processes of the app's service that run."""
        found = []
        for process in psutil.process_iter():
            try:
                environment = process.environ()
            except (psutil.Error, OSError):
                continue
            model = environment.get("TANDEM_MODEL", "")
            if model.startswith(str(self.folder)) and "app" in process.cmdline():
                found.append(process)
        return found


@pytest.fixture
def release(tmp_path: Path) -> Iterator[Release]:
    made = Release(tmp_path / "tiny")
    yield made
    made.tiny.close()


MOMENTS = [
    "tiny_build: ",
    "testing: ",
    "tests of ",
    "packed commit",
    "golden predictions",
    "tiny_release: ",
    "starting release",
    "ready after",
    "switched ",
]


@pytest.mark.parametrize("words", MOMENTS)
def test_a_release_killed_through_dagster_is_ended_and_made_whole_by_the_next(
    release: Release, words: str
) -> None:
    release.killed_at(words)
    release.finish()
    release.check_end()


@pytest.mark.parametrize("seed", range(4))
def test_killed_again_and_again_at_random_moments(release: Release, seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(4):
        words = chance.choice(MOMENTS)
        release.killed_at(words, after=chance.random() * 0.4)
    release.finish()
    release.check_end()


def test_the_next_release_says_whom_it_ended(release: Release) -> None:
    release.killed_at("starting release")
    with release.instance() as instance:
        assert len(instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))) == 1
    said = release.finish()
    assert "ended run " in said and "(tiny_release): its process is gone" in said


def test_sigterm_ends_a_release_cleanly_and_the_next_goes_on(release: Release) -> None:
    release.killed_at("starting release", signal.SIGTERM)
    with release.instance() as instance:
        assert instance.get_runs(dg.RunsFilter(statuses=recovery._ON)) == []
    release.finish()
    release.check_end()


def test_who_waits_for_a_living_run_says_for_whom_and_ends_at_sigterm(release: Release) -> None:
    release.finish()
    with release.instance() as instance:
        other = subprocess.Popen(["sleep", "100"])
        try:
            run = release_run(instance, processes.identity(other.pid))
            started = time.monotonic()
            said = release.killed_at("waiting for run", signal.SIGTERM)
            assert f"waiting for run {run.run_id[:8]} (tiny_release, process {other.pid}, " in said
            assert time.monotonic() - started < 60
        finally:
            other.kill()
            other.wait()
    assert "ended run" in release.finish(), "the other one's process is gone now"


def release_run(instance: dg.DagsterInstance, process: str) -> dg.DagsterRun:
    """A run of the app that some other process executes."""

    @dg.job(name="tiny_release")
    def job() -> None: ...

    return instance.create_run_for_job(
        job,
        status=dg.DagsterRunStatus.STARTED,
        tags={"tandem/app": "tiny", recovery.PROCESS: process},
    )


def test_a_run_of_another_machine_is_left_alone() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        boot, namespace, pid, ticks = processes.identity().split("/")[:4]
        for mark in (f"other/{namespace}/{pid}/1", f"{boot}/1/{pid}/1", "garbage"):
            release_run(instance, mark)
        assert recovery.end_dead_runs(instance) == []
        release_run(instance, f"{boot}/{namespace}/{pid}/{int(ticks) - 1}")
        assert len(recovery.end_dead_runs(instance)) == 1, "the pid is of another process now"


def test_a_run_from_before_the_machine_was_restarted_is_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        namespace, pid, ticks = processes.identity().split("/")[1:4]
        for here, there, dead in (("m", "m", True), ("m", "other", False), ("", "", False)):
            monkeypatch.setattr(processes, "_machine", lambda here=here: here)
            mark = f"an-earlier-start/{namespace}/{pid}/{ticks}" + (f"/{there}" if there else "")
            release_run(instance, mark)
            assert bool(recovery.end_dead_runs(instance)) is dead, (here, there)


def test_another_machines_run_and_one_that_hangs_are_waited_for_no_longer_than_a_run_may_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hangs = subprocess.Popen(["sleep", "600"])
    try:
        with dg.DagsterInstance.ephemeral() as instance:
            foreign = release_run(instance, "other/1/2/3")
            hanging = release_run(instance, processes.identity(hangs.pid))
            mine = release_run(instance, processes.identity())
            assert recovery.end_dead_runs(instance) == []
            monkeypatch.setattr(recovery, "LONGEST", -3600)
            assert sorted(recovery.end_dead_runs(instance)) == sorted(
                f"run {run.run_id[:8]} (tiny_release): its time is over"
                for run in (foreign, hanging)
            )
            left = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
            assert [run.run_id for run in left] == [mine.run_id], "ours ends itself"
        assert hangs.wait(timeout=30) == -signal.SIGKILL
    finally:
        hangs.kill()
        hangs.wait()


def test_of_two_releases_at_the_same_moment_one_waits_for_the_other(release: Release) -> None:
    first = release.start()
    release.log = release.log.with_name("second.log")
    second = release.start()
    try:
        assert (first.wait(timeout=120), second.wait(timeout=120)) == (0, 0)
    finally:
        first.kill()
        second.kill()
    release.check_end()
    with release.instance() as instance:
        jobs = sorted(run.job_name for run in instance.get_runs())
    assert jobs == ["tiny_build", "tiny_release"], "the second found nothing to do"


def test_a_killed_release_holds_no_lock_and_who_waits_for_it_ends_at_sigterm(
    release: Release,
) -> None:
    holder = release.start()
    while "tiny_build: " not in release.log.read_text():
        time.sleep(0.01)
    holder.send_signal(signal.SIGSTOP)
    log, release.log = release.log, release.log.with_name("second.log")
    said = release.killed_at("waiting for another release", signal.SIGTERM)
    assert f"process {holder.pid}, started " in said
    holder.kill()
    holder.wait()
    release.log = log
    release.finish()
    release.check_end()


def test_old_runs_are_forgotten_and_the_newest_kept() -> None:
    @dg.job
    def nothing() -> None: ...

    with dg.DagsterInstance.ephemeral() as instance:
        runs = [
            instance.create_run_for_job(nothing, status=dg.DagsterRunStatus.SUCCESS)
            for _ in range(7)
        ]
        on = instance.create_run_for_job(nothing, status=dg.DagsterRunStatus.STARTED)
        assert recovery.prune_runs(instance, keep=3) == 4
        left = {run.run_id for run in instance.get_runs()}
        assert left == {on.run_id, *(run.run_id for run in runs[-3:])}


def test_who_follows_the_output_of_a_dead_run_is_ended_with_it(tmp_path: Path) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        boot, namespace, pid, ticks = processes.identity().split("/")[:4]
        run = release_run(instance, f"{boot}/{namespace}/{pid}/{int(ticks) - 1}")
        log = tmp_path / run.run_id / "compute_logs" / "step.err"
        log.parent.mkdir(parents=True)
        log.touch()
        follower = subprocess.Popen(["tail", "-F", "-c", "+0", str(log)])
        try:
            assert recovery.end_dead_runs(instance)
            assert follower.wait(timeout=10) == -signal.SIGKILL
        finally:
            follower.kill()
            follower.wait()
