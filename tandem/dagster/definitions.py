"""All definitions of a code location, composed from its apps and the settings."""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from tandem.dagster.assets import build_assets
from tandem.dagster.checks import build_checks
from tandem.dagster.jobs import build_jobs
from tandem.dagster.resources import Tandem
from tandem.dagster.schedules import build_schedules
from tandem.dagster.sensors import build_sensors
from tandem.release.app import App


def build_defs(
    apps: Sequence[App], *, resource_overrides: Mapping[str, Any] | None = None
) -> dg.Definitions:
    """Everything Dagster knows of the apps; tests replace the `tandem` resource.

    Raises `SettingError` when a setting has a wrong value: nothing starts with it.
    """
    resources: dict[str, Any] = {"tandem": Tandem(), **(resource_overrides or {})}
    settings = resources["tandem"].settings()
    return dg.Definitions(
        assets=[asset for app in apps for asset in build_assets(app)],
        asset_checks=[check for app in apps for check in build_checks(app)],
        jobs=[job for app in apps for job in build_jobs(app, release_on=settings.release_on)],
        sensors=[sensor for app in apps for sensor in build_sensors(app)],
        schedules=[
            schedule
            for app in apps
            for schedule in build_schedules(app, cron=settings.nightly, timezone=settings.timezone)
        ],
        resources=resources,
        # One process a run: five times quicker to start than one a step, and the steps share
        # connections.
        executor=dg.in_process_executor,
    )
