"""The code location of `make dev` in tests: the project's own definitions over the tiny app.

`TANDEM_*` in the environment say where everything is, as they do for the project's own apps.
"""

from __future__ import annotations

from orchestration.apps import App
from orchestration.definitions import build_defs
from support.tiny import Training
from tandem.release.project import AcceptanceRule


def _train(parameters: Training, **_: object) -> None:
    raise NotImplementedError


defs = build_defs(
    apps=[
        App(
            name="tiny",
            description="for tests",
            gate=AcceptanceRule(metric="accuracy", floor=0.9),
            training=Training,
            train=_train,
        )
    ]
)
