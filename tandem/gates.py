"""Whether a published version may go live: loaded with care, asked, and compared with the champion
on the same rows.

A published package is untrusted, so it is opened in a process of its own (`python -m tandem.gates`)
with bounded memory and time, without this process's environment: what a crafted file crashes there
is a refusal, no more. A verdict is stored beside the version, `models/NAME/verdicts/000017.json`,
and read back by whoever needs it.
"""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tandem import package as packages
from tandem.errors import Conflict, NotFound, PackageError, TandemError
from tandem.evaluation import (
    Measured,
    Speed,
    Truth,
    check_metric,
    evaluate,
    lower_is_better,
    metric_of,
    metrics_of,
    microseconds,
    resamples,
)
from tandem.package import HeldOut, Manifest, Package
from tandem.repository import Repository, Version

CHECKS = ("good_enough", "loads_safely", "answers_match")
MARGIN = 0.02
"""How much worse than the champion a candidate may be: in the metric's unit for shares and scores,
relative for errors.
"""
SECONDS = 300.0
MEMORY = 16 * 2**30
ONE_SIDED = 0.05


class Check(msgspec.Struct, frozen=True):
    """One question and its outcome; `summary` is a line for people, `details` for programs."""

    name: str
    passed: bool
    summary: str
    details: dict[str, Any] = {}


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the version was accepted, by which checks, or by whom in spite of `good_enough`."""

    version: int
    digest: str
    accepted: bool
    checks: list[Check]
    judged_at: str
    champion: int | None = None
    measured: Measured | None = None
    overruled_by: str = ""
    overruled_reason: str = ""

    @property
    def reason(self) -> str:
        """Why it was refused, or accepted in spite of a check."""
        if self.overruled_by:
            return f"accepted by {self.overruled_by}: {self.overruled_reason}"
        return "; ".join(check.summary for check in self.checks if not check.passed)


def judge(
    repository: Repository,
    number: int,
    *,
    floor: float,
    metric: str = "accuracy",
    champion: int | None = None,
    margin: float = MARGIN,
    cache: Path,
    lock: Mapping[str, str] | None = None,
    again: bool = False,
) -> Verdict:
    """The stored verdict on version `number`, or a new one, then stored.

    `floor`: what `metric` must reach on the held-out rows (for an error like "mae": what it may be
    at most). `champion`: the live version, which it must not be worse than by more than `margin`,
    with 95 % confidence. `lock`: the application's library versions. Being refused is a result;
    raises `NotFound` and `StorageError`.
    """
    if not again and (stored := verdict(repository, number)):
        return stored
    check_metric(metric)
    version = repository.version(number)
    found = _found(repository, version, floor, metric, champion, margin, cache, lock)
    result = Verdict(
        version=number,
        digest=version.digest,
        accepted=all(check.passed for check in found.checks),
        checks=found.checks,
        judged_at=_now(),
        champion=champion,
        measured=found.measured,
    )
    key = _key(repository, number)
    try:
        repository.store.put(key, msgspec.json.encode(result), if_absent=not again)
    except Conflict:
        # Somebody judged it at the same moment: one verdict counts, the first.
        return verdict(repository, number) or result
    return result


def verdict(repository: Repository, number: int) -> Verdict | None:
    """The stored verdict on version `number`, if it was judged."""
    try:
        data, _ = repository.store.read(_key(repository, number))
    except NotFound:
        return None
    return _decode(data, _key(repository, number))


def overrule(repository: Repository, number: int, *, by: str, reason: str) -> Verdict:
    """Accept a version that was not good enough; `by` and `reason` stay in its verdict.

    Raises `PackageError` when it was not judged, was accepted anyway, or was refused for its safety
    or its answers: nobody can overrule those.
    """
    if not by.strip() or not reason.strip():
        raise PackageError("overruling a verdict takes a name and a reason")
    key = _key(repository, number)
    try:
        data, etag = repository.store.read(key)
    except NotFound:
        raise PackageError(f"v{number} of {repository.name} was not judged yet") from None
    before = _decode(data, key)
    if before.accepted:
        raise PackageError(f"v{number} of {repository.name} is accepted already")
    for check in before.checks:
        if not check.passed and check.name != "good_enough":
            raise PackageError(f"v{number}: {check.name} cannot be overruled: {check.summary}")
    after = msgspec.structs.replace(
        before, accepted=True, overruled_by=by.strip(), overruled_reason=reason.strip()
    )
    repository.store.put(key, msgspec.json.encode(after), if_match=etag)
    return after


def newest_accepted(
    repository: Repository, judge_missing: Callable[[int], Verdict] | None = None
) -> tuple[Version | None, list[tuple[int, str]]]:
    """The newest accepted version, and the newer ones that are not, each with the reason.

    `judge_missing` is asked for a verdict where none is stored; without it such a version is passed
    over.
    """
    passed_over: list[tuple[int, str]] = []
    for version in repository.versions():
        found = verdict(repository, version.number)
        if found is None and judge_missing is not None:
            found = judge_missing(version.number)
        if found is not None and found.accepted:
            return version, passed_over
        passed_over.append((version.number, found.reason if found else "not judged yet"))
    return None, passed_over


# --- in this process ------------------------------------------------------------------------------


class _Job(msgspec.Struct, frozen=True, kw_only=True):
    """What the judging process is told on its standard input."""

    candidate: str
    number: int
    champion: str | None
    champion_number: int | None
    metric: str
    floor: float
    margin: float
    lock: dict[str, str] | None


class _Found(msgspec.Struct, frozen=True):
    """What the judging process answers."""

    checks: list[Check]
    measured: Measured | None = None


def _found(
    repository: Repository,
    version: Version,
    floor: float,
    metric: str,
    champion: int | None,
    margin: float,
    cache: Path,
    lock: Mapping[str, str] | None,
) -> _Found:
    try:
        package = _fetched(repository, version.number, cache)
    except PackageError as problem:
        return _refused(str(problem))
    live = None
    if champion is not None and champion != version.number:
        try:
            live = _fetched(repository, champion, cache)
        except (PackageError, NotFound):
            live = None
    job = _Job(
        candidate=str(package.folder.resolve()),
        number=version.number,
        champion=str(live.folder.resolve()) if live else None,
        champion_number=champion,
        metric=metric,
        floor=floor,
        margin=margin,
        lock=dict(lock) if lock is not None else None,
    )
    return _run(job)


def _fetched(repository: Repository, number: int, cache: Path) -> Package:
    # Beside the packages for images, which hold no held-out rows.
    folder = Path(cache) / "judged" / f"{repository.name}-{number:06}"
    return repository.fetch(number, folder, with_evaluation=True)


def _run(job: _Job) -> _Found:
    root = Path(packages.__file__).parents[1]
    with tempfile.TemporaryDirectory(prefix="tandem-judge-") as folder:
        try:
            done = subprocess.run(
                [sys.executable, "-m", "tandem.gates"],
                input=msgspec.json.encode(job),
                capture_output=True,
                timeout=SECONDS,
                cwd=folder,
                # Nothing of ours: what a package might run must find no credentials.
                env={
                    "PATH": os.defpath,
                    "HOME": folder,
                    "PYTHONPATH": os.pathsep.join([str(root), *_site()]),
                    "PYTHONDONTWRITEBYTECODE": "1",
                    "OPENBLAS_NUM_THREADS": "2",
                    "OMP_NUM_THREADS": "2",
                },
            )
        except subprocess.TimeoutExpired:
            return _refused(f"does not answer within {SECONDS:.0f} s")
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        how = f"signal {-done.returncode}" if done.returncode < 0 else f"exit {done.returncode}"
        return _refused(
            f"ends the process that asks it ({how}): {lines[-1][:200] if lines else ''}"
        )
    try:
        found = msgspec.json.decode(done.stdout, type=_Found)
    except msgspec.MsgspecError:
        return _refused("the process that asks it ended without a verdict")
    if found.measured and not found.measured.is_whole():
        # What that process says is believed no further than it can be shown.
        return msgspec.structs.replace(found, measured=None)
    return found


def _site() -> list[str]:
    # Where this process found its libraries, in case it was not through its interpreter alone.
    return [path for path in sys.path if path.endswith("site-packages")]


def _refused(why: str) -> _Found:
    others = "not asked, because it does not load"
    return _Found(
        [
            Check("good_enough", False, others),
            Check("loads_safely", False, why),
            Check("answers_match", False, others),
        ]
    )


def _key(repository: Repository, number: int) -> str:
    return f"{repository.prefix}/verdicts/{number:06}.json"


def _decode(data: bytes, key: str) -> Verdict:
    try:
        return msgspec.json.decode(data, type=Verdict)
    except msgspec.MsgspecError as problem:
        raise PackageError(f"{key}: not a verdict: {problem}") from None


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


# --- in the judging process -----------------------------------------------------------------------


def _main() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=_Job)
    # What a library prints must not get between the checks.
    answer = os.dup(1)
    os.dup2(2, 1)
    found = found_by(job)
    with open(answer, "wb") as stream:  # noqa: PTH123 - a descriptor
        stream.write(msgspec.json.encode(found))


def found_by(job: _Job) -> _Found:
    """All three checks on the packages in the job's folders, and what the candidate can do."""
    try:
        candidate = _Asked(packages.read(job.candidate), job.lock)
        golden = candidate.package.golden()
        rows = packages.as_array(candidate.manifest, golden.inputs)
        loads = candidate.loads(rows)
    except (PackageError, MemoryError) as problem:
        return _refused(str(problem) or "needs more memory than is allowed")
    matches = candidate.matches(rows, np.asarray(golden.answers), golden.tolerance)
    champion = None
    why_alone = ""
    if job.champion is not None:
        try:
            champion = _Asked(packages.read(job.champion), None)
        except TandemError as problem:
            why_alone = f"the champion v{job.champion_number} cannot be asked: {problem}"
    elif job.champion_number is not None and job.champion_number != job.number:
        why_alone = f"the champion v{job.champion_number} is no longer there to be asked"
    checks = [_good_enough(job, candidate, champion, why_alone), loads, matches]
    return _Found(checks, _measured(candidate, champion, rows))


