"""When something starts: sensors and the schedule, tick by tick."""

from __future__ import annotations

import datetime

import dagster as dg
import psutil
import pytest

from tandem.errors import StorageError


def commit_events(result) -> list[str]:
    return [event.metadata["sha"].value for event in result.asset_events]


def test_a_new_commit_is_reported_and_built_once(way) -> None:
    sha = way.tiny.commit("one")
    first = way.tick("new_commit")
    assert commit_events(first) == [sha]
    assert len(first.run_requests) == 1
    request = first.run_requests[0]
    assert request.run_config["ops"]["tiny__app_build"]["config"] == {"commit": sha}
    assert request.tags["tandem/app"] == "tiny"
    second = way.tick("new_commit", first.cursor)
    assert commit_events(second) == []
    assert second.run_requests[0].run_key == request.run_key, "deduplicated by Dagster"


def test_a_tick_that_is_evaluated_twice_asks_for_one_run(way) -> None:
    way.tiny.commit("one")
    assert way.tick("new_commit").run_requests[0].run_key == (
        way.tick("new_commit").run_requests[0].run_key
    )


def test_once_built_the_tick_says_why_nothing_starts(way) -> None:
    way.tiny.commit("one")
    way.tiny.publish()
    first = way.tick("new_commit")
    assert way.run("build").success
    after = way.tick("new_commit", first.cursor)
    assert not after.run_requests
    assert "nothing changed" in after.skip_reason.skip_message


def test_a_lost_cursor_builds_nothing_again(way) -> None:
    way.tiny.commit("one")
    way.tiny.publish()
    assert way.run("build").success
    assert not way.tick("new_commit", cursor=None).run_requests
    assert not way.tick("new_commit", cursor="of another version").run_requests


def test_several_commits_in_one_tick_ask_for_the_newest(way) -> None:
    way.tiny.commit("one")
    way.tiny.commit("two")
    newest = way.tiny.commit("three")
    result = way.tick("new_commit")
    assert commit_events(result) == [newest]
    assert [
        r.run_config["ops"]["tiny__app_build"]["config"]["commit"] for r in result.run_requests
    ] == [newest]


def test_a_red_commit_is_not_built_again_and_again(way) -> None:
    way.tiny.publish()
    way.tiny.commit("bad", verdict="red")
    first = way.tick("new_commit")
    assert not way.run("build").success
    after = way.tick("new_commit", first.cursor)
    assert not after.run_requests
    assert "1 of 2 tests failed: tests::test_verdict" in after.skip_reason.skip_message


def test_a_rewound_branch_is_released_again(way) -> None:
    way.tiny.publish()
    one = way.tiny.commit("one")
    first = way.tick("new_commit")
    assert way.run("build").success
    way.tiny.commit("two")
    second = way.tick("new_commit", first.cursor)
    assert way.run("build").success
    way.tiny.repository.git("reset", "--quiet", "--hard", one)
    third = way.tick("new_commit", second.cursor)
    assert commit_events(third) == [one]
    keys = {first.run_requests[0].run_key, second.run_requests[0].run_key}
    assert third.run_requests[0].run_key not in keys, "asked anew, though it was built before"
    assert way.run("build").success
    images = way.tiny.project.ledger.images
    assert images.latest().app.commit == one
    assert images.latest().digest == images.read(1).digest, "the same pair is the same image"


def test_a_force_push_is_a_new_commit(way) -> None:
    way.tiny.publish()
    way.tiny.commit("base")
    way.tiny.commit("one")
    first = way.tick("new_commit")
    assert way.run("build").success
    way.tiny.repository.git("reset", "--quiet", "--hard", "HEAD~1")
    other = way.tiny.commit("another way")
    result = way.tick("new_commit", first.cursor)
    assert commit_events(result) == [other]
    assert result.run_requests


def test_a_branch_that_vanished_starts_nothing_and_holds_back_no_model(way) -> None:
    way.tiny.publish(0.98)
    good = way.tiny.commit("one")
    assert way.run("build").success
    way.tiny.repository.git("checkout", "--quiet", "-b", "other")
    way.tiny.repository.git("branch", "--quiet", "-D", "main")
    tick = way.tick("new_commit")
    assert "has no branch main" in tick.skip_message
    way.tiny.publish(0.99)
    assert way.tick("new_model").run_requests
    assert way.run("image").success
    newest = way.tiny.project.ledger.images.latest()
    assert (newest.app.commit, newest.model.version, newest.good) == (good, 2, True)


