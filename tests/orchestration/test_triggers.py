"""When something starts: sensors and the schedule, tick by tick."""

from __future__ import annotations

import datetime

import dagster as dg
import psutil
import pytest

from tandem.dagster import tries
from tandem.dagster.resources import Tandem
from tandem.errors import SourceError, StorageError
from tandem.release import plan
from tandem.release.deploy import deploy
from tandem.release.drift import drift
from tandem.release.judging import judge_newest


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
    assert way.run("build").success, "a red commit is a result, not a crash"
    after = way.tick("new_commit", first.cursor)
    assert not after.run_requests
    assert "1 of 2 tests failed: tests::test_verdict" in after.skip_reason.skip_message


def test_a_rewound_branch_is_released_again(way) -> None:
    way.tiny.publish()
    one = way.tiny.commit("one")
    first = way.tick("new_commit")
    assert way.run("build", tags=first.run_requests[0].tags).success
    way.tiny.commit("two")
    second = way.tick("new_commit", first.cursor)
    assert way.run("build", tags=second.run_requests[0].tags).success
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
    with pytest.raises(SourceError, match="has no branch main"):
        way.tick("new_commit")  # a tick that could not look has failed
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
    assert way.run("build").success
    assert way.tiny.project.ledger.images.latest() is None, "there is no model yet"
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
    assert way.run("image").success, "a refused model is a result, not a crash"
    after = way.tick("new_model", first.cursor)
    assert not after.run_requests
    assert "was refused" in after.skip_reason.skip_message


def test_no_model_yet_is_said(way) -> None:
    assert "no model tiny is published yet" in way.tick("new_model").skip_message


def test_a_tick_that_cannot_read_the_store_fails_and_the_next_asks_again(
    way, monkeypatch: pytest.MonkeyPatch
) -> None:
    way.tiny.commit("one")
    way.run("build")
    way.tiny.publish()

    def away(*_: object, **__: object) -> None:
        raise StorageError("the store does not answer")

    with monkeypatch.context() as patched:
        patched.setattr(type(way.tiny.project.store), "read", away)
        for sensor in ("new_model", "new_commit", "drift"):
            with pytest.raises(StorageError, match="does not answer"):
                way.tick(sensor)
        with pytest.raises(StorageError, match="does not answer"):
            evaluate_schedule(way)
    assert way.tick("new_model").run_requests


def run_of(way, request, status: dg.DagsterRunStatus) -> dg.DagsterRun:
    """A run that was asked for and is in that state."""
    return way.instance.create_run_for_job(
        job_def=way.defs.resolve_job_def("tiny_build"),
        status=status,
        tags={**request.tags, "dagster/run_key": request.run_key},
    )


def test_a_run_that_fails_is_tried_again_with_growing_pauses_and_without_end(way) -> None:
    now = datetime.datetime.now(datetime.UTC).timestamp()
    used, pauses = set(), []
    for _ in range(12):
        asked, wait = None, ""
        waited = 0.0
        while asked is None:
            asked, wait = tries.request(
                way.instance, way.tiny.app, "commit-1", trigger="a test", now=now + waited
            )
            if asked is None:
                assert "failed" in wait and "tried again in" in wait
                waited += 1.0
        assert asked.run_key not in used
        used.add(asked.run_key)
        pauses.append(waited)
        run_of(way, asked, dg.DagsterRunStatus.FAILURE)
        now = datetime.datetime.now(datetime.UTC).timestamp()
    assert pauses[0] == 0.0
    assert pauses == sorted(pauses)
    assert 250 < pauses[-1] <= tries.LONGEST_PAUSE, "never given up"


def test_while_a_run_of_the_app_is_on_no_other_is_asked_for(way) -> None:
    way.tiny.publish()
    way.tiny.commit("one")
    assert way.run("build").success
    way.tiny.commit("two")
    first = way.tick("new_commit")
    run = run_of(way, first.run_requests[0], dg.DagsterRunStatus.STARTED)
    way.tiny.publish(0.98)
    for sensor in ("new_commit", "new_model"):
        tick = way.tick(sensor)
        assert not tick.run_requests
        assert f"waiting for run {run.run_id[:8]}" in tick.skip_reason.skip_message


def test_a_cancelled_run_is_asked_for_again(way) -> None:
    way.tiny.publish()
    way.tiny.commit("one")
    request = way.tick("new_commit").run_requests[0]
    run_of(way, request, dg.DagsterRunStatus.CANCELED)
    later = datetime.datetime.now(datetime.UTC).timestamp() + 60
    again, _ = tries.request(
        way.instance, way.tiny.app, request.tags["tandem/work"], trigger="a test", now=later
    )
    assert again is not None and again.run_key != request.run_key


