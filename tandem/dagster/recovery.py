"""Runs whose process is gone are ended, and what they held is freed.

A killed run cannot end itself: in Dagster it stays STARTED, keeps its slots and its place as the
one run of its app. Each run therefore names its process in a tag (`tandem.dagster.resources`).
"""

import contextlib
import datetime
import fcntl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

import dagster as dg

from tandem.dagster import keys
from tandem.release.app import App
from tandem.util import processes
from tandem.util.files import locked

PROCESS = "tandem/process"
"""The tag with the identity of the process that executes the run."""
PASSED = "the run was on for longer than a run may be"
GONE = "the process of this run is gone (killed, or its machine was restarted)"
LONGEST = 7200
"""Seconds that a run may take; dagster.yaml says the same to the daemon."""
_UNNAMED_SECONDS = 60.0
"""A run that has not named its process by then has died on its way there."""
_ON = [
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


@contextlib.contextmanager
def opened(home: Path) -> Iterator[dg.DagsterInstance]:
    """Dagster's instance of that folder; its tables are made by one at a time.

    Two that make them at the same moment fail each other ("table already exists").
    """
    with locked(home / "opening.lock"):
        instance = dg.DagsterInstance.from_config(str(home))
        with contextlib.ExitStack() as until_known:
            until_known.callback(instance.dispose)
            instance.get_runs(limit=1)
            instance.fetch_run_status_changes(dg.DagsterEventType.RUN_SUCCESS, limit=1)
            until_known.pop_all()
    with instance:
        yield instance


def name_process(instance: dg.DagsterInstance, run_id: str) -> None:
    """Write on the run which process executes it: this one."""
    instance.add_run_tags(run_id, {PROCESS: processes.identity()})


def is_dead(run: dg.DagsterRun) -> bool:
    """Whether the process that the run named is known to be gone."""
    mark = run.tags.get(PROCESS)
    return mark is not None and processes.alive(mark) is False


def end_dead_runs(instance: dg.DagsterInstance) -> list[str]:
    """End the runs whose process is gone, free what they held, and describe them.

    A run of another machine or container, and one that hangs, is left to its greatest duration,
    which ends here where no daemon sees to it.
    """
    ended = []
    statuses = [*_ON, dg.DagsterRunStatus.NOT_STARTED]
    records = instance.get_run_records(dg.RunsFilter(statuses=statuses))
    for record in records:
        run = record.dagster_run
        age = time.time() - record.update_timestamp.timestamp()
        unnamed = (
            run.status in _ON
            and PROCESS not in run.tags
            and _is_ours(run)
            and age > _UNNAMED_SECONDS
        )
        passed = run.status in _ON and _is_passed(record)
        if not (is_dead(run) or unnamed or passed):
            continue
        why = PASSED if passed else GONE
        if passed:
            processes.kill(run.tags[PROCESS])
        if run.status == dg.DagsterRunStatus.CANCELING:
            instance.report_run_canceled(run, why)
        else:
            instance.report_run_failed(run, why)
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
        end_log_followers(run.run_id)
        short = "its time is over" if passed else "its process is gone"
        ended.append(f"run {run.run_id[:8]} ({run.job_name}): {short}")
    return ended


def end_log_followers(run_id: str) -> None:
    """End the `tail`s that Dagster started for a run's output and left behind.

    Dagster starts one per stream, and a moment later who ends it with the run: a kill in between
    leaves it for ever.
    """
    import psutil

    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or [""]
        if words[0] == "tail" and f"/{run_id}/compute_logs/" in words[-1]:
            with contextlib.suppress(psutil.Error):
                process.kill()


def wait_for_turn(
    instance: dg.DagsterInstance,
    app: App,
    say: Callable[[str], None],
    *,
    poll: float = 1.0,
) -> None:
    """Return when no other run of the app is on; says for whom it waits.

    Runs that are only queued are not waited for: without a daemon they never start.
    """
    reported = ""
    while True:
        for ended in end_dead_runs(instance):
            say(f"ended {ended}")
        records = instance.get_run_records(
            dg.RunsFilter(tags={"tandem/app": app.name}, statuses=_ON), limit=1
        )
        if not records:
            return
        run = records[0].dagster_run
        process = run.tags.get(PROCESS, "").split("/")
        where = f", process {process[2]}" if len(process) in (4, 5) else ""
        if reported != run.run_id:
            since = datetime.datetime.fromtimestamp(_started(records[0])).strftime("%H:%M")
            trigger = run.tags.get("tandem/trigger", "")
            say(
                f"waiting for run {run.run_id[:8]} ({run.job_name}{where}, started {since}): "
                f"{trigger}"
            )
            reported = run.run_id
        time.sleep(poll)


@contextlib.contextmanager
def only_release(
    instance: dg.DagsterInstance, app: App, say: Callable[[str], None], *, poll: float = 0.2
) -> Iterator[None]:
    """Hold the app's lock: two `make release` at the same moment would see no run.

    The kernel lets go when the holder dies, however it dies.
    """
    path = Path(instance.root_directory) / f"release-{app.name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        reported = ""
        while not _locked(file):
            file.seek(0)
            holder = file.read().strip()
            if holder and holder != reported:
                say(f"waiting for another release of {app.name} ({holder})")
                reported = holder
            time.sleep(poll)
        file.truncate(0)
        now = datetime.datetime.now().strftime("%H:%M")
        file.write(f"process {processes.identity().split('/')[2]}, started {now}")
        file.flush()
        yield


def _locked(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def prune_runs(instance: dg.DagsterInstance, *, keep: int) -> int:
    """Remove ended runs beyond the newest `keep`, with their events; returns how many.

    What was released is in the store: Dagster's records are a view of it.
    """
    ended = [
        dg.DagsterRunStatus.SUCCESS,
        dg.DagsterRunStatus.FAILURE,
        dg.DagsterRunStatus.CANCELED,
    ]
    removed = 0
    while True:
        runs = instance.get_runs(dg.RunsFilter(statuses=ended), limit=keep + 100)
        for run in runs[keep:]:
            instance.delete_run(run.run_id)
            removed += 1
        if len(runs) <= keep + 99:
            return removed


def _started(record: dg.RunRecord) -> float:
    return record.start_time or record.create_timestamp.timestamp()


def _is_passed(record: dg.RunRecord) -> bool:
    """Whether its time is over, and it is none of this process, which sees to its own."""
    mark = record.dagster_run.tags.get(PROCESS)
    if mark is None or mark == processes.identity():
        return False
    return time.time() - _started(record) > LONGEST + _UNNAMED_SECONDS


def _is_ours(run: dg.DagsterRun) -> bool:
    return "tandem/app" in run.tags or keys.WORK in run.tags
