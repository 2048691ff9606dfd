"""A release through Dagster's own jobs: real git, store, image and process."""

from __future__ import annotations

import json
import urllib.request

import pytest
from support.oci_samples import pem
from support.tiny import CHECK

from tandem.dagster.sensors import report_news
from tandem.model import acceptance
from tandem.release import plan
from tandem.release.build import build_app
from tandem.release.live_answers import ask_live


def version_of(way) -> dict:
    with urllib.request.urlopen(way.tiny.project.target.url() + "/version", timeout=10) as answer:
        return json.load(answer)


def release(way) -> None:
    assert way.run("build").success
    assert way.run("release").success


def test_a_commit_and_a_model_become_a_live_service(way) -> None:
    sha = way.tiny.commit("hello")
    way.tiny.publish()
    release(way)
    said = version_of(way)
    record = way.tiny.project.ledger.releases.latest()
    assert said["app"]["commit"] == record.app.commit == sha
    assert said["image"]["digest"] == record.image
    assert record.number == 1
    assert record.model.version == 1
    assert [proof.name for proof in record.proofs] == ["starts_and_answers", "live_answers"]


def test_nothing_changed_is_said_and_nothing_is_restarted(way) -> None:
    way.tiny.commit("hello")
    way.tiny.publish()
    release(way)
    before = way.tiny.project.target.current()
    found = plan.release(way.tiny.project)
    assert found.image is None
    assert found.reason.startswith("nothing changed since release 1: ")
    assert way.run("build").success
    assert way.run("release").success
    after = way.tiny.project.target.current()
    assert (after.since, after.detail) == (before.since, before.detail)
    assert way.tiny.project.ledger.releases.latest().number == 1
    assert way.tiny.project.ledger.images.latest().number == 1


def test_a_red_commit_holds_back_nobodys_model(way) -> None:
    good = way.tiny.commit("good")
    way.tiny.publish(0.98)
    release(way)
    red = way.tiny.commit("bad", verdict="red")
    assert way.run("build").success
    assert way.tiny.project.ledger.images.latest().number == 1, "no image of a red commit"
    way.tiny.publish(0.99)
    assert way.run("image").success
    assert way.run("release").success
    record = way.tiny.project.ledger.releases.latest()
    assert (record.app.commit, record.model.version) == (good, 2)
    over = {(p.what, p.which): p.reason for p in record.passed_over}
    assert "tests::test_verdict" in over["commit", red]


def test_a_refused_model_holds_back_nobodys_code(way) -> None:
    way.tiny.commit("one")
    way.tiny.publish(0.98)
    release(way)
    way.tiny.publish(0.5)
    assert way.run("image").success
    two = way.tiny.commit("two")
    way.run("build")
    assert way.run("release").success
    record = way.tiny.project.ledger.releases.latest()
    assert (record.app.commit, record.model.version) == (two, 1)
    assert [(p.what, p.which) for p in record.passed_over] == [("model", "v2")]
    assert "0.5" in record.passed_over[0].reason


def test_a_model_that_comes_before_the_first_build_waits_for_it(way) -> None:
    way.tiny.commit("one")
    way.tiny.publish(0.98)
    waits = plan.image(way.tiny.project, way.tiny.project.models.latest())
    assert not waits.key and "waits: no commit of main passed its tests" in waits.reason
    way.run("build")
    release(way)
    assert way.tiny.project.ledger.releases.latest().model.version == 1


def test_a_person_can_accept_a_refused_model_and_the_record_says_who_and_why(way) -> None:
    way.tiny.commit("one")
    way.tiny.publish(0.5)
    way.run("build")
    assert plan.image(way.tiny.project, way.tiny.project.models.latest()).held
    acceptance.overrule(way.tiny.project.models, 1, by="Ada", reason="the data changed")
    assert plan.image(way.tiny.project, way.tiny.project.models.latest()).key
    release(way)
    record = way.tiny.project.ledger.releases.latest()
    assert record.model.overruled == "Ada: the data changed"


def test_failures_are_named_on_the_asset_page(way) -> None:
    way.tiny.commit("bad", verdict="red")
    way.tiny.publish()
    result = way.run("build")
    assert result.success
    page = result.asset_materializations_for_node("tiny__app_build")[0].metadata
    assert page["failures"].records[0].data["test"] == "tests::test_verdict"
    check = next(e for e in result.get_asset_check_evaluations() if e.check_name == "tests_pass")
    assert not check.passed
    assert "tests::test_verdict" in check.description


