"""The `deployment` and `release` assets: the newest proven image live, recorded."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from tandem.dagster import keys, metadata
from tandem.dagster.resources import Tandem
from tandem.dagster.results import check_result
from tandem.release.app import App
from tandem.release.deploy import Deployed, deploy
from tandem.release.live_answers import LIVE_ANSWERS, ask_live
from tandem.release.project import Project
from tandem.release.record import record_release

Results = Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]


def deployment_assets(app: App) -> dg.AssetsDefinition:
    """Makes the newest proven image live, and records each that went live once.

    One step, so that what the service answered when it went live is the check's result and stands
    in the record, and nobody asks again. Either asset is made alone where only it is selected:
    `release` then asks the live service itself.
    """
    deployment_key, release_key = keys.key(app, "deployment"), keys.key(app, "release")

    @dg.multi_asset(
        name=f"{app.name}__deployment",
        specs=[
            dg.AssetSpec(
                deployment_key,
                deps=[keys.key(app, "image")],
                group_name=keys.RELEASE,
                kinds={"flask"},
                skippable=True,
                description="The live service, pinned by digest.",
            ),
            dg.AssetSpec(
                release_key,
                deps=[deployment_key],
                group_name=keys.RELEASE,
                skippable=True,
                description="The record: what is live, since when, from which pair, and what it "
                "changed.",
            ),
        ],
        check_specs=[
            dg.AssetCheckSpec(
                LIVE_ANSWERS,
                asset=deployment_key,
                blocking=True,
                description="the live service reports the released digest and gives the golden "
                "predictions",
            )
        ],
        can_subset=True,
    )
    def deployment(context: dg.AssetExecutionContext, tandem: Tandem) -> Results:
        project = tandem.project(app)
        selected = context.selected_asset_keys
        deployed = None
        if deployment_key in selected:
            deployed = deploy(project)
            yield dg.MaterializeResult(
                asset_key=deployment_key,
                metadata=metadata.of_deployment(deployed, app, project),
                data_version=dg.DataVersion(deployed.live.digest),
            )
        if context.selected_asset_check_keys:
            proof = deployed.proof if deployed else ask_live(project)
            yield check_result(app, "deployment", proof)
        if release_key in selected:
            yield _record(context, app, project, deployed)

    return deployment


def _record(
    context: dg.AssetExecutionContext, app: App, project: Project, deployed: Deployed | None
) -> dg.MaterializeResult[Any]:
    record = record_release(
        project,
        trigger=context.run.tags.get("tandem/trigger", keys.BY_HAND),
        run_id=context.run.run_id,
        deployed=deployed,
    )
    # The model's page lists the releases that used it.
    if not record.model.is_none:
        context.log_event(
            dg.AssetObservation(
                keys.key(app, "model"),
                metadata={"version": record.model.version, "used_by_release": record.number},
            )
        )
    return dg.MaterializeResult(
        asset_key=keys.key(app, "release"),
        metadata=metadata.of_release(record, app, project),
        data_version=dg.DataVersion(str(record.number)),
    )
