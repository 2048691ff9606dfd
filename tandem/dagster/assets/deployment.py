"""The `deployment` asset: the newest proven image, live, asked its golden questions, or undone."""

import dagster as dg

from tandem.dagster import keys, metadata
from tandem.dagster.app import App
from tandem.dagster.resources import Tandem
from tandem.release import steps


def deployment_asset(app: App) -> dg.AssetsDefinition:
    """Makes the newest image that passed its checks live; what is live already is left alone."""

    @dg.asset(
        key=keys.key(app, "deployment"),
        deps=[keys.key(app, "image")],
        group_name=keys.RELEASE,
        kinds={"flask"},
        description="The live service, pinned by digest.",
    )
    def deployment(context: dg.AssetExecutionContext, tandem: Tandem) -> dg.MaterializeResult:
        project = tandem.project(app)
        deployed = steps.go_live(project)
        return dg.MaterializeResult(
            metadata=metadata.of_deployment(deployed, app, project),
            data_version=dg.DataVersion(deployed.live.digest),
        )

    return deployment
