"""The training rows in numbers, for noticing drift."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tandem.model.package import (
    Manifest,
    Statistics,
)
from tandem.model.writing.draft import Draft


def statistics_of(manifest: Manifest, rows: NDArray[Any], draft: Draft) -> Statistics | None:
    """The rows' distribution; None where there is too much or nothing to count."""
    elements: list[str] = []
    columns: list[NDArray[Any]] = []
    categories: dict[str, dict[str, float]] = {}
    if manifest.layout == "matrix":
        flat = rows.reshape(len(rows), -1).astype(np.float64)
        names = [feature.name for feature in manifest.features]
        elements = names if len(names) > 1 else [f"{names[0]}[{at}]" for at in range(flat.shape[1])]
        columns = list(flat.T)
    elif manifest.layout == "table":
        for at, feature in enumerate(manifest.features):
            if feature.dtype == "str":
                values, counts = np.unique([str(v) for v in rows[:, at]], return_counts=True)
                order = np.argsort(-counts, kind="stable")[:20]
                categories[feature.name] = {
                    str(values[i]): round(float(counts[i] / len(rows)), 6) for i in order
                }
            else:
                elements.append(feature.name)
                columns.append(np.asarray(rows[:, at].tolist(), dtype=np.float64))
    if len(elements) > 4096 or not (columns or categories):
        return None
    levels = [0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99]
    table = [column[np.isfinite(column)] for column in columns]
    table = [column if len(column) else np.zeros(1) for column in table]
    answers = {}
    if manifest.task == "classification":
        shares = np.bincount(draft.answers.argmax(axis=1), minlength=len(manifest.labels)) / len(
            draft.answers
        )
        answers = dict(zip(manifest.labels, np.round(shares, 6).tolist(), strict=True))
    return Statistics(
        rows=len(rows),
        elements=elements,
        mean=[_short(column.mean()) for column in table],
        std=[_short(column.std()) for column in table],
        levels=levels,
        quantiles=[[_short(v) for v in np.quantile(column, levels)] for column in table],
        categories=categories,
        answers=answers,
    )


def _short(value: Any) -> float:
    return float(f"{float(value):.6g}")
