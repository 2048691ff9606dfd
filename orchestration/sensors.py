"""Sensors: a new commit starts a build, a new model an image; an idle tick says why."""

from collections.abc import Callable

import dagster as dg
import msgspec

from orchestration import keys
from orchestration.apps import App
from orchestration.assets.commit import commit_event
from orchestration.assets.model import made_here, model_event
from orchestration.checks import evaluation, truth_proof
from orchestration.resources import Tandem
from tandem import pending, steps
from tandem.errors import TandemError
from tandem.project import Project

_SECONDS = 5
_TRIES = 3
_TRUTH_SECONDS = 30


class Seen(msgspec.Struct, frozen=True):
    """A sensor's cursor: what it reported last, so that it is reported once, and, where only
    something newer can change it, why there was nothing to do.
    """

    last: str = ""
    settled: str = ""


def build_sensors(app: App) -> list[dg.SensorDefinition]:
    """`APP_new_commit`, `APP_new_model` and `APP_truth`."""
    return [_new_commit(app), _new_model(app), _truth(app)]


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
        try:
            project = tandem.project(app)
            found = pending.build(project)
        except TandemError as problem:
            # A vanished branch or a remote that is away changes nothing; the next tick asks again.
            return dg.SkipReason(str(problem))
        commit = found.commit
        build_config = {"ops": {f"{app.name}__app_build": {"config": {"commit": commit.sha}}}}
        return _result(
            context,
            app,
            found,
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
        try:
            project = tandem.project(app)
            version = project.models.latest()
            seen = _seen(context.cursor)
            if version and seen.settled and seen.last == version.digest:
                # A tick with nothing new costs what finding the newest version costs.
                return dg.SkipReason(seen.settled)
            found = pending.image(project, version)
        except TandemError as problem:
            return dg.SkipReason(str(problem))
        if version is None:
            return dg.SkipReason(found.reason)
        return _result(
            context,
            app,
            found,
            mark=version.digest,
            # What the `model` asset published is its own materialization already.
            event=None if made_here(version) else lambda: model_event(app, version, project),
            trigger=f"sensor {app.name}_new_model: model v{version.number}",
            config={},
        )

    return new_model


def _truth(app: App) -> dg.SensorDefinition:
    @dg.sensor(
        name=f"{app.name}_truth",
        target=dg.AssetSelection.assets(keys.key(app, "deployment")),
        minimum_interval_seconds=_TRUTH_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Compares record, target, registry and service; reports what was changed.",
    )
    def truth(
        context: dg.SensorEvaluationContext, tandem: Tandem
    ) -> dg.SensorResult | dg.SkipReason:
        try:
            proof = truth_proof(steps.truth(tandem.project(app)))
        except TandemError as problem:
            return dg.SkipReason(str(problem))
        # Only what is news is reported: an event every half minute would bury all others. What a
        # run has found since counts, too.
        record = context.instance.get_latest_asset_check_evaluation_record(
            dg.AssetCheckKey(keys.key(app, "deployment"), proof.name)
        )
        last = record.evaluation if record else None
        told = last and (last.passed, last.description)
        known = told == (proof.passed, proof.summary)
        events = [] if known else [evaluation(app, "deployment", proof, blocking=False)]
        return dg.SensorResult(
            asset_events=events,
            skip_reason=proof.summary,
        )

    return truth


def report_news(instance: dg.DagsterInstance, app: App, project: Project) -> None:
    """Report the newest commit and a model published from elsewhere, as the sensors do, where none
    runs.
    """
    commit = project.source.newest()
    news = [(commit.sha, commit_event(app, commit, project.source))]
    version = project.models.latest()
    if version and not made_here(version):
        news.append((version.digest, model_event(app, version, project)))
    for mark, event in news:
        last = instance.get_latest_data_version_record(event.asset_key)
        known = dg_data_version(last)
        if known != mark:
            instance.report_runless_asset_event(event)


def dg_data_version(record: object) -> str | None:
    """The data version of an event record, or None."""
    materialization = getattr(record, "asset_materialization", None)
    return (materialization.tags or {}).get("dagster/data_version") if materialization else None


def _result(
    context: dg.SensorEvaluationContext,
    app: App,
    found: pending.Pending,
    *,
    mark: str,
    event: Callable[[], dg.AssetMaterialization] | None,
    trigger: str,
    config: dict[str, object],
) -> dg.SensorResult:
    """Report what was not reported yet, and ask for the run that is needed, once.

    The run key is made of what the run would start from, not of the cursor: a tick that is
    evaluated twice asks for one
    run, a lost cursor asks for none that was made, a rewound branch asks anew, and a run that
    failed for reasons of its
    own (not a red test, not a refused model: those are results) is tried again a few times.
    """
    seen = _seen(context.cursor)
    asset_events = [event()] if event and seen.last != mark else []
    requests, skip = [], found.reason
    if found.key:
        failed = len(
            context.instance.get_runs(
                dg.RunsFilter(
                    tags={"tandem/work": found.key}, statuses=[dg.DagsterRunStatus.FAILURE]
                ),
                limit=_TRIES,
            )
        )
        if failed < _TRIES:
            requests = [
                dg.RunRequest(
                    run_key=f"{found.key}-{failed}",
                    run_config=config,
                    tags={**keys.run_tags(app, trigger), "tandem/work": found.key},
                )
            ]
        else:
            skip = (
                f"{found.reason}, but its run failed {failed} times: mend that, and run the job "
                "by hand"
            )
    return dg.SensorResult(
        asset_events=asset_events,
        run_requests=requests,
        skip_reason=None if requests else skip,
        cursor=msgspec.json.encode(Seen(mark, found.reason if found.settled else "")).decode(),
    )


def _seen(cursor: str | None) -> Seen:
    try:
        return msgspec.json.decode(cursor or "{}", type=Seen)
    except msgspec.DecodeError:
        return Seen()  # a cursor of another version counts as lost
