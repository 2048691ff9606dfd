"""The code location of `make dev` in tests: the project's own definitions over the tiny app.

`TANDEM_*` in the environment say where everything is, as they do for the project's own apps.
"""

from __future__ import annotations

from support.tiny import Training
from tandem.dagster.definitions import build_defs
from tandem.model.rules import AcceptanceRule
from tandem.release.app import App


def _train(parameters: Training, **_: object) -> None:
    raise NotImplementedError


APPS = (
    App(
        name="tiny",
        description="for tests",
        rule=AcceptanceRule(metric="accuracy", floor=0.9),
        training=Training,
        train=_train,
    ),
)

defs = build_defs(APPS)
