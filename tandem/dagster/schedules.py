"""The nightly release of one app, and the weekly clean-up."""

import dagster as dg

from tandem.dagster import keys
from tandem.dagster.resources import Tandem
from tandem.release import plan
from tandem.release.app import App


def build_schedules(app: App, *, cron: str, timezone: str) -> list[dg.ScheduleDefinition]:
    """`APP_nightly` and `APP_weekly_clean_up`."""
    weekly = dg.ScheduleDefinition(
        name=f"{app.name}_weekly_clean_up",
        job_name=keys.job_name(app, "clean_up"),
        cron_schedule="30 4 * * 0",
        execution_timezone=timezone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        tags=keys.run_tags(app, f"schedule {app.name}_weekly_clean_up"),
        description="Removes images and model versions beyond TANDEM_KEEP.",
    )
    return [_nightly(app, cron=cron, timezone=timezone), weekly]


def _nightly(app: App, *, cron: str, timezone: str) -> dg.ScheduleDefinition:
    """`APP_nightly`; a tick with nothing to release is skipped with the reason."""

    @dg.schedule(
        name=f"{app.name}_nightly",
        job_name=keys.job_name(app, "release"),
        cron_schedule=cron,
        execution_timezone=timezone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Puts the newest proven image live, nightly.",
    )
    def nightly(
        context: dg.ScheduleEvaluationContext, tandem: Tandem
    ) -> dg.RunRequest | dg.SkipReason:
        # A tick that cannot look fails, and the drift sensor makes up for it in the same night.
        planned = plan.release(tandem.project(app))
        if not planned.image:
            return dg.SkipReason(planned.reason)
        tags = {**keys.run_tags(app, f"schedule {app.name}_nightly"), keys.WORK: planned.key}
        return dg.RunRequest(tags=tags)

    return nightly
