"""The `app_build` asset: one commit, tested in its locked environment, as image layers."""

import dagster as dg

from orchestration import keys, pages
from orchestration.apps import App
from orchestration.resources import Tandem
from tandem import steps


class BuildConfig(dg.Config):
    """Which commit to build; by default the newest of the watched branch."""

    commit: str = ""
    test_again: bool = False


def app_build_asset(app: App) -> dg.AssetsDefinition:
    """Checks the commit out into a clean folder, runs its tests, makes the layers. Made once a
    tree.
    """

    @dg.asset(
        key=keys.key(app, "app_build"),
        deps=[keys.key(app, "commit")],
        group_name=keys.APPLICATION,
        kinds={"pytest", "python"},
        description="The newest commit, tested in its locked environment, as image layers.",
    )
    def app_build(
        context: dg.AssetExecutionContext, config: BuildConfig, tandem: Tandem
    ) -> dg.MaterializeResult:
        project = tandem.project(app)
        build = steps.build_app(project, config.commit or None, again=config.test_again)
        return dg.MaterializeResult(
            metadata=pages.of_build(build, project), data_version=dg.DataVersion(build.tree)
        )

    return app_build
