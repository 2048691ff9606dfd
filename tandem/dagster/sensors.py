"""Sensors: a new commit starts a build, a new model an image; else why not.

A tick that could not look (remote, store or target unreachable) fails with one line; it is not
skipped as one that had nothing to do. A failed run is requested again, with growing pauses and
without end: see `tandem.dagster.tries`.
"""

from collections.abc import Callable, Mapping

import dagster as dg
import msgspec
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus

from tandem.dagster import keys, tries
from tandem.dagster.assets.commit import commit_event
from tandem.dagster.assets.model import made_here, model_event
from tandem.dagster.checks import drift_proof
from tandem.dagster.resources import Tandem
from tandem.dagster.results import evaluation
from tandem.release import plan
from tandem.release.app import App
from tandem.release.drift import drift
from tandem.release.project import Project

_SECONDS = 5
_DRIFT_SECONDS = 30


class Seen(msgspec.Struct, frozen=True):
    """A sensor's cursor: what it reported last, so that it is reported once.

    `settled` says why there was nothing to do, where only something newer can change that.
    """

    last: str = ""
    settled: str = ""


def build_sensors(app: App) -> list[dg.SensorDefinition]:
    """`APP_new_commit`, `APP_new_model` and `APP_drift`."""
    return [_new_commit(app), _new_model(app), _drift(app)]


def _new_commit(app: App) -> dg.SensorDefinition:
    @dg.sensor(
        name=f"{app.name}_new_commit",
        job_name=keys.job_name(app, "build"),
        minimum_interval_seconds=_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Watches the branch; each new commit is reported and built.",
    )
    def new_commit(
        context: dg.SensorEvaluationContext, tandem: Tandem
    ) -> dg.SensorResult | dg.SkipReason:
        project = tandem.project(app)
        planned = plan.build(project)
        commit = planned.commit
        build_config = {"ops": {f"{app.name}__app_build": {"config": {"commit": commit.sha}}}}
        return _result(
            context,
            app,
            planned,
            mark=commit.sha,
            event=lambda: commit_event(app, commit, project.source),
            trigger=f"sensor {app.name}_new_commit: commit {commit.short}",
            config=build_config,
        )

    return new_commit


def _new_model(app: App) -> dg.SensorDefinition:
    @dg.sensor(
        name=f"{app.name}_new_model",
        job_name=keys.job_name(app, "image"),
        minimum_interval_seconds=_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Watches the model repository; each new version is reported and packed.",
    )
    def new_model(
        context: dg.SensorEvaluationContext, tandem: Tandem
    ) -> dg.SensorResult | dg.SkipReason:
        project = tandem.project(app)
        version = project.models.latest()
        seen = _seen(context.cursor)
        if version and seen.settled and seen.last == version.digest:
            # A tick with nothing new costs what finding the newest version costs.
            return dg.SkipReason(seen.settled)
        planned = plan.image(project, version)
        if version is None:
            return dg.SkipReason(planned.reason)
        return _result(
            context,
            app,
            planned,
            mark=version.digest,
            # What the `model` asset published is its own materialization already.
            event=None if made_here(version) else lambda: model_event(app, version, project),
            trigger=f"sensor {app.name}_new_model: model v{version.number}",
            config={},
        )

    return new_model


def _drift(app: App) -> dg.SensorDefinition:
    @dg.sensor(
        name=f"{app.name}_drift",
        job_name=keys.job_name(app, "release"),
        minimum_interval_seconds=_DRIFT_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Compares record, target, registry and service, and reports what differs; "
        "requests a due release again that failed.",
    )
    def drift_sensor(
        context: dg.SensorEvaluationContext, tandem: Tandem
    ) -> dg.SensorResult | dg.SkipReason:
        project = tandem.project(app)
        if on := tries.run_in_progress(context.instance, app):
            # Between going live and being recorded, what is live and the record must differ.
            return dg.SkipReason(f"not compared while {on} is in progress")
        requests, due = _release_due(context.instance, app, project, tandem.settings().release_on)
        proof = drift_proof(drift(project))
        # Only what is news is reported: an event every half minute would bury all others. What a
        # run has found since counts, too.
        known = _last_said(context.instance, app, proof.name) == (proof.passed, proof.summary)
        return dg.SensorResult(
            asset_events=[] if known else [evaluation(app, "deployment", proof, blocking=False)],
            run_requests=requests,
            skip_reason=None if requests else "; ".join(filter(None, [proof.summary, due])),
        )

    return drift_sensor


