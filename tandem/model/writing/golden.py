"""Golden rows: which of the sample's, with the answers to them."""

from __future__ import annotations

import numpy as np

from tandem.model.package import (
    MAX_TOLERANCE,
    Golden,
    as_rows,
    predictions_of,
)
from tandem.model.writing.draft import Draft

GOLDEN_ROWS = 20


def golden_of(draft: Draft) -> Golden:
    """The golden rows with the draft's answers to them."""
    manifest = draft.manifest
    chosen = _golden_rows(draft)
    return Golden(
        inputs=as_rows(draft.rows[chosen]),
        answers=np.atleast_2d(draft.answers[chosen].reshape(len(chosen), -1)).tolist(),
        predictions=predictions_of(manifest, draft.answers[chosen]),
        tolerance=draft.tolerance if manifest.task == "classification" else _spread(draft),
    )


def _spread(draft: Draft) -> float:
    return float(draft.tolerance * (np.abs(draft.answers).max() + 1e-12))


def _golden_rows(draft: Draft) -> list[int]:
    """Up to GOLDEN_ROWS row numbers: clear ones of every label, or evenly spread."""
    count = len(draft.rows)
    if draft.manifest.task == "regression":
        spread = {int(at) for at in np.linspace(0, count - 1, min(GOLDEN_ROWS, count))}
        size = np.abs(draft.answers.reshape(count, -1)).max(axis=1)
        # The tolerance is relative to the largest answer, and believed only where that is told.
        if _spread(draft) > MAX_TOLERANCE * size[sorted(spread)].max():
            spread.add(int(size.argmax()))
        return sorted(spread)
    ordered = np.sort(draft.answers, axis=1)
    clear = ordered[:, -1] - ordered[:, -2] > 100 * draft.tolerance
    best = draft.answers.argmax(axis=1)
    queues = [
        list(np.flatnonzero((best == label) & clear)) for label in range(draft.answers.shape[1])
    ]
    chosen: list[int] = []
    while len(chosen) < GOLDEN_ROWS and any(queues):
        chosen.extend(int(queue.pop(0)) for queue in queues if queue)
    return sorted(chosen[:GOLDEN_ROWS]) or list(range(min(GOLDEN_ROWS, count)))