def test_a_commit_that_arrives_while_a_run_is_on_is_built_by_the_next(way) -> None:
    way.tiny.publish()
    one = way.tiny.commit("one")
    first = way.tick("new_commit")
    two = way.tiny.commit("two")  # before the run of the first starts
    second = way.tick("new_commit", first.cursor)
    for result, sha in ((first, one), (second, two)):
        request = result.run_requests[0]
        assert way.run("build", run_config=request.run_config).success
        assert way.tiny.project.builds.of(way.tiny.project.source.commit(sha).tree).passed
    commits = [record.app.commit for record in way.tiny.project.ledger.images.newest_first()]
    assert commits == [two, one]
    assert not way.tick("new_commit", second.cursor).run_requests


def test_a_new_model_is_reported_and_packed_once(way) -> None:
    way.tiny.commit("one")
    assert way.run("build").success is False  # there is no model yet
    version = way.tiny.publish()
    first = way.tick("new_model")
    assert [e.metadata["version"].value for e in first.asset_events] == [1]
    assert first.asset_events[0].tags["dagster/data_version"] == version.digest
    assert len(first.run_requests) == 1
    assert way.run("image").success
    after = way.tick("new_model", first.cursor)
    assert not after.asset_events
    assert not after.run_requests
    assert "nothing changed" in after.skip_reason.skip_message


def test_a_tick_with_nothing_new_costs_what_finding_the_newest_version_costs(
    way, monkeypatch: pytest.MonkeyPatch
) -> None:
    way.tiny.commit("one")
    way.tiny.publish()
    assert way.run("build").success
    settled = way.tick("new_model")
    asked = []
    store = type(way.tiny.project.store)
    for name in ("read", "head", "get", "list"):
        real = getattr(store, name)

        def counted(self, *arguments, real=real, name=name, **options):
            asked.append(name)
            return real(self, *arguments, **options)

        monkeypatch.setattr(store, name, counted)
    again = way.tick("new_model", settled.cursor)
    assert "model v1 is packed" in again.skip_message
    assert sorted(asked) == ["head", "read"]
    way.tiny.publish(0.995)
    assert way.tick("new_model", settled.cursor).run_requests, "something newer is seen at once"


def test_several_models_in_one_tick_ask_for_the_newest(way) -> None:
    way.tiny.commit("one")
    way.run("build")
    for accuracy in (0.95, 0.96, 0.97):
        way.tiny.publish(accuracy)
    result = way.tick("new_model")
    assert [event.metadata["version"].value for event in result.asset_events] == [3]
    assert [
        request.tags["tandem/work"].partition("-")[2][0] for request in result.run_requests
    ] == ["3"]


def test_what_the_model_asset_published_is_not_reported_twice(way) -> None:
    way.tiny.commit("one")
    way.run("build")
    way.tiny.publish(publisher="dagster run 4711")
    result = way.tick("new_model")
    assert not result.asset_events
    assert len(result.run_requests) == 1


def test_a_refused_model_is_not_tried_again_and_again(way) -> None:
    way.tiny.commit("one")
    way.run("build")
    way.tiny.publish(0.2)
    first = way.tick("new_model")
    assert not way.run("image").success
    after = way.tick("new_model", first.cursor)
    assert not after.run_requests
    assert "was refused" in after.skip_reason.skip_message


def test_no_model_yet_is_said(way) -> None:
    assert "no model tiny is published yet" in way.tick("new_model").skip_message


def test_a_store_that_is_away_skips_the_tick_and_the_next_asks_again(
    way, monkeypatch: pytest.MonkeyPatch
) -> None:
    way.tiny.commit("one")
    way.run("build")
    way.tiny.publish()

    def away(*_: object, **__: object) -> None:
        raise StorageError("the store does not answer")

    with monkeypatch.context() as patched:
        patched.setattr(type(way.tiny.project.store), "read", away)
        assert "does not answer" in way.tick("new_model").skip_message
    assert way.tick("new_model").run_requests


def test_a_run_that_failed_for_its_own_reasons_is_tried_again_a_few_times(way) -> None:
    way.tiny.publish()
    way.tiny.commit("one", service="")
    keys = []
    for _ in range(3):
        result = way.tick("new_commit")
        keys.append(result.run_requests[0].run_key)
        way.instance.create_run_for_job(
            job_def=way.defs.resolve_job_def("tiny_build"),
            status=dg.DagsterRunStatus.FAILURE,
            tags=result.run_requests[0].tags,
        )
    assert len(set(keys)) == 3
    assert "its run failed 3 times" in way.tick("new_commit").skip_reason.skip_message


