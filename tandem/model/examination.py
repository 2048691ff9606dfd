"""All checks on one candidate, and what it can do; run in the judge's process."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tandem.errors import PackageError, TandemError
from tandem.model import package as packages
from tandem.model.candidate import Candidate, same_rows
from tandem.model.good_enough import Exam, exam_of, good_enough
from tandem.model.judge_job import Check, Found, Job, refused
from tandem.model.metrics import (
    Measured,
    evaluate,
    metrics_of,
)
from tandem.model.package import Package, refuse_pickle

PICKLE = "pickle"
"""In place of a type: pickles among opaque files, which Tandem itself never opens."""


def examine(job: Job) -> Found:
    """The checks on the packages in the job's folders, and what the candidate can do."""
    try:
        package = packages.read(job.candidate)
        if package.manifest.task == "opaque":
            return _examine_files(package, job)
        candidate = Candidate(package, job.lock, trust=job.trust)
        golden = candidate.package.golden()
        rows = packages.as_array(candidate.manifest, golden.inputs)
        loads = candidate.loads(rows)
    except (PackageError, MemoryError) as problem:
        return refused(str(problem) or "needs more memory than is allowed")
    champion, why_alone = None, ""
    if job.champion is not None:
        try:
            champion = Candidate(packages.read(job.champion), None, trust=job.trust, twice=False)
        except TandemError as problem:
            why_alone = f"the champion v{job.champion_number} cannot be asked: {problem}"
    elif job.champion_number is not None and job.champion_number != job.number:
        why_alone = f"the champion v{job.champion_number} is no longer there to be asked"
    try:
        exam = exam_of(job, candidate, champion)
        matches = candidate.matches(
            rows, np.asarray(golden.answers), _tolerance(job, golden), exam.rows if exam else None
        )
        checks = [good_enough(job, candidate, champion, exam, why_alone), loads, matches]
        return Found(checks, _measured(candidate, champion, rows, exam))
    except MemoryError:
        return refused("needs more memory than is allowed")


def _examine_files(package: Package, job: Job) -> Found:
    """Opaque files: whole, and pickles only where the application trusts them as such."""
    if PICKLE not in job.trust:
        try:
            for file in package.manifest.files:
                refuse_pickle(package.folder / file.path)
        except PackageError as problem:
            return refused(
                f"{problem}; an application that opens it by itself has trust = "
                f'["{PICKLE}"] in [tool.tandem.app]'
            )
    files = ", ".join(f"{file.path} {file.size} bytes" for file in package.manifest.files)
    asked = "only the application can ask it: a person accepts it by name with `tandem accept`"
    return Found(
        [
            Check("good_enough", False, asked, {"missing": "a person"}),
            Check("loads_safely", True, "every sha256 holds; nothing was opened", {"files": files}),
            Check("answers_match", True, "not asked: only the application can"),
        ]
    )


def _tolerance(job: Job, golden: packages.Golden) -> float:
    """The package's tolerance, as far as the application allows it.

    Values are compared by their size.
    """
    largest = max((abs(value) for answer in golden.answers for value in answer), default=0.0)
    return min(golden.tolerance, job.tolerance * max(1.0, largest))


def _measured(
    candidate: Candidate, champion: Candidate | None, rows: NDArray[Any], exam: Exam | None
) -> Measured | None:
    """Measurements for the asset page; None where it does not answer its own rows."""
    try:
        measured = Measured(speed=candidate.speed(rows[:1]))
        if exam is None or exam.rows is None or exam.answers is None:
            return measured
        of_candidate = evaluate(candidate.manifest, exam.held_out, exam.answers)
        measured = msgspec.structs.replace(of_candidate, speed=measured.speed, whose=exam.whose)
        if champion is None or not same_rows(candidate, champion):
            return measured
        try:
            theirs = metrics_of(champion.manifest, exam.held_out, champion.answers(exam.rows))
        except (PackageError, ValueError):
            return measured
        return msgspec.structs.replace(measured, champion=theirs)
    except (PackageError, ValueError):
        return None
