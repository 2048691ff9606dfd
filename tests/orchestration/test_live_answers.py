"""The live service is asked once where it goes live; the answers are passed on."""

from __future__ import annotations

import dagster as dg
import pytest

from tandem.dagster import keys
from tandem.release import deploy as deploying
from tandem.release import live_answers
from tandem.release.deploy import deploy
from tandem.release.record import record_release
from tandem.service.probe import ask_instance


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses of which a live service's questions were asked."""
    urls: list[str] = []

    def counted(url: str, **options):
        urls.append(url)
        return ask_instance(url, **options)

    for module in (deploying, live_answers):
        monkeypatch.setattr(module, "ask_instance", counted)
    return urls


def built(way) -> None:
    way.tiny.commit("one")
    way.tiny.publish(0.98)
    assert way.run("build").success


def made(result: dg.ExecuteInProcessResult) -> set[str]:
    events = result.get_asset_materialization_events()
    return {event.asset_key.path[-1] for event in events}


def only(way, *assets: str) -> dg.ExecuteInProcessResult:
    """Materialize just these, as the UI's button does."""
    return way.defs.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=way.instance,
        raise_on_error=False,
        asset_selection=[keys.key(way.tiny.app, name) for name in assets],
    )


def test_a_release_asks_once_privately_and_once_publicly(way, asked: list[str]) -> None:
    built(way)
    assert way.run("release").success
    public = way.tiny.project.target.url()
    assert len(asked) == 2 and asked[1] == public != asked[0]
    key = dg.AssetCheckKey(keys.key(way.tiny.app, "deployment"), "live_answers")
    check = way.instance.get_latest_asset_check_evaluation_record(key).evaluation
    proof = way.tiny.project.ledger.releases.latest().proofs[-1]
    assert (check.passed, check.description) == (True, proof.summary)
    assert f"{public} serves sha256:" in proof.summary


def test_what_is_live_already_is_asked_once(way, asked: list[str]) -> None:
    built(way)
    assert way.run("release").success
    asked.clear()
    assert way.run("release").success
    assert asked == [way.tiny.project.target.url()]


def test_a_record_that_is_missing_is_made_alone_and_asks_by_itself(way, asked: list[str]) -> None:
    built(way)
    assert not only(way, "release").success, "nothing is live yet"
    assert only(way, "deployment").success
    assert way.tiny.project.ledger.releases.latest() is None
    asked.clear()
    result = only(way, "release")
    assert result.success and made(result) == {"release"}
    assert asked == [way.tiny.project.target.url()]
    assert way.tiny.project.ledger.releases.latest().number == 1


def test_what_went_live_since_is_asked_and_recorded_instead(way, asked: list[str]) -> None:
    built(way)
    first = deploy(way.tiny.project)
    way.tiny.publish(0.99)
    assert way.run("image").success
    second = deploy(way.tiny.project)
    asked.clear()
    record = record_release(way.tiny.project, trigger="a test", deployed=first)
    assert (record.image, len(asked)) == (second.live.digest, 1)
    assert record_release(way.tiny.project, trigger="a test", deployed=second) == record
    assert len(asked) == 1, "the answers of its own deployment are taken"