def evaluate_schedule(way):
    definition = way.defs.resolve_schedule_def("tiny_nightly")
    context = dg.build_schedule_context(
        instance=way.instance,
        scheduled_execution_time=datetime.datetime(2026, 11, 22, 2, tzinfo=datetime.UTC),
        resources={"tandem": way.tiny.tandem},
    )
    return definition(context)


def test_the_night_releases_what_is_new_and_says_why_not(way) -> None:
    assert "none was packed yet" in evaluate_schedule(way).skip_message
    way.tiny.commit("one")
    way.tiny.publish()
    assert way.run("build").success
    request = evaluate_schedule(way)
    assert request.tags["tandem/trigger"] == "schedule tiny_nightly"
    assert way.run("release", tags=request.tags).success
    assert way.tiny.project.ledger.releases.latest().trigger == "schedule tiny_nightly"
    assert evaluate_schedule(way).skip_message.startswith("nothing changed since release 1")


def test_the_night_is_when_the_settings_say(way) -> None:
    way.tiny.tandem.overrides.update(
        {"TANDEM_NIGHTLY": "30 3 * * 1-5", "TANDEM_TIMEZONE": "Europe/Berlin"}
    )
    schedule = way.defs.resolve_schedule_def("tiny_nightly")
    assert schedule.cron_schedule == "30 3 * * 1-5"
    assert schedule.execution_timezone == "Europe/Berlin"
    assert schedule.default_status == dg.DefaultScheduleStatus.RUNNING


def test_with_release_on_build_a_build_goes_on_to_release(way) -> None:
    way.tiny.tandem.overrides["TANDEM_RELEASE_ON"] = "build"
    way.tiny.commit("one")
    way.tiny.publish()
    assert way.run("build").success
    assert way.tiny.project.ledger.releases.latest().number == 1
    way.tiny.publish(0.995)
    assert way.run("image").success
    assert way.tiny.project.ledger.releases.latest().model.version == 2


def as_released(way) -> bool:
    key = dg.AssetCheckKey(dg.AssetKey(["tiny", "deployment"]), "as_released")
    return way.instance.get_latest_asset_check_evaluation_record(key).evaluation.passed


def look(way) -> list[bool]:
    """What a tick of the truth sensor reports, reported."""
    events = way.tick("truth").asset_events
    for event in events:
        assert event.check_name == "as_released"
        way.instance.report_runless_asset_event(event)
    return [event.passed for event in events]


def test_what_was_changed_by_hand_is_reported_once_and_healed(way) -> None:
    way.tiny.commit("one")
    way.tiny.publish()
    assert way.run("build").success
    assert way.run("release").success
    assert look(way) == [], "the run has said it"
    live = way.tiny.project.target.current()
    psutil.Process(live.detail["pid"]).kill()
    assert look(way) == [False]
    assert look(way) == [], "said once"
    assert way.run("release").success, "healed by materializing the deployment"
    assert as_released(way)
    assert look(way) == []


def test_a_release_is_compared_with_its_own_record_and_not_with_the_last_one(way) -> None:
    way.tiny.commit("one")
    for accuracy in (0.98, 0.99):
        way.tiny.publish(accuracy)
        assert way.run("build").success
        assert way.run("image").success
        assert way.run("release").success
        assert as_released(way)


def test_the_clean_up_keeps_what_is_live_and_what_was_released(way) -> None:
    way.tiny.settings["TANDEM_KEEP"] = "1"
    way.tiny.publish(0.98)
    for text in ("one", "two", "three", "four"):
        way.tiny.commit(text)
        assert way.run("build").success
        if text == "one":
            assert way.run("release").success
    digests = {r.app.subject: r.digest for r in way.tiny.project.ledger.images.newest_first()}
    there = way.tiny.project.registry.get_manifest
    dry = {"ops": {"tiny_clean_up_op": {"config": {"dry_run": True}}}}
    assert way.run("clean_up", run_config=dry).success
    assert all(there(digest) for digest in digests.values()), "a dry run removes nothing"
    assert way.run("clean_up").success
    assert {subject for subject, digest in digests.items() if there(digest)} == {
        "say one",
        "say four",
    }
    assert way.tiny.project.target.current().digest == digests["say one"]
    assert way.run("release").success, "what comes next is still there"
