"""The run launcher of one machine: Dagster's own, with a health check.

Dagster's own has no health check: a run whose process was killed together with the code server
stays STARTED for ever, and all later runs of its app wait for it.
"""

import dagster as dg
from dagster._core.launcher import CheckRunHealthResult, WorkerStatus
from dagster._core.launcher.default_run_launcher import DefaultRunLauncher

from tandem.dagster import recovery


class WatchedRunLauncher(DefaultRunLauncher):
    """Starts runs as Dagster's own does, and tells run monitoring which still live."""

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Yes: the run's own tag names its process."""
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Failed when the process that the run named is gone."""
        if recovery.is_dead(run):
            recovery.end_log_followers(run.run_id)
            return CheckRunHealthResult(WorkerStatus.FAILED, recovery.GONE)
        return CheckRunHealthResult(WorkerStatus.RUNNING)