def test_an_image_that_does_not_answer_never_goes_live(way) -> None:
    way.tiny.commit("one")
    way.tiny.publish()
    release(way)
    way.tiny.commit("two", service="raise SystemExit('broken on purpose')\n")
    result = way.run("build")
    check = next(
        e for e in result.get_asset_check_evaluations() if e.check_name == "starts_and_answers"
    )
    assert not check.passed
    assert not result.asset_materializations_for_node("tiny__image")
    assert not way.tiny.project.ledger.images.latest().good
    assert way.run("release").success
    assert version_of(way)["app"]["commit"] == way.tiny.project.ledger.images.read(1).app.commit
    assert "passed over image" in plan.release(way.tiny.project).reason


@pytest.mark.parametrize("what", ["commit", "model"])
def test_only_what_follows_a_change_is_made_again(way, what: str) -> None:
    way.tiny.commit("one")
    way.tiny.publish(0.98)
    report_news(way.instance, way.tiny.app, way.tiny.project)
    release(way)
    assert stale(way) == set()
    if what == "commit":
        way.tiny.commit("two")
        report_news(way.instance, way.tiny.app, way.tiny.project)
        assert stale(way) >= {"app_build"}
        assert "model" not in stale(way)
        assert way.run("build").success
    else:
        way.tiny.publish(0.99)
        report_news(way.instance, way.tiny.app, way.tiny.project)
        assert stale(way) >= {"image"}
        assert "app_build" not in stale(way)
        assert way.run("image").success
    assert way.run("release").success
    assert stale(way) == set()


def stale(way) -> set[str]:
    """The assets that Dagster's own resolver, which the UI shows, calls stale."""
    from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
    from dagster._core.loader import LoadingContextForTest

    graph = way.defs.get_repository_def().asset_graph
    resolver = CachingStaleStatusResolver(way.instance, graph, LoadingContextForTest(way.instance))
    return {
        key.path[-1]
        for key in graph.materializable_asset_keys
        if resolver.get_status(key) == StaleStatus.STALE
    }


def test_a_model_with_another_interface_waits_for_the_commit_that_wants_it(way) -> None:
    way.tiny.commit("one")
    way.tiny.publish(0.98)
    release(way)
    wider = way.tiny.publish(0.99, feature_names=["a", "b"])
    assert way.run("image").success
    verdict = acceptance.verdict(way.tiny.project.models, wider.number)
    assert not verdict.accepted
    assert "a (number), b (number), what is live takes" in verdict.reason
    assert plan.release(way.tiny.project).image is None
    way.tiny.commit("two", model='features = { a = "number", b = "number" }')
    release(way)
    live = ask_live(way.tiny.project)
    assert live.passed
    record = way.tiny.project.ledger.releases.latest()
    assert (record.model.version, record.app.subject) == (wider.number, "say two")


def test_a_commit_for_a_model_that_is_not_there_yet_holds_back_no_older_pair(way) -> None:
    way.tiny.commit("one")
    way.tiny.publish(0.98)
    release(way)
    way.tiny.commit("two", model="features = 3")
    assert way.run("build").success
    waits = plan.build(way.tiny.project).reason
    assert "waits for a model that is accepted (v1: it takes rows of 2 numbers, " in waits
    better = way.tiny.publish(0.99)
    assert way.run("image").success
    assert way.run("release").success
    record = way.tiny.project.ledger.releases.latest()
    assert (record.model.version, record.app.subject) == (better.number, "say one")
    assert [over.reason for over in record.passed_over] == ["it waits for a model that fits it"]


def test_what_the_tests_write_where_they_run_is_not_packed(way) -> None:
    clean = way.tiny.commit("one")
    image = build_app(way.tiny.project, clean).image
    writes = CHECK + '\nopen("app/left_by_the_tests.txt", "w").write("x")\n'
    # Its own report comes last: the exit must not keep it from writing.
    writes = writes.replace("sys.exit(red)\n", "") + "sys.exit(red)\n"
    way.tiny.repository.commit({"check.py": writes}, "tests that write")
    assert build_app(way.tiny.project).image == image


def test_what_was_packed_before_there_was_a_key_is_signed_and_goes_live(way, monkeypatch) -> None:
    way.tiny.commit("one")
    way.tiny.publish()
    assert way.run("build").success
    private, public = pem()
    monkeypatch.setenv("TANDEM_VERIFY_KEY", public)
    failed = way.run("release")
    assert not failed.success, "who cannot sign lets nothing unsigned go live"
    assert way.tiny.project.target.current() is None
    monkeypatch.setenv("TANDEM_SIGNING_KEY", private)
    assert way.run("release").success
    assert way.tiny.project.target.current() is not None
