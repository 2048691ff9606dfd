"""Runs those of Dagster's own jobs that are needed to put the newest pair live."""

import contextlib
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator

import dagster as dg
import msgspec

from tandem.dagster import keys, recovery
from tandem.dagster.sensors import report_news
from tandem.release import housekeeping, plan
from tandem.release.app import App
from tandem.release.clean_up import sweep
from tandem.release.judging import expect_judging
from tandem.release.project import Project
from tandem.util import processes


class Ran(msgspec.Struct, frozen=True, kw_only=True):
    """One job that was run: its steps with their seconds."""

    job: str
    run_id: str
    success: bool
    seconds: float
    steps: dict[str, float]
    error: str = ""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What was run, whether all of it went well, and why there was nothing more to do."""

    changed: bool
    good: bool
    reason: str
    jobs: list[Ran]


def release_needed(
    defs: dg.Definitions,
    app: App,
    project: Project,
    instance: dg.DagsterInstance,
    *,
    say: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Train without a model, build what has no image, release what is not live.

    A red commit or a refused model stops its own way only: what was good before is still released.
    Raises `TandemError` when store, source or target cannot be asked.
    """
    ran: list[Ran] = []

    def run(what: str, why: str) -> None:
        job = keys.job_name(app, what)
        recovery.wait_for_turn(instance, app, say)
        say(f"{job}: {why}")
        ran.append(
            _run_job(
                defs,
                job,
                instance,
                {**keys.run_tags(app, "tandem release"), recovery.PROCESS: processes.identity()},
            )
        )

    with recovery.only_release(instance, app, say):
        recovery.wait_for_turn(instance, app, say)
        for swept in sweep(project):
            say(swept)
        report_news(instance, app, project)
        if app.train and project.models.latest() is None:
            run("train", f"the store holds no model {app.name} yet")
        build = plan.build(project)
        if build.key:
            run("build", build.reason)
        image = plan.image(project, project.models.latest())
        if image.key:
            if image.unjudged:
                # What judges takes seconds to import: it does so while the job is started.
                expect_judging(project)
            run("image", image.reason)
        release = plan.release(project)
        if release.image:
            run("release", release.reason)
        housekeeping.tidy_daily(project)
    return Outcome(
        changed=bool(release.image) and ran[-1].success,
        good=all(job.success for job in ran),
        reason="; ".join(
            [
                release.reason,
                *(over.reason for over in (build, image) if over.held and not over.key),
            ]
        ),
        jobs=ran,
    )


def _run_job(
    defs: dg.Definitions, job: str, instance: dg.DagsterInstance, tags: dict[str, str]
) -> Ran:
    started = time.monotonic()
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    with warnings.catch_warnings(), _bounded():
        warnings.simplefilter("ignore")
        result = defs.resolve_job_def(job).execute_in_process(
            instance=instance, raise_on_error=False, tags=tags, run_config=quiet
        )
    error = _first_error(instance, result)
    stats = instance.get_run_step_stats(result.run_id)
    took = {
        step.step_key.partition("__")[2] or step.step_key: round(step.end_time - step.start_time, 2)
        for step in sorted(stats, key=lambda step: step.start_time or 0)
        if step.start_time and step.end_time
    }
    return Ran(
        job=job,
        run_id=result.run_id,
        # A red commit or a refused model is a result of its run, and an error for who asked.
        success=not error,
        seconds=round(time.monotonic() - started, 2),
        steps=took,
        error=error,
    )


@contextlib.contextmanager
def _bounded() -> Iterator[None]:
    """End this process's run, as SIGTERM does, when it takes longer than a run may."""
    timers = [
        threading.Timer(after, os.kill, (os.getpid(), number))
        # The second for one that hangs where no signal is looked at.
        for after, number in (
            (recovery.LONGEST, signal.SIGTERM),
            (recovery.LONGEST + 60, signal.SIGKILL),
        )
    ]
    for timer in timers:
        timer.daemon = True
        timer.start()
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()


def _first_error(instance: dg.DagsterInstance, result: dg.ExecuteInProcessResult) -> str:
    """The one line that a person needs of a failed run."""
    for evaluation in result.get_asset_check_evaluations():
        if not evaluation.passed:
            return f"{evaluation.check_name}: {evaluation.description or 'did not pass'}"
    run = instance.get_run_by_id(result.run_id)
    if outcome := run.tags.get(keys.OUTCOME) if run else None:
        return outcome
    for event in result.all_events:
        if event.is_step_failure:
            error = event.step_failure_data.error
            while error and error.cause:
                error = error.cause
            lines = (error.message if error else event.message or "").strip().splitlines()
            # "module.Class: text": the class is for the log.
            return lines[0].partition(": ")[2] or lines[0] if lines else "failed"
    return ""
