"""The `model` asset: trained here, or published from elsewhere and reported by the sensor."""

import dagster as dg
import msgspec
import pydantic

from tandem.dagster import keys, metadata
from tandem.dagster.app import App
from tandem.dagster.resources import Tandem
from tandem.model.repository import Version
from tandem.release import steps
from tandem.release.project import Project


def model_asset(app: App) -> dg.AssetsDefinition:
    """Trains, evaluates, packages and publishes the next version; its data version is the package's
    digest.
    """
    fields = {
        field.name: (field.type, pydantic.Field(default=field.default))
        for field in msgspec.structs.fields(app.training)
    }
    # The launchpad shows the training's own parameters with their defaults.
    config_type = pydantic.create_model(f"{app.name.title()}Training", __base__=dg.Config, **fields)

    @dg.asset(
        key=keys.key(app, "model"),
        group_name=keys.DATA_SCIENCE,
        kinds={"scikitlearn", "onnx"},
        owners=list(app.owners),
        description="The newest published model version, as a verified package.",
    )
    def model(
        context: dg.AssetExecutionContext,
        config: config_type,
        tandem: Tandem,
    ) -> dg.MaterializeResult:
        parameters = msgspec.convert(config.model_dump(), app.training)
        project = tandem.project(app)
        steps.expect_judging(project)
        trained = steps.train(
            project,
            app.train,
            parameters,
            publisher=f"dagster run {context.run.run_id}",
        )
        return dg.MaterializeResult(
            metadata=metadata.of_training(trained, project),
            data_version=dg.DataVersion(trained.version.digest),
        )

    return model


def model_event(app: App, version: Version, project: Project) -> dg.AssetMaterialization:
    """What is reported for a version that was published from elsewhere."""
    return dg.AssetMaterialization(
        keys.key(app, "model"),
        metadata=metadata.of_version(version, project),
        tags={"dagster/data_version": version.digest},
    )


def made_here(version: Version) -> bool:
    """Whether the `model` asset published it, which is a materialization of its own."""
    return version.publisher.startswith("dagster run ")


def report_judged(instance: dg.DagsterInstance, app: App, project: Project) -> None:
    """Observe the newest version once it was judged, with what that measured; it is no new one."""
    version = project.models.latest()
    if version and not made_here(version):
        instance.report_runless_asset_event(
            dg.AssetObservation(
                keys.key(app, "model"),
                metadata=metadata.of_version(version, project),
                tags={"dagster/data_version": version.digest},
            )
        )
