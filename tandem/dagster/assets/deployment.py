"""The `deployment` asset: the newest proven image, live, asked its golden questions, or undone."""

from typing import Any

import dagster as dg

from tandem.dagster import keys, metadata
from tandem.dagster.resources import Tandem
from tandem.release.app import App
from tandem.release.deploy import deploy


def deployment_asset(app: App) -> dg.AssetsDefinition:
    """Makes the newest image that passed its checks live; what is live already is left alone."""

    @dg.asset(
        key=keys.key(app, "deployment"),
        deps=[keys.key(app, "image")],
        group_name=keys.RELEASE,
        kinds={"flask"},
        description="The live service, pinned by digest.",
    )
    def deployment(context: dg.AssetExecutionContext, tandem: Tandem) -> dg.MaterializeResult[Any]:
        project = tandem.project(app)
        deployed = deploy(project)
        return dg.MaterializeResult(
            metadata=metadata.of_deployment(deployed, app, project),
            data_version=dg.DataVersion(deployed.live.digest),
        )

    return deployment
