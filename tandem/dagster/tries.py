"""When to request a run again: one at a time, with growing pauses, without end.

A run key never comes back, as Dagster dedupes by it for ever. It is made of the work's name and of
the try before: a tick that is evaluated twice asks for one run, a lost cursor for none that is on.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import dagster as dg
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.scheduler.instigation import TickStatus

from tandem.dagster import keys
from tandem.release.app import App

IN_PROGRESS = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
FIRST_PAUSE = 5.0
LONGEST_PAUSE = 300.0
_LOOKED_AT = 16
"""More failures in a row than that make no longer pause."""


def run_in_progress(instance: dg.DagsterInstance, app: App) -> str:
    """The run of the app that is on, in words, or nothing."""
    runs = instance.get_runs(
        dg.RunsFilter(tags={"tandem/app": app.name}, statuses=IN_PROGRESS), limit=1
    )
    return f"run {runs[0].run_id[:8]} ({runs[0].job_name})" if runs else ""


def request(
    instance: dg.DagsterInstance,
    app: App,
    work: str,
    *,
    trigger: str,
    config: Mapping[str, Any] | None = None,
    now: float | None = None,
) -> tuple[dg.RunRequest | None, str]:
    """The run to ask for; or None, and in words what is waited for.

    `now` is seconds since the epoch, as the end of a run is recorded.
    """
    if on := run_in_progress(instance, app):
        return None, f"waiting for {on}"
    records = instance.get_run_records(dg.RunsFilter(tags={keys.WORK: work}), limit=_LOOKED_AT)
    failed = 0
    for record in records:
        if record.dagster_run.status == dg.DagsterRunStatus.SUCCESS:
            break
        failed += 1
    if failed:
        ended = records[0].end_time or records[0].update_timestamp.timestamp()
        left = ended + pause(failed) - (time.time() if now is None else now)
        if left > 0:
            again = f"{left:.0f} s" if left < 90 else f"{left / 60:.0f} min"
            return None, (
                f"its run {records[0].dagster_run.run_id[:8]} failed "
                f"({failed} in a row); tried again in {again}"
            )
    before = records[0].dagster_run.run_id[:8] if records else "first"
    return dg.RunRequest(
        run_key=f"{work}-after-{before}",
        run_config=dict(config or {}),
        tags={**keys.run_tags(app, trigger), keys.WORK: work},
    ), ""


def pause(failed: int) -> float:
    """Seconds to wait after that many failures in a row: 5, 10, 20, … at most 300."""
    return min(FIRST_PAUSE * 2.0 ** (failed - 1), LONGEST_PAUSE)


def nightly_failed(instance: dg.DagsterInstance, app: App, work: str) -> bool:
    """Whether last night's release failed: its tick or its run."""
    runs = instance.get_runs(dg.RunsFilter(tags={keys.WORK: work}), limit=1)
    if runs and runs[0].status in (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED):
        return True
    if instance.schedule_storage is None:
        return False
    for state in instance.all_instigator_state(instigator_type=InstigatorType.SCHEDULE):
        if state.instigator_name == f"{app.name}_nightly":
            ticks = instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=1)
            return bool(ticks) and ticks[0].status == TickStatus.FAILURE
    return False
