"""The `model` asset: trained here, or published elsewhere and reported."""

from collections.abc import Callable
from typing import Any, cast

import dagster as dg
import msgspec
import pydantic

from tandem.dagster import keys, metadata
from tandem.dagster.resources import Tandem
from tandem.model.repository import Version
from tandem.release.app import App
from tandem.release.judging import expect_judging
from tandem.release.project import Project
from tandem.release.train import train

DESCRIPTION = "The newest published model version, as a verified package."


def model_asset(app: App) -> dg.AssetsDefinition | dg.AssetSpec:
    """The newest version; its data version is the package's digest.

    Trained here where the app has a trainer, else external: the sensor reports what is published.
    """
    if app.train is None or app.training is None:
        return dg.AssetSpec(
            keys.key(app, "model"),
            description=DESCRIPTION,
            group_name=keys.DATA_SCIENCE,
            owners=list(app.owners),
        )
    return _trained(app, app.train, app.training)


def _trained(
    app: App, trainer: Callable[..., Any], training: type[msgspec.Struct]
) -> dg.AssetsDefinition:
    config_type = _launchpad(app.name, training)

    @dg.asset(
        key=keys.key(app, "model"),
        group_name=keys.DATA_SCIENCE,
        kinds={"scikitlearn", "onnx"},
        owners=list(app.owners),
        description=DESCRIPTION,
    )
    def model(
        context: dg.AssetExecutionContext,
        config: config_type,  # type: ignore[valid-type]
        tandem: Tandem,
    ) -> dg.MaterializeResult[Any]:
        parameters = msgspec.convert(cast("dg.Config", config).model_dump(), training)
        project = tandem.project(app)
        expect_judging(project)
        trained = train(
            project,
            trainer,
            parameters,
            publisher=f"dagster run {context.run.run_id}",
        )
        return dg.MaterializeResult(
            metadata=metadata.of_training(trained, project),
            data_version=dg.DataVersion(trained.version.digest),
        )

    return model


def _launchpad(name: str, training: type[msgspec.Struct]) -> type[dg.Config]:
    """The training's own parameters with their defaults, as the launchpad shows them."""
    fields: dict[str, Any] = {
        field.name: (field.type, pydantic.Field(default=field.default))
        for field in msgspec.structs.fields(training)
    }
    made: type[dg.Config] = pydantic.create_model(
        f"{name.title()}Training", __base__=dg.Config, **fields
    )
    return made


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
    """Observe the newest version with what its judging measured; it is no new one."""
    version = project.models.latest()
    if version and not made_here(version):
        instance.report_runless_asset_event(
            dg.AssetObservation(
                keys.key(app, "model"),
                metadata=metadata.of_version(version, project),
                tags={"dagster/data_version": version.digest},
            )
        )
