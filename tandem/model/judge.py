"""Opens a published model, asks it, and measures it: `python -m tandem.model.judge`.

With `--ahead` it has imported all that it may need before it is told what to judge.

A package is untrusted, so this runs in the sandbox, a process of its own with bounded memory and
computing time. What a crafted file crashes here is a refusal, no more.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import importlib.abc
import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tandem.errors import PackageError, TandemError
from tandem.model import package as packages
from tandem.model.metrics import (
    SHARES,
    Measured,
    Speed,
    Truth,
    evaluate,
    lower_is_better,
    metric_of,
    metrics_of,
    microseconds,
    resamples,
)
from tandem.model.package import HeldOut, Manifest, Package
from tandem.model.package.rows import check_rows

READY = b"ready\n"
"""Said once all is imported: what ends the process from then on is the package's doing."""
MACHINERY = 75
"""Exit code when the machine failed (EX_TEMPFAIL of sysexits.h): no verdict on the package."""
ONE_SIDED = 0.05
_Z = 1.959964
"""Of the normal distribution, for the Wilson interval of 95 %."""
_OF_THE_MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE}


class Check(msgspec.Struct, frozen=True):
    """One question and its outcome; `summary` is a line for people, `details` for programs."""

    name: str
    passed: bool
    summary: str
    details: dict[str, Any] = {}


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What the judging process is told on its standard input; `candidate` and `champion` are
    folders.
    """

    candidate: str
    number: int
    champion: str | None
    champion_number: int | None
    metric: str
    floor: float
    margin: float
    least_rows: int
    tolerance: float
    lock: dict[str, str] | None
    held_out: HeldOut | None = None
    """The application's own held-out rows."""
    seconds: int = 0
    """Of computing, from when all is imported."""


class Found(msgspec.Struct, frozen=True):
    """What the judging process answers."""

    checks: list[Check]
    measured: Measured | None = None


def main() -> None:
    """Judge the job on standard input, and say what was found on standard output."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.meta_path.insert(0, _NoPandas())
    if "--ahead" in sys.argv:
        _import_runtimes(None)
    told = sys.stdin.buffer.read()
    if not told:
        return  # nothing is to be judged
    job = msgspec.json.decode(told, type=Job)
    _import_runtimes(job)
    used = resource.getrusage(resource.RUSAGE_SELF)
    end = math.ceil(used.ru_utime + used.ru_stime) + job.seconds
    resource.setrlimit(resource.RLIMIT_CPU, (end, end + 5))
    # What a library prints must not get between the checks.
    answer = os.dup(1)
    os.dup2(2, 1)
    os.write(answer, READY)
    try:
        found = judge(job)
    except OSError as problem:
        if problem.errno not in _OF_THE_MACHINE:
            raise
        print(problem.strerror, file=sys.stderr)
        sys.exit(MACHINERY)
    with open(answer, "wb") as stream:  # noqa: PTH123 - a descriptor
        stream.write(msgspec.json.encode(found))


class _NoPandas(importlib.abc.MetaPathFinder):
    """As in the image, which has none; scikit-learn imports it wherever it is installed."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> None:
        if fullname == "pandas":
            raise ModuleNotFoundError("pandas is not used here", name=fullname)


def _import_runtimes(job: Job | None) -> None:
    """What opening the packages will import: it costs seconds, which are not the package's."""
    wanted = ["onnxruntime"]
    if job is None or _has_estimator(job):
        wanted += ["skops.io", "sklearn.neural_network"]
    for name in wanted:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def _has_estimator(job: Job) -> bool:
    champion = Path(job.champion) if job.champion else None
    return (Path(job.candidate) / packages.SKOPS).exists() or (
        champion is not None and not (champion / packages.ONNX).exists()
    )


def judge(job: Job) -> Found:
    """The checks on the packages in the job's folders, and what the candidate can do."""
    try:
        candidate = _Asked(packages.read(job.candidate), job.lock)
        golden = candidate.package.golden()
        rows = packages.as_array(candidate.manifest, golden.inputs)
        loads = candidate.loads(rows)
    except (PackageError, MemoryError) as problem:
        return refused(str(problem) or "needs more memory than is allowed")
    champion, why_alone = None, ""
    if job.champion is not None:
        try:
            champion = _Asked(packages.read(job.champion), None, twice=False)
        except TandemError as problem:
            why_alone = f"the champion v{job.champion_number} cannot be asked: {problem}"
    elif job.champion_number is not None and job.champion_number != job.number:
        why_alone = f"the champion v{job.champion_number} is no longer there to be asked"
    try:
        exam = _exam(job, candidate, champion)
        matches = candidate.matches(
            rows, np.asarray(golden.answers), _tolerance(job, golden), exam.rows if exam else None
        )
        checks = [_good_enough(job, candidate, champion, exam, why_alone), loads, matches]
        return Found(checks, _measured(candidate, champion, rows, exam))
    except MemoryError:
        return refused("needs more memory than is allowed")


