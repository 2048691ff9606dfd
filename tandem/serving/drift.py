"""How far the distribution of recent values is from the one at training."""

from __future__ import annotations

import numpy as np


def drift(rows: np.ndarray, levels: np.ndarray, quantiles: np.ndarray) -> np.ndarray:
    """How far each column's distribution is from the one with these quantiles, 0 to 1.

    The Kolmogorov-Smirnov distance, taken at the known quantiles (columns by levels). Where many
    values are equal a quantile stands for a jump of the distribution: only what is outside counts.
    """
    quantiles = quantiles.astype(np.float32)
    distances = np.zeros(rows.shape[1])
    for level, values in zip(levels, quantiles.T, strict=True):
        below = (rows < values).mean(axis=0)
        up_to = (rows <= values).mean(axis=0)
        outside = np.maximum(below - level, level - up_to)
        distances = np.maximum(distances, outside)
    return distances.clip(0, 1)
