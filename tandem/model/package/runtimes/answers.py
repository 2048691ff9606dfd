"""What a model's raw answers become: probabilities that sum to 1, or one number a row."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def softmax(scores: NDArray[Any]) -> NDArray[Any]:
    """A decision function's scores, squashed: the order stays, and each row sums to 1."""
    if scores.ndim == 1:
        scores = np.stack([-scores / 2, scores / 2], axis=1)
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def flat(values: NDArray[Any]) -> NDArray[Any]:
    """Values of one target as a number a row; those of several stay (rows x targets)."""
    return values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values