def refused(why: str) -> Found:
    """All checks failed, because it does not load."""
    others = "not asked, because it does not load"
    return Found(
        [
            Check("good_enough", False, others),
            Check("loads_safely", False, why),
            Check("answers_match", False, others),
        ]
    )


def _tolerance(job: Job, golden: packages.Golden) -> float:
    """The package's own word, as far as the application believes it: values by their size."""
    largest = max((abs(value) for answer in golden.answers for value in answer), default=0.0)
    return min(golden.tolerance, job.tolerance * max(1.0, largest))


class _Asked:
    """A package with its predictors opened."""

    def __init__(
        self, package: Package, lock: Mapping[str, str] | None, *, twice: bool = True
    ) -> None:
        self.package = package
        self.manifest: Manifest = package.manifest
        packages.check_libraries(self.manifest, lock)
        self.predictor = packages.open_predictor(package)
        self.other = None
        self.why_no_other = ""
        if twice and self.predictor.runtime == "onnx" and package.has(packages.SKOPS):
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

    def matches(
        self,
        rows: NDArray[Any],
        recorded: NDArray[Any],
        tolerance: float,
        more: NDArray[Any] | None,
    ) -> Check:
        """Recorded against answered now; ONNX against scikit-learn, on the held-out rows too."""
        try:
            given = self.answers(rows)
            worst = _difference(given, recorded.reshape(given.shape))
            compared = len(rows)
            if self.other is not None:
                if more is not None:
                    rows = np.concatenate([rows, more])
                    given = self.answers(rows)
                theirs = _checked(self.manifest, self.other.predict(rows), len(rows))
                worst = max(worst, _difference(given, theirs))
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


# --- good enough ----------------------------------------------------------------------------------


class _Exam:
    """The held-out rows that a candidate is measured on, whose they are, and what it answers."""

    def __init__(self, candidate: _Asked, held_out: HeldOut, whose: str) -> None:
        self.held_out, self.whose, self.problem = held_out, whose, ""
        self.rows: NDArray[Any] | None = None
        self.answers: NDArray[Any] | None = None
        try:
            check_rows(candidate.manifest, held_out.rows)
            self.rows = packages.as_array(candidate.manifest, held_out.rows)
            self.answers = candidate.answers(self.rows)
        except (PackageError, ValueError) as problem:
            self.problem = str(problem)


def _exam(job: Job, candidate: _Asked, champion: _Asked | None) -> _Exam | None:
    """The application's own rows, else the champion's, else the publisher's: he chooses last."""
    if job.held_out is not None:
        return _Exam(candidate, job.held_out, "the application")
    if champion is not None and _same_rows(candidate, champion):
        theirs = champion.package.held_out()
        if theirs is not None:
            return _Exam(candidate, theirs, f"the champion v{job.champion_number}")
    own = candidate.package.held_out()
    return _Exam(candidate, own, "its publisher, as there are no others") if own else None


