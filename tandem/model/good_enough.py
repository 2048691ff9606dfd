"""Whether a candidate is good enough: measured on held-out rows, and against the champion."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tandem.errors import PackageError
from tandem.model import package as packages
from tandem.model.candidate import Candidate, same_rows
from tandem.model.judge_job import Check, Job
from tandem.model.metrics import (
    SHARES,
    Truth,
    lower_is_better,
    metric_of,
    resamples,
)
from tandem.model.package import HeldOut
from tandem.model.package.rows import check_rows

ONE_SIDED = 0.05
_Z = 1.959964
"""Of the normal distribution, for the Wilson interval of 95 %."""


class Exam:
    """The rows that a candidate is measured on, whose they are, and its answers."""

    def __init__(self, candidate: Candidate, held_out: HeldOut, whose: str) -> None:
        self.held_out, self.whose, self.problem = held_out, whose, ""
        self.rows: NDArray[Any] | None = None
        self.answers: NDArray[Any] | None = None
        try:
            check_rows(candidate.manifest, held_out.rows)
            self.rows = packages.as_array(candidate.manifest, held_out.rows)
            self.answers = candidate.answers(self.rows)
        except (PackageError, ValueError) as problem:
            self.problem = str(problem)


def exam_of(job: Job, candidate: Candidate, champion: Candidate | None) -> Exam | None:
    """The application's own rows, else the champion's, else the publisher's."""
    if job.held_out is not None:
        return Exam(candidate, job.held_out, "the application")
    if champion is not None and same_rows(candidate, champion):
        champion_losses = champion.package.held_out()
        if champion_losses is not None:
            return Exam(candidate, champion_losses, f"the champion v{job.champion_number}")
    own = candidate.package.held_out()
    return Exam(candidate, own, "its publisher, as there are no others") if own else None


def good_enough(
    job: Job, candidate: Candidate, champion: Candidate | None, exam: Exam | None, why_alone: str
) -> Check:
    """The check `good_enough`: above the floor, and not worse than the champion."""
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
            f"{count} held-out rows of {exam.whose} tell too little: expected {job.least_rows}",
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
        text += f": expected {bound} {job.floor:g} with 95 % confidence"
    if champion is None or not same_rows(candidate, champion):
        if champion is not None:
            why_alone = f"the champion v{job.champion_number} takes other rows"
        return Check(name, enough, f"{text}{'; ' + why_alone if why_alone else ''}", details)
    try:
        champion_losses = truth.losses(champion.manifest, champion.answers(rows), asked)
    except (PackageError, ValueError) as problem:
        text += f"; the champion v{job.champion_number} cannot be asked: {problem}"
        return Check(name, enough, text, details)
    champion_value = metric_of(champion_losses, asked, None)
    gains = metric_of(ours, asked, picks) - metric_of(champion_losses, asked, picks)
    gain = value - champion_value
    margin = job.margin
    if lower:
        gain, gains, margin = -gain, -gains, margin * abs(champion_value)
    at_least = float(np.quantile(gains, ONE_SIDED))
    details |= {
        "champion": job.champion_number,
        "champion_value": champion_value,
        "gain": gain,
        "gain_at_least": at_least,
        "margin": margin,
    }
    not_worse = at_least >= -margin
    text += (
        f"; champion v{job.champion_number} {champion_value:.4f} on the same rows: "
        f"gain {gain:+.4f}, with 95 % confidence at least {at_least:+.4f}"
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


def _by_its_own_word(job: Job, candidate: Candidate) -> Check:
    """Without held-out rows: refused, as what its publisher reports proves nothing."""
    reported = candidate.manifest.metrics.get(job.metric)
    words = f" ({reported:.4f} as reported by its publisher)" if reported is not None else ""
    return Check(
        "good_enough",
        False,
        f"there are no held-out rows to measure its {job.metric} on{words}: publish it with "
        "held_out=(rows, truth), or a person accepts it by name with `tandem accept`",
        {
            "metric": job.metric,
            "told": reported,
            "floor": job.floor,
            "missing": "held-out rows",
        },
    )
