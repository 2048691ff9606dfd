"""The judge: has a version opened, asked and measured by a process of its own."""

from __future__ import annotations

import atexit
import logging
import os
import queue
import threading
from collections.abc import Sequence
from pathlib import Path

import msgspec

from tandem.errors import NotFound, PackageError, SandboxError
from tandem.model.judge_job import MACHINERY, READY, Found, Job, refused
from tandem.model.judge_start import Ended, start
from tandem.model.package import HeldOut, Package
from tandem.model.repository import Repository, Version
from tandem.model.rules import Criteria

log = logging.getLogger("tandem.model.judge")

SECONDS = 30.0
SECONDS_A_ROW = 0.05
"""What a package may compute in all, and for each row that it is asked."""
WAIT = 20.0
"""How much longer, by the clock, a busy machine may take for that."""
MEMORY = 4 * 2**30
"""Bytes, beside eight times the package's own size."""
# Linux's numbers, as not every system has these signals.
_FROM_OUTSIDE = (-9, -15, -2)
_OUT_OF_TIME = -24


def examine_version(
    repository: Repository, version: Version, criteria: Criteria, cache: Path
) -> Found:
    """Fetch the version below `cache` and have it examined; raises as `run_job` does."""
    held_out = criteria.rule.read_held_out()
    try:
        package = _fetched(repository, version.number, cache)
    except PackageError as problem:
        return refused(str(problem))
    return examine_package(repository, package, version.number, criteria, cache, held_out)


def examine_package(
    repository: Repository,
    package: Package,
    number: int,
    criteria: Criteria,
    cache: Path,
    held_out: HeldOut | None = None,
) -> Found:
    """Have version `number` examined, whose files are in `package`.

    `held_out` are the application's own rows. Raises as `run_job` does.
    """
    try:
        asked = len(package.golden().inputs)
        own = package.held_out()
    except PackageError as problem:
        return refused(str(problem))
    live = None
    if criteria.champion is not None and criteria.champion != number:
        try:
            live = _fetched(repository, criteria.champion, cache)
        except (PackageError, NotFound):
            live = None
    measured_on = [held_out, own, live.held_out() if live else None]
    asked += max(len(rows.rows) if rows else 0 for rows in measured_on)
    job = Job(
        candidate=str(package.folder.resolve()),
        number=number,
        champion=str(live.folder.resolve()) if live else None,
        champion_number=criteria.champion,
        metric=criteria.rule.metric_of(package.manifest.task),
        floor=criteria.rule.floor,
        margin=criteria.rule.margin,
        least_rows=criteria.rule.least_rows,
        tolerance=criteria.rule.tolerance,
        lock=dict(criteria.lock) if criteria.lock is not None else None,
        held_out=held_out,
        trust=sorted(criteria.trust),
        seconds=int(SECONDS + SECONDS_A_ROW * asked),
    )
    return run_job(job, package.size, cache, modules=criteria.modules)


def _fetched(repository: Repository, number: int, cache: Path) -> Package:
    # Beside the packages for images, which hold no held-out rows.
    folder = Path(cache) / "judged" / f"{repository.name}-{number:06}"
    package = repository.fetch(number, folder, with_evaluation=True)
    os.utime(folder)  # what is not used for long is removed
    return package


def run_job(job: Job, size: int, cache: Path, *, modules: Sequence[Path] = ()) -> Found:
    """What the judge says of the job, of packages below `cache`.

    Raises `SandboxError` when it could not say anything.
    """
    done = None
    # One that was started ahead knows nothing of the application's own modules.
    if not modules and (ahead := _ahead.pop(cache, None)):
        done = ahead.judge(job, size)
    if done is None or not done.stdout.startswith(READY):
        shown = [Path(folder) for folder in (job.candidate, job.champion) if folder]
        done = start(
            msgspec.json.encode(job),
            shown,
            seconds=WAIT * job.seconds,
            memory=MEMORY + 8 * size,
            modules=modules,
        )
    return _said(job, done)


def _said(job: Job, done: Ended) -> Found:
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    last = lines[-1][:200] if lines else ""
    if not done.stdout.startswith(READY) or done.code == MACHINERY or done.code in _FROM_OUTSIDE:
        how = done.stopped or f"exit code {done.code}"
        raise SandboxError(
            f"v{job.number} could not be judged: the judge ended before its time ({how}): {last}"
        )
    if done.code == _OUT_OF_TIME:
        return refused(f"takes more than {job.seconds} s of computing to be asked")
    if done.stopped:
        return refused(f"was stopped: it {done.stopped}")
    if done.code != 0:
        how = f"signal {-done.code}" if done.code and done.code < 0 else f"exit {done.code}"
        return refused(f"ends the process that asks it ({how}): {last}")
    try:
        found = msgspec.json.decode(done.stdout[len(READY) :], type=Found)
    except (msgspec.MsgspecError, RecursionError):
        return refused("the process that asks it ended without a verdict")
    if found.measured and not found.measured.is_whole():
        # What that process says is believed no further than it can be shown.
        return msgspec.structs.replace(found, measured=None)
    return found


class _Ahead:
    """A judge started before there was anything to judge: its imports take seconds."""

    def __init__(self, cache: Path) -> None:
        self._jobs: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[Ended | None] = queue.SimpleQueue()
        self._shown = cache / "judged"
        self._shown.mkdir(parents=True, exist_ok=True)
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            done = start(
                self._jobs.get, [self._shown], seconds=AHEAD, memory=MEMORY, option="--ahead"
            )
        except (SandboxError, OSError) as problem:
            log.info("no judge was started ahead: %s", problem)
            self._done.put(None)
        else:
            self._done.put(done)

    def judge(self, job: Job, size: int) -> Ended | None:
        """How it ended over the job; None where this is not the one for it."""
        if size > _SMALL:
            self.end()
            return None
        self._jobs.put(msgspec.json.encode(job))
        return self._done.get()

    def end(self) -> None:
        """Let it go: there is nothing to judge."""
        self._jobs.put(b"")
        self._done.get()


AHEAD = 3600.0
_SMALL = 64 * 2**20
_ahead: dict[Path, _Ahead] = {}


def start_ahead(cache: Path) -> None:
    """Start a judge for packages below `cache`, as this process will need one soon."""
    if cache not in _ahead:
        _ahead[cache] = _Ahead(cache)


def end_ahead() -> None:
    """Let go of the judges that were started and not needed."""
    while _ahead:
        _ahead.popitem()[1].end()


atexit.register(end_ahead)
