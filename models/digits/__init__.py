"""The example's model: reads handwritten digits of 8 x 8 pixels."""

from __future__ import annotations

from pathlib import Path

from models.digits.training import LABELS, TrainConfig, Trained, evaluate, fit, train

HELD_OUT = Path(__file__).with_name("held_out.json")
"""The rows that every version is measured on, whoever publishes it; made by `data.hold_out`."""

__all__ = ["HELD_OUT", "LABELS", "TrainConfig", "Trained", "evaluate", "fit", "train"]
