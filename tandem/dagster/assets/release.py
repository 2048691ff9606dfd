"""The `release` asset: the numbered record of what went live, and what changed since the last."""

from typing import Any

import dagster as dg

from tandem.dagster import keys, metadata
from tandem.dagster.resources import Tandem
from tandem.release.app import App
from tandem.release.record import record_release


def release_asset(app: App) -> dg.AssetsDefinition:
    """Writes the record once for each image that went live."""

    @dg.asset(
        key=keys.key(app, "release"),
        deps=[keys.key(app, "deployment")],
        group_name=keys.RELEASE,
        description="The record: what is live, since when, from which pair, and what it changed.",
    )
    def release(context: dg.AssetExecutionContext, tandem: Tandem) -> dg.MaterializeResult[Any]:
        trigger = context.run.tags.get("tandem/trigger", "by hand in the Dagster UI")
        project = tandem.project(app)
        record = record_release(project, trigger=trigger, run_id=context.run.run_id)
        # The model's page tells which releases used it.
        if not record.model.is_none:
            context.log_event(
                dg.AssetObservation(
                    keys.key(app, "model"),
                    metadata={"version": record.model.version, "used_by_release": record.number},
                )
            )
        return dg.MaterializeResult(
            metadata=metadata.of_release(record, app, project),
            data_version=dg.DataVersion(str(record.number)),
        )

    return release
