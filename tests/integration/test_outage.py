"""Registry, store and remote are away for half an hour: nothing is given up, all heals by itself.

The ticks and runs are real, and so are the servers; only the clock is a simulated one.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from support.relay import Relay
from support.services import require
from support.stores import free_port
from support.tiny import Tiny

from tandem.dagster.definitions import build_defs
from tandem.errors import TandemError
from tandem.oci.remote.client import RemoteRegistry
from tandem.storage import transfer

STEP = 60.0
MINUTES = 30
AWAY = ["registry", "store", "remote"]


class Team:
    """The tiny app with each server behind a way that can be cut, and Dagster's ticks."""

    def __init__(self, tiny: Tiny, ways: dict[str, Relay], instance: dg.DagsterInstance) -> None:
        self.tiny, self.ways, self.instance = tiny, ways, instance
        self.failed_ticks: list[str] = []
        self.runs: list[tuple[str, bool]] = []
        self.said: list[str] = []

    def tick(self, sensor: str) -> None:
        """One tick, and the runs that it asks for, as the daemon does."""
        defs = build_defs(apps=[self.tiny.app], resource_overrides={"tandem": self.tiny.tandem})
        context = dg.build_sensor_context(
            instance=self.instance, resources={"tandem": self.tiny.tandem}
        )
        try:
            result: Any = defs.resolve_sensor_def(f"tiny_{sensor}")(context)
        except TandemError as problem:
            self.failed_ticks.append(f"{sensor}: {problem}")
            return
        if isinstance(result, dg.SkipReason):
            self.said.append(result.skip_message)
            return
        if result.skip_reason:
            self.said.append(result.skip_reason.skip_message)
        job = {"new_commit": "build", "new_model": "image", "drift": "release"}[sensor]
        for request in result.run_requests or []:
            done = defs.resolve_job_def(f"tiny_{job}").execute_in_process(
                instance=self.instance,
                raise_on_error=False,
                tags=request.tags,
                run_config=request.run_config,
            )
            self.runs.append((job, done.success))

    def round(self) -> None:
        for sensor in ("new_commit", "new_model", "drift"):
            self.tick(sensor)

    def live(self) -> tuple[str, int] | None:
        record = self.tiny.project.ledger.releases.latest()
        return (record.app.commit, record.model.version) if record else None


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    ahead = [0.0]
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + ahead[0])
    yield ahead


@pytest.fixture
def team(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Team]:
    for service in ("azurite", "registry"):
        require(service)
    from azure.storage.blob import BlobServiceClient

    name = f"outage-{secrets.token_hex(4)}"
    connection = os.environ["AZURE_STORAGE_CONNECTION_STRING"]
    blobs = BlobServiceClient.from_connection_string(connection)
    blobs.create_container(name)
    endpoint = re.search(r"BlobEndpoint=http://([^/;]+)", connection)
    assert endpoint, "Azurite's connection string names where it listens"
    port = free_port()
    daemon = subprocess.Popen(
        ["git", "daemon", "--reuseaddr", "--listen=127.0.0.1", f"--port={port}", "--export-all",
         f"--base-path={tmp_path}", str(tmp_path)],
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    ways = {
        "registry": Relay(os.environ["REGISTRY"]),
        "store": Relay(endpoint[1]),
        "remote": Relay(f"127.0.0.1:{port}"),
    }
    monkeypatch.setenv(
        "AZURE_STORAGE_CONNECTION_STRING", connection.replace(endpoint[1], ways["store"].host)
    )
    monkeypatch.setenv("TANDEM_REGISTRY_USERNAME", os.environ["REGISTRY_USERNAME"])
    monkeypatch.setenv("TANDEM_REGISTRY_PASSWORD", os.environ["REGISTRY_PASSWORD"])
    # A request's own patience is another test's matter.
    monkeypatch.setitem(RemoteRegistry.__init__.__kwdefaults__, "patience", 0.2)
    monkeypatch.setitem(transfer.attempt.__kwdefaults__, "attempts", 2)
    # Its host is whom the password is for.
    monkeypatch.setenv("TANDEM_REGISTRY", f"{ways['registry'].host}/{name}/tiny")
    tiny = Tiny(
        tmp_path / "tiny",
        TANDEM_STORE=f"az://{blobs.account_name}/{name}",
        TANDEM_REGISTRY=os.environ["TANDEM_REGISTRY"],
        TANDEM_SOURCE=f"git://{ways['remote'].host}/tiny/repository#main",
        TANDEM_RELEASE_ON="build",
    )
    with contextlib.ExitStack() as last, dg.DagsterInstance.ephemeral() as instance:
        last.callback(blobs.close)
        last.callback(blobs.delete_container, name)
        last.callback(daemon.wait)
        last.callback(daemon.kill)
        last.callback(tiny.close)
        for way in ways.values():
            last.callback(way.cut)
        yield Team(tiny, ways, instance)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("what", [*AWAY, "all three"])
def test_what_is_away_for_half_an_hour_stops_nothing_for_good(
    team: Team, clock: list[float], what: str
) -> None:
    one = team.tiny.commit("one")
    first = team.tiny.publish(0.98)
    team.round()
    assert team.live() == (one, first.number), (team.failed_ticks, team.said)
    two = team.tiny.commit("two")
    second = None if what in ("store", "all three") else team.tiny.publish(0.99)
    away = AWAY if what == "all three" else [what]
    for name in away:
        team.ways[name].cut()
    team.runs.clear()
    for _ in range(int(MINUTES * 60 / STEP)):
        team.round()
        clock[0] += STEP
    tries = len(team.runs)
    if what == "remote":
        assert second is not None
        assert team.live() == (one, second.number), "a remote that is away holds back no model"
    if what == "registry":
        assert 10 <= tries <= 30, "commit and model, each again and again, with pauses"
        assert not any(good for _, good in team.runs)
        assert any("tried again in" in words for words in team.said)
    else:
        assert team.failed_ticks, "a tick that could not look has failed"
    for name in away:
        team.ways[name].join()
    if second is None:
        second = team.tiny.publish(0.99)
    for _ in range(7):
        team.round()
        clock[0] += STEP
    assert team.live() == (two, second.number), (team.failed_ticks[-3:], team.said[-6:])
    failed = len(team.failed_ticks)
    team.round()
    assert len(team.failed_ticks) == failed
