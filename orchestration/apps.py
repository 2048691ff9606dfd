"""The apps that are released here: one entry each, from which all of its Dagster definitions are
made.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import msgspec

from models import digits
from tandem.project import Gate


@dataclasses.dataclass(frozen=True, kw_only=True)
class App:
    """What is particular to one app.

    `train` publishes a model version: it takes `training` (a frozen struct of parameters with
    defaults) and a
    project, and returns what the asset page shows. `owners` are as Dagster writes them: `team:NAME`
    or an address.
    """

    name: str
    description: str
    gate: Gate
    training: type[msgspec.Struct]
    train: Callable[..., Any]
    owners: tuple[str, ...] = ()


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