class _Asked:
    """A package with its predictors opened."""

    def __init__(self, package: Package, lock: Mapping[str, str] | None) -> None:
        self.package = package
        self.manifest: Manifest = package.manifest
        packages.check_libraries(self.manifest, lock)
        self.predictor = packages.open_predictor(package)
        self.other = None
        self.why_no_other = ""
        if self.predictor.runtime == "onnx" and package.has(packages.SKOPS):
            try:
                estimator_needs = msgspec.structs.replace(self.manifest, runtime="sklearn")
                packages.check_libraries(estimator_needs, None)
            except PackageError as problem:
                self.why_no_other = str(problem)
            else:
                self.other = packages.open_predictor(package, runtime="sklearn")

    def answers(self, rows: NDArray[Any]) -> NDArray[Any]:
        return _checked(self.manifest, self.predictor.predict(rows), len(rows))

    def loads(self, rows: NDArray[Any]) -> Check:
        self.answers(rows[:1])
        files = ", ".join(f"{file.path} {file.size} bytes" for file in self.manifest.files)
        held = (
            "the estimator holds only trusted types"
            if self.other is not None or self.predictor.runtime == "sklearn"
            else f"no estimator was opened ({self.why_no_other or 'there is none'})"
        )
        return Check(
            "loads_safely",
            True,
            f"every sha256 holds, {held}; answered by {self.predictor.runtime}",
            {"files": files, "libraries": dict(self.manifest.libraries)},
        )

    def speed(self, row: NDArray[Any]) -> Speed:
        """How long one row takes, as it would be served and as the estimator."""
        took = {self.predictor.runtime: microseconds(lambda: self.predictor.predict(row))}
        if (other := self.other) is not None:
            took[other.runtime] = microseconds(lambda: other.predict(row))
        return Speed(onnx=took.get("onnx"), sklearn=took.get("sklearn"))

    def matches(self, rows: NDArray[Any], recorded: NDArray[Any], tolerance: float) -> Check:
        """Recorded against answered now; ONNX against scikit-learn, on the held-out rows too."""
        try:
            recorded = recorded.reshape(self.answers(rows).shape)
            worst = _difference(self.answers(rows), recorded)
            compared = len(rows)
            if self.other is not None:
                held_out = self.package.held_out()
                if held_out is not None:
                    rows = np.concatenate([rows, packages.as_array(self.manifest, held_out.rows)])
                theirs = _checked(self.manifest, self.other.predict(rows), len(rows))
                worst = max(worst, _difference(self.answers(rows), theirs))
                compared = len(rows)
        except (PackageError, ValueError) as problem:
            return Check("answers_match", False, f"does not answer its golden rows: {problem}")
        passed = worst <= tolerance
        how = "ONNX as scikit-learn, and both as recorded" if self.other else "as recorded"
        text = f"{compared} rows answered {how}, largest difference {worst:.1e}"
        if not passed:
            text = f"answers differ by {worst:.2g}, more than {tolerance:.2g}, on {compared} rows"
        if self.why_no_other:
            text += f" (ONNX alone: {self.why_no_other})"
        details = {"rows": compared, "difference": worst, "tolerance": tolerance}
        return Check("answers_match", passed, text, details)


