"""The apps that are released here, one entry each."""

from __future__ import annotations

from models import digits
from tandem.release.app import App
from tandem.release.project import Gate

APPS = (
    App(
        name="digits",
        description="Reads handwritten digits; the example.",
        gate=Gate(metric="accuracy", floor=0.95, held_out=digits.HELD_OUT),
        training=digits.TrainConfig,
        train=digits.train,
        owners=("team:data-science",),
    ),
)
