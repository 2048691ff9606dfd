"""The example's model: reads handwritten digits of 8 x 8 pixels; trained, tested on unseen rows,
published.
"""

from __future__ import annotations

from models.digits.training import LABELS, TrainConfig, Trained, evaluate, fit, train

__all__ = ["LABELS", "TrainConfig", "Trained", "evaluate", "fit", "train"]
