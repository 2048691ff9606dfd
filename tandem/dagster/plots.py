"""Pictures for asset pages, as PNG: a model's confusion matrix and calibration."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from tandem.model.metrics import Bin

_COUNTED = 20
"""Labels up to which the counts are written into their fields: more would not be readable."""
_LONGEST = 12


def confusion(counts: Sequence[Sequence[int]], labels: Sequence[str]) -> bytes:
    """Counts of held-out rows: a row for the truth, a column for the answer."""
    table = np.asarray(counts)
    side = min(max(4.6, 0.36 * len(labels)), 12.0)
    figure, axes = _figure(side + 0.4, side)
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if len(labels) <= _COUNTED:
        for row, column in np.argwhere(table > 0):
            shade = "white" if shares[row, column] > 0.5 else "black"
            axes.text(
                column, row, table[row, column], ha="center", va="center", color=shade, size=9
            )
    # Labels are a publisher's words: cut to a length, and never read as formulas.
    names = [_short(label) for label in labels]
    long = max(map(len, names), default=0) > 3
    axes.set_xticks(range(len(names)), names, parse_math=False, rotation=90 if long else 0)
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.set(xlabel="answered", ylabel="is")
    right = np.trace(table) / max(table.sum(), 1)
    axes.set_title(f"{table.sum()} held-out rows, {right:.1%} answered right", size=10)
    return _png(figure)


def calibration(bins: Sequence[Bin]) -> bytes:
    """How often answers of a claimed probability are right, and how many there are."""
    figure, axes = _figure(4.6, 4.6)
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle="--")
    claimed = [group.claimed for group in bins]
    axes.plot(claimed, [group.right for group in bins], color="tab:blue", marker="o")
    for group in bins:
        where = (group.claimed, group.right)
        axes.annotate(str(group.rows), where, textcoords="offset points", xytext=(6, -10), size=8)
    axes.set(xlabel="claimed probability", ylabel="share right", xlim=(0, 1.05), ylim=(0, 1.05))
    axes.set_title("Calibration on held-out rows (their number beside)", size=10)
    return _png(figure)


def _short(label: str) -> str:
    shown = " ".join(label.split())
    return shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 1]}…"


def _figure(width: float, height: float) -> tuple[Any, Any]:
    # Without pyplot: no global state, and no display is looked for.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="tight")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _png(figure: Any) -> bytes:
    stream = io.BytesIO()
    with warnings.catch_warnings():
        # A script that the font lacks is drawn as boxes.
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        # Without the library's version in it: the same numbers give the same bytes.
        figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()