def _last_said(
    instance: dg.DagsterInstance, app: App, check: str
) -> tuple[bool, str | None] | None:
    """The check's last result; one that was only planned has none."""
    ended = {AssetCheckExecutionRecordStatus.SUCCEEDED, AssetCheckExecutionRecordStatus.FAILED}
    records = instance.event_log_storage.get_asset_check_execution_history(
        dg.AssetCheckKey(keys.key(app, "deployment"), check), limit=1, status=ended
    )
    for record in records:
        event = record.event.dagster_event if record.event else None
        if event is not None:
            evaluated = event.asset_check_evaluation_data
            return evaluated.passed, evaluated.description
    return None


def _release_due(
    instance: dg.DagsterInstance, app: App, project: Project, release_on: str
) -> tuple[list[dg.RunRequest], str]:
    """The run for a release that is due, and why it is not requested yet.

    With `release_on` build that is each proven image. Else it is the nightly one, where its tick
    could not look or its run failed: a hiccup at two o'clock must not cost the night.
    """
    image = plan.unreleased(project)
    if image is None:
        return [], ""
    key = plan.release_key(image)
    if release_on != "build" and not tries.nightly_failed(instance, app, key):
        return [], ""
    request, wait = tries.request(
        instance,
        app,
        key,
        trigger=f"sensor {app.name}_drift: image {image.number} is due",
    )
    return [request] if request else [], wait


def report_news(instance: dg.DagsterInstance, app: App, project: Project) -> None:
    """Report the newest commit and model as the sensors do, where none runs.

    A model that the `model` asset published is its own materialization already.
    """
    commit = project.source.newest()
    news = [(commit.sha, commit_event(app, commit, project.source))]
    version = project.models.latest()
    if version and not made_here(version):
        news.append((version.digest, model_event(app, version, project)))
    for mark, event in news:
        last = instance.get_latest_data_version_record(event.asset_key)
        known = _data_version(last)
        if known != mark:
            instance.report_runless_asset_event(event)


def _data_version(record: dg.EventLogRecord | None) -> str | None:
    """The data version of a materialization's record, or None."""
    materialization = record.asset_materialization if record else None
    return (materialization.tags or {}).get("dagster/data_version") if materialization else None


def _result(
    context: dg.SensorEvaluationContext,
    app: App,
    planned: plan.Plan,
    *,
    mark: str,
    event: Callable[[], dg.AssetMaterialization] | None,
    trigger: str,
    config: Mapping[str, object],
) -> dg.SensorResult:
    """Report what was not reported yet, and ask for the run that is needed."""
    seen = _seen(context.cursor)
    asset_events = [event()] if event and seen.last != mark else []
    requests, skip = [], planned.reason
    if planned.key:
        request, wait = tries.request(
            context.instance, app, planned.key, trigger=trigger, config=config
        )
        requests = [request] if request else []
        skip = f"{planned.reason}; {wait}"
    return dg.SensorResult(
        asset_events=asset_events,
        run_requests=requests,
        skip_reason=None if requests else skip,
        cursor=msgspec.json.encode(Seen(mark, planned.reason if planned.settled else "")).decode(),
    )


def _seen(cursor: str | None) -> Seen:
    try:
        return msgspec.json.decode(cursor or "{}", type=Seen)
    except msgspec.DecodeError:
        return Seen()  # a cursor of another version counts as lost