def _good_enough(
    job: Job, candidate: _Asked, champion: _Asked | None, exam: _Exam | None, why_alone: str
) -> Check:
    name, asked = "good_enough", job.metric
    if exam is None:
        return _by_its_own_word(job, candidate)
    rows, answers = exam.rows, exam.answers
    if rows is None or answers is None:
        why = f"cannot be measured on the held-out rows of {exam.whose}: {exam.problem}"
        return Check(name, False, why)
    try:
        truth = Truth(candidate.manifest, exam.held_out)
        ours = truth.losses(candidate.manifest, answers, asked)
    except (PackageError, ValueError) as problem:
        return Check(name, False, f"cannot be measured on its held-out rows: {problem}")
    count = len(rows)
    if count < job.least_rows:
        return Check(
            name,
            False,
            f"{count} held-out rows of {exam.whose} tell too little: want {job.least_rows}",
            {"rows": count, "least_rows": job.least_rows},
        )
    lower = lower_is_better(asked)
    picks = resamples(count)
    value = metric_of(ours, asked, None)
    low, high = interval(metric_of(ours, asked, picks), value, count, asked)
    surely = high if lower else low
    details: dict[str, Any] = {
        "metric": asked,
        "value": value,
        "interval_95": [low, high],
        "floor": job.floor,
        "rows": count,
        "held_out_of": exam.whose,
        "told": candidate.manifest.metrics.get(asked),
    }
    text = (
        f"{asked} {value:.4f} on {count} held-out rows of {exam.whose} "
        f"(95 %: {low:.4f} to {high:.4f})"
    )
    enough = surely <= job.floor if lower else surely >= job.floor
    bound = "at most" if lower else "at least"
    text += f", floor {job.floor:g}"
    if not enough:
        text += f": want surely {bound} {job.floor:g}"
    if champion is None or not _same_rows(candidate, champion):
        if champion is not None:
            why_alone = f"the champion v{job.champion_number} takes other rows"
        return Check(name, enough, f"{text}{'; ' + why_alone if why_alone else ''}", details)
    try:
        theirs = truth.losses(champion.manifest, champion.answers(rows), asked)
    except (PackageError, ValueError) as problem:
        text += f"; the champion v{job.champion_number} cannot be asked: {problem}"
        return Check(name, enough, text, details)
    best = metric_of(theirs, asked, None)
    gains = metric_of(ours, asked, picks) - metric_of(theirs, asked, picks)
    gain = value - best
    margin = job.margin
    if lower:
        gain, gains, margin = -gain, -gains, margin * abs(best)
    at_least = float(np.quantile(gains, ONE_SIDED))
    details |= {
        "champion": job.champion_number,
        "champion_value": best,
        "gain": gain,
        "gain_at_least": at_least,
        "margin": margin,
    }
    not_worse = at_least >= -margin
    text += (
        f"; champion v{job.champion_number} {best:.4f} on the same rows: gain {gain:+.4f}, "
        f"with 95 % confidence at least {at_least:+.4f}"
    )
    if not not_worse:
        text += f", which may be worse by more than the margin {margin:g}"
    return Check(name, enough and not_worse, text, details)


def interval(resampled: Any, value: float, rows: int, metric: str) -> tuple[float, float]:
    """Where the metric lies with 95 % confidence.

    Resamples of rows that are all right say nothing of the next one, so a share's interval is at
    least Wilson's (E. B. Wilson, Probable Inference, 1927) for as many rows.
    """
    low, high = (float(one) for one in np.quantile(resampled, [0.025, 0.975]))
    if metric not in SHARES:
        return low, high
    centre = value + _Z**2 / (2 * rows)
    spread = _Z * math.sqrt(value * (1 - value) / rows + _Z**2 / (4 * rows**2))
    whole = 1 + _Z**2 / rows
    return min(low, (centre - spread) / whole), max(high, (centre + spread) / whole)


def _by_its_own_word(job: Job, candidate: _Asked) -> Check:
    """Without held-out rows nothing is measured, and what it tells of itself accepts nothing."""
    told = candidate.manifest.metrics.get(job.metric)
    words = f" ({told:.4f} is its publisher's word alone)" if told is not None else ""
    return Check(
        "good_enough",
        False,
        f"there are no held-out rows to measure its {job.metric} on{words}: publish it with "
        "held_out=(rows, truth), or a person accepts it by name with `tandem accept`",
        {"metric": job.metric, "told": told, "floor": job.floor},
    )


def _same_rows(one: _Asked, other: _Asked) -> bool:
    ours, theirs = one.manifest, other.manifest
    return (
        ours.task == theirs.task
        and ours.layout == theirs.layout
        and _shapes(ours.features) == _shapes(theirs.features)
    )


def _shapes(features: Sequence[packages.Feature]) -> list[tuple[bool, list[int]]]:
    return [(feature.dtype == "str", feature.shape) for feature in features]


def _measured(
    candidate: _Asked, champion: _Asked | None, rows: NDArray[Any], exam: _Exam | None
) -> Measured | None:
    """For the asset page, whatever the checks said; None where it does not answer its own rows."""
    try:
        measured = Measured(speed=candidate.speed(rows[:1]))
        if exam is None or exam.rows is None or exam.answers is None:
            return measured
        of_candidate = evaluate(candidate.manifest, exam.held_out, exam.answers)
        measured = msgspec.structs.replace(of_candidate, speed=measured.speed, whose=exam.whose)
        if champion is None or not _same_rows(candidate, champion):
            return measured
        try:
            theirs = metrics_of(champion.manifest, exam.held_out, champion.answers(exam.rows))
        except (PackageError, ValueError):
            return measured
        return msgspec.structs.replace(measured, champion=theirs)
    except (PackageError, ValueError):
        return None


if __name__ == "__main__":
    main()