def test_another_image_does_not_make_the_same_work_new(way) -> None:
    way.tiny.publish()
    way.tiny.commit("one")
    assert way.run("build").success
    two = way.tiny.commit("two")
    before = way.tick("new_commit").run_requests[0].run_key
    way.tiny.publish(0.995)
    assert way.run("image").success
    assert way.tiny.project.ledger.images.latest().app.commit != two
    assert way.tick("new_commit").run_requests[0].run_key == before


def test_a_good_model_below_a_refused_newest_one_is_judged_and_packed(way) -> None:
    way.tiny.commit("one")
    way.tiny.publish(0.98)
    assert way.run("build").success
    good, bad = way.tiny.publish(0.99), way.tiny.publish(0.2)
    judge_newest(way.tiny.project)
    tick = way.tick("new_model")
    assert f"model v{good.number} is new" in plan.image(way.tiny.project, bad).reason
    assert tick.run_requests
    assert way.run("image").success
    assert way.tiny.project.ledger.images.latest().model.version == good.number


def test_a_changed_setting_of_the_build_is_noticed_and_built(way) -> None:
    way.tiny.publish()
    way.tiny.commit("one")
    first = way.tick("new_commit")
    assert way.run("build", tags=first.run_requests[0].tags).success
    assert not way.tick("new_commit").run_requests
    way.tiny.tandem = Tandem(overrides={**way.tiny.settings, "TANDEM_BUILDER": "assemble"})
    request = way.tick("new_commit").run_requests[0]
    assert request.run_key != first.run_requests[0].run_key
    assert way.run("build", tags=request.tags).success
    assert not way.tick("new_commit").run_requests


def test_a_red_commit_leaves_what_is_downstream_as_it_was(way) -> None:
    way.tiny.tandem.overrides["TANDEM_RELEASE_ON"] = "build"
    way.tiny.commit("one")
    way.tiny.publish()
    assert way.run("build").success
    way.tiny.commit("bad", verdict="red")
    result = way.run("build")
    assert result.success
    made = {event.asset_key.path[-1] for event in result.get_asset_materialization_events()}
    assert made == {"app_build"}
    run = way.instance.get_run_by_id(result.run_id)
    assert run.tags["tandem/outcome"].startswith("red: 1 of 2 tests failed")


def test_the_truth_is_told_after_a_check_that_was_only_planned(way) -> None:
    way.tiny.commit("one")
    way.tiny.publish()
    assert way.run("build").success
    assert way.run("release").success
    key = dg.AssetCheckKey(dg.AssetKey(["tiny", "deployment"]), "as_released")
    way.instance.event_log_storage.store_event(planned_check(way, key))
    assert look(way) == []
    psutil.Process(way.tiny.project.target.current().detail["pid"]).kill()
    assert look(way) == [False]


def planned_check(way, key: dg.AssetCheckKey):
    """The event of a run that was to make the check and ended before it."""
    from dagster._core.definitions.asset_checks.asset_check_evaluation import (
        AssetCheckEvaluationPlanned,
    )
    from dagster._core.events import DagsterEvent, DagsterEventType
    from dagster._core.events.log import EventLogEntry

    run = way.instance.create_run_for_job(
        job_def=way.defs.resolve_job_def("tiny_release"), status=dg.DagsterRunStatus.FAILURE
    )
    event = DagsterEvent(
        event_type_value=DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED.value,
        job_name=run.job_name,
        event_specific_data=AssetCheckEvaluationPlanned(
            asset_key=key.asset_key, check_name=key.name
        ),
    )
    return EventLogEntry(
        error_info=None,
        level="INFO",
        user_message="",
        run_id=run.run_id,
        timestamp=datetime.datetime.now().timestamp(),
        dagster_event=event,
    )


def test_a_release_that_is_due_and_failed_is_asked_for_by_the_truth_sensor(way) -> None:
    way.tiny.tandem.overrides["TANDEM_RELEASE_ON"] = "nightly"
    way.tiny.commit("one")
    way.tiny.publish()
    assert way.run("build").success
    assert not way.tick("drift").run_requests, "the night has not come yet"
    request = evaluate_schedule(way)
    run = way.instance.create_run_for_job(
        job_def=way.defs.resolve_job_def("tiny_release"),
        status=dg.DagsterRunStatus.FAILURE,
        tags=request.tags,
    )
    assert run.run_id[:8] in way.tick("drift").skip_reason.skip_message
    later = datetime.datetime.now(datetime.UTC).timestamp() + 60
    again, _ = tries.request(
        way.instance, way.tiny.app, request.tags["tandem/work"], trigger="a test", now=later
    )
    assert again is not None


def test_a_release_that_was_just_put_live_is_not_a_change_by_hand(way) -> None:
    way.tiny.commit("one")
    way.tiny.publish(0.98)
    assert way.run("build").success
    assert way.run("release").success
    way.tiny.publish(0.99)
    assert way.run("image").success
    deploy(way.tiny.project)
    assert drift(way.tiny.project) == [], "live, and not recorded yet"


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
    """What a tick of the drift sensor reports, reported."""
    events = way.tick("drift").asset_events
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
