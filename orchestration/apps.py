"""The apps that are released here, one entry each."""

from __future__ import annotations

from models import digits
from tandem.model.rules import AcceptanceRule
from tandem.release.app import App

APPS = (
    App(
        name="digits",
        description="Reads handwritten digits; the example.",
        rule=AcceptanceRule(metric="accuracy", floor=0.95, held_out=str(digits.HELD_OUT)),
        training=digits.TrainConfig,
        train=digits.train,
        owners=("team:data-science",),
    ),
)
