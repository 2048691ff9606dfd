"""What is particular to one app: from this, all of its Dagster definitions are made."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import msgspec

from tandem.release.project import AcceptanceRule


@dataclasses.dataclass(frozen=True, kw_only=True)
class App:
    """What is particular to one app.

    `train` publishes a model version: it takes `training` (a frozen struct of parameters with
    defaults) and a project, and returns what the asset page shows. `owners` are as Dagster writes
    them: `team:NAME` or an address.
    """

    name: str
    description: str
    gate: AcceptanceRule
    training: type[msgspec.Struct]
    train: Callable[..., Any]
    owners: tuple[str, ...] = ()