def _checked(manifest: Manifest, answers: NDArray[Any], rows: int) -> NDArray[Any]:
    answers = np.asarray(answers, dtype=np.float64)
    if answers.shape[:1] != (rows,):
        raise PackageError(f"answers {list(answers.shape)} to {rows} rows")
    if manifest.task == "classification" and answers.shape != (rows, len(manifest.labels)):
        raise PackageError(f"answers {list(answers.shape)} for {len(manifest.labels)} labels")
    if not np.all(np.isfinite(answers)):
        raise PackageError("answers NaN or infinity")
    return answers


def _difference(one: NDArray[Any], other: NDArray[Any]) -> float:
    return float(np.max(np.abs(one - other), initial=0.0))


def _measured(candidate: _Asked, champion: _Asked | None, rows: NDArray[Any]) -> Measured | None:
    """For the asset page, whatever the checks said; None where it does not answer its own rows."""
    try:
        measured = Measured(speed=candidate.speed(rows[:1]))
        held_out, _ = _held_out(candidate, champion)
        if held_out is None:
            return measured
        asked = packages.as_array(candidate.manifest, held_out.rows)
        of_candidate = evaluate(candidate.manifest, held_out, candidate.answers(asked))
        measured = msgspec.structs.replace(of_candidate, speed=measured.speed)
        if champion is None or not _same_rows(candidate, champion):
            return measured
        try:
            theirs = metrics_of(champion.manifest, held_out, champion.answers(asked))
        except (PackageError, ValueError):
            return measured
        return msgspec.structs.replace(measured, champion=theirs)
    except (PackageError, ValueError):
        return None


