"""The run coordinator: what a person starts in the UI is the app's run, too."""

import dagster as dg
from dagster._core.run_coordinator import QueuedRunCoordinator, SubmitRunContext

from tandem.dagster import keys


class OneRunPerApp(QueuedRunCoordinator):
    """Tags runs of an app's assets that lack Tandem's tags, as from the UI's button.

    The tag is what the limit in dagster.yaml counts by: one run of an app at a time.
    """

    def submit_run(self, context: SubmitRunContext) -> dg.DagsterRun:
        """Queue the run, tagged with its app where its assets are of one."""
        run = context.dagster_run
        selected = {key.path[0] for key in run.asset_selection or () if len(key.path) == 2}
        selected |= {
            check.asset_key.path[0]
            for check in run.asset_check_selection or ()
            if len(check.asset_key.path) == 2
        }
        if len(selected) == 1 and "tandem/app" not in run.tags:
            tags = {"tandem/app": selected.pop(), "tandem/trigger": keys.BY_HAND}
            self._instance.add_run_tags(run.run_id, tags)
        return super().submit_run(context)
