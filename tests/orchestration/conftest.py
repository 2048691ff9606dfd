"""The tiny app, opened in Dagster, with an instance of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from support.tiny import Tiny

from tandem.dagster.definitions import build_defs


class Way:
    """The tiny app with Dagster's definitions of it and an instance that remembers."""

    def __init__(self, tiny: Tiny, instance: dg.DagsterInstance) -> None:
        self.tiny = tiny
        self.instance = instance

    @property
    def defs(self) -> dg.Definitions:
        """The definitions, as the settings are now."""
        return build_defs(apps=[self.tiny.app], resource_overrides={"tandem": self.tiny.tandem})

    def run(self, job: str, **options: Any) -> dg.ExecuteInProcessResult:
        """Run one of the app's jobs to its end."""
        return self.defs.resolve_job_def(f"tiny_{job}").execute_in_process(
            instance=self.instance, raise_on_error=False, **options
        )

    def tick(self, sensor: str, cursor: str | None = None) -> Any:
        """Evaluate a sensor once."""
        definition = self.defs.resolve_sensor_def(f"tiny_{sensor}")
        context = dg.build_sensor_context(
            instance=self.instance, cursor=cursor, resources={"tandem": self.tiny.tandem}
        )
        return definition(context)


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Tiny]:
    made = Tiny(tmp_path / "tiny")
    yield made
    made.close()


@pytest.fixture
def way(tiny: Tiny, tmp_path: Path) -> Iterator[Way]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield Way(tiny, instance)
