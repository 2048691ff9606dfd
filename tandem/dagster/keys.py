"""The names of things in Dagster, in one place: asset keys, groups, jobs, tags."""

from __future__ import annotations

import dagster as dg

from tandem.release.app import App

DATA_SCIENCE = "data_science"
APPLICATION = "application"
IMAGE = "image"
RELEASE = "release"

OUTCOME = "tandem/outcome"
"""The tag of a run that ended in a red commit or a refusal."""
BY_HAND = "by hand in the Dagster UI"
WORK = "tandem/work"
"""The tag that names what a run was asked to do, so that tries of one thing are counted."""


def key(app: App, name: str) -> dg.AssetKey:
    """`[APP, NAME]`."""
    return dg.AssetKey([app.name, name])


def job_name(app: App, what: str) -> str:
    """`APP_train`, `APP_build`, `APP_image`, `APP_release`."""
    return f"{app.name}_{what}"


def run_tags(app: App, trigger: str) -> dict[str, str]:
    """Tags of every run: its app, for the limit in dagster.yaml, and what started it."""
    return {"tandem/app": app.name, "tandem/trigger": trigger}
