"""The one resource of all assets: Tandem's settings, opened for an app."""

from __future__ import annotations

import functools
import os

import dagster as dg
import pydantic

from tandem import settings
from tandem.dagster import recovery
from tandem.model.rules import AcceptanceRule
from tandem.release.app import App
from tandem.release.project import Project


@functools.cache
def _opened(app: str, rule: AcceptanceRule, values: settings.Settings) -> Project:
    # Steps of one process share the connections, and what a store or a registry answered.
    return Project(app, values, rule)


class Tandem(dg.ConfigurableResource[None]):
    """Reads the settings when a run or a tick asks, so that errors show there.

    The secrets of stores and registries are not among the settings: their clients take them from
    the environment or from `azure-identity`, and Dagster never sees them.
    """

    overrides: dict[str, str] = pydantic.Field(default_factory=dict)

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Write the process on the run, so that the next one can tell whether it lives."""
        if context.instance is not None and context.run is not None:
            recovery.name_process(context.instance, context.run.run_id)

    def settings(self) -> settings.Settings:
        """The settings, from the environment and `overrides`. Raises `SettingError`."""
        return settings.load({**os.environ, **self.overrides})

    def project(self, app: App) -> Project:
        """The app with its settings opened. Raises `SettingError`."""
        return _opened(app.name, app.rule, self.settings())