def _held_out(candidate: _Asked, champion: _Asked | None) -> tuple[HeldOut | None, bool]:
    """The rows to measure on, and whether they are the candidate's own or else the champion's."""
    own = candidate.package.held_out()
    if own is None and champion is not None and _same_rows(candidate, champion):
        return champion.package.held_out(), False
    return own, True


def _good_enough(job: _Job, candidate: _Asked, champion: _Asked | None, why_alone: str) -> Check:
    name, asked = "good_enough", job.metric
    held_out, own = _held_out(candidate, champion)
    if held_out is None:
        return _by_its_own_word(job, candidate, champion)
    whose = job.number if own else job.champion_number or 0
    try:
        truth = Truth(candidate.manifest, held_out)
        rows = packages.as_array(candidate.manifest, held_out.rows)
        ours = truth.losses(candidate.manifest, candidate.answers(rows), asked)
    except (PackageError, ValueError) as problem:
        return Check(name, False, f"cannot be measured on its held-out rows: {problem}")
    picks = resamples(len(rows))
    value = metric_of(ours, asked, None)
    low, high = np.quantile(metric_of(ours, asked, picks), [0.025, 0.975])
    details: dict[str, Any] = {
        "metric": asked,
        "value": value,
        "interval_95": [float(low), float(high)],
        "floor": job.floor,
        "rows": len(rows),
        "held_out_of": whose,
        "told": candidate.manifest.metrics.get(asked),
    }
    text = f"{asked} {value:.4f} on {len(rows)} held-out rows (95 %: {low:.4f} to {high:.4f})"
    enough = value <= job.floor if lower_is_better(asked) else value >= job.floor
    if not enough:
        bound = "at most" if lower_is_better(asked) else "at least"
        return Check(name, False, f"{text}, want {bound} {job.floor:g}", details)
    text += f", floor {job.floor:g}"
    if champion is None or not _same_rows(candidate, champion):
        if champion is not None:
            why_alone = f"the champion v{job.champion_number} takes other rows"
        return Check(name, True, f"{text}{'; ' + why_alone if why_alone else ''}", details)
    try:
        theirs = truth.losses(champion.manifest, champion.answers(rows), asked)
    except (PackageError, ValueError) as problem:
        text += f"; the champion v{job.champion_number} cannot be asked: {problem}"
        return Check(name, True, text, details)
    best = metric_of(theirs, asked, None)
    gains = metric_of(ours, asked, picks) - metric_of(theirs, asked, picks)
    gain = value - best
    margin = job.margin
    if lower_is_better(asked):
        gain, gains, margin = -gain, -gains, margin * abs(best)
    surely = float(np.quantile(gains, ONE_SIDED))
    details |= {
        "champion": job.champion_number,
        "champion_value": best,
        "gain": gain,
        "gain_at_least": surely,
        "margin": margin,
    }
    not_worse = surely >= -margin
    text += (
        f"; champion v{job.champion_number} {best:.4f} on the same rows: gain {gain:+.4f}, "
        f"with 95 % confidence at least {surely:+.4f}"
    )
    if not not_worse:
        text += f", which may be worse by more than the margin {margin:g}"
    return Check(name, not_worse, text, details)


