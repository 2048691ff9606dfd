"""The `app_build` asset: one commit, tested in its environment, as image layers."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from tandem.dagster import keys, metadata
from tandem.dagster.resources import Tandem
from tandem.dagster.results import check_result, tell_outcome
from tandem.release.app import App
from tandem.release.build import build_app, tests_proof


class BuildConfig(dg.Config):
    """Which commit to build; by default the newest of the watched branch."""

    commit: str = ""
    test_again: bool = False


def app_build_asset(app: App) -> dg.AssetsDefinition:
    """Checks the commit out, runs its tests and makes its layers, once a tree.

    `tests_pass` does not block in Dagster: a red commit is a result, not a crash, and must not
    paint what is live red. `image` reads the verdict itself and packs nothing of a red commit.
    """
    build_key = keys.key(app, "app_build")

    @dg.asset(
        key=build_key,
        deps=[keys.key(app, "commit")],
        group_name=keys.APPLICATION,
        kinds={"pytest", "python"},
        description="The newest commit, tested in its locked environment, as image layers.",
        check_specs=[
            dg.AssetCheckSpec(
                "tests_pass",
                asset=build_key,
                description="the commit's own tests passed in its locked environment",
            )
        ],
    )
    def app_build(
        context: dg.AssetExecutionContext, config: BuildConfig, tandem: Tandem
    ) -> Iterator[dg.MaterializeResult[Any]]:
        project = tandem.project(app)
        build = build_app(project, config.commit or None, again=config.test_again)
        proof = tests_proof(build)
        if not proof.passed:
            tell_outcome(context, f"red: {proof.summary}")
        yield dg.MaterializeResult(
            metadata=metadata.of_build(build, project),
            data_version=dg.DataVersion(build.tree),
            check_results=[check_result(app, "app_build", proof)],
        )

    return app_build