def _by_its_own_word(job: _Job, candidate: _Asked, champion: _Asked | None) -> Check:
    """Without held-out rows only what the manifests tell can be compared; the summary says so."""
    told = candidate.manifest.metrics.get(job.metric)
    if told is None:
        return Check(
            "good_enough",
            False,
            f"it holds no held-out rows and tells no {job.metric}: "
            "publish it with held_out=(rows, truth)",
        )
    lower = lower_is_better(job.metric)
    text = (
        f"{job.metric} {told:.4f} by its own word (no held-out rows to measure on), "
        f"floor {job.floor:g}"
    )
    enough = told <= job.floor if lower else told >= job.floor
    best = champion.manifest.metrics.get(job.metric) if champion else None
    if enough and best is not None:
        margin = job.margin * abs(best) if lower else job.margin
        enough = told <= best + margin if lower else told >= best - margin
        text += f"; champion v{job.champion_number} {best:.4f} by its word, margin {margin:g}"
    details = {"metric": job.metric, "value": told, "floor": job.floor, "champion_value": best}
    return Check("good_enough", enough, text, details)


def _same_rows(one: _Asked, other: _Asked) -> bool:
    ours, theirs = one.manifest, other.manifest
    shapes = [
        [(f.dtype == "str", f.shape) for f in manifest.features] for manifest in (ours, theirs)
    ]
    return ours.task == theirs.task and ours.layout == theirs.layout and shapes[0] == shapes[1]


if __name__ == "__main__":
    _main()
