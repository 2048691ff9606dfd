"""Jobs of one app: train, build, image, release, each a selection of its assets."""

from typing import Any

import dagster as dg

from tandem.dagster import keys, recovery
from tandem.dagster.resources import Tandem
from tandem.release import housekeeping
from tandem.release.app import App
from tandem.release.clean_up import prune


def build_jobs(app: App, *, release_on: str) -> list[Any]:
    """`APP_train`, `APP_build`, `APP_image`, `APP_release`, `APP_clean_up`.

    With `release_on` build, builds and images go on to release.
    """

    def assets(*names: str) -> dg.AssetSelection:
        return dg.AssetSelection.assets(*(keys.key(app, name) for name in names))

    release = assets("deployment", "release")
    onward = release if release_on == "build" else None

    def job(what: str, selection: dg.AssetSelection, description: str) -> Any:
        return dg.define_asset_job(
            keys.job_name(app, what),
            selection=selection,
            description=description,
            tags=keys.run_tags(app, keys.BY_HAND),
        )

    def with_release(selection: dg.AssetSelection) -> dg.AssetSelection:
        return selection | onward if onward else selection

    return [
        *(
            [job("train", assets("model"), "Train, evaluate, package and publish the next model.")]
            if app.train
            else []
        ),
        job(
            "build",
            with_release(assets("app_build", "image")),
            "Test the newest commit and pack it with the newest accepted model.",
        ),
        job(
            "image",
            with_release(assets("image")),
            "Judge the newest model, and pack it with the newest commit whose tests passed.",
        ),
        job("release", release, "Put the newest proven image live, and record it."),
        _clean_up_job(app),
    ]


KEPT_RUNS = 2000
"""How many ended runs Dagster remembers."""


class CleanUpConfig(dg.Config):
    """Whether to remove anything, or only to say what would go."""

    dry_run: bool = False


def _clean_up_job(app: App) -> dg.JobDefinition:
    @dg.op(name=f"{app.name}_clean_up_op")
    def clean_up(context: dg.OpExecutionContext, config: CleanUpConfig, tandem: Tandem) -> None:
        project = tandem.project(app)
        done = prune(project, dry_run=config.dry_run)
        would = "would remove" if done.dry_run else "removed"
        context.log.info(
            f"{would} {len(done.images)} images ({done.image_bytes / 1e6:.1f} MB of layers) and "
            f"model versions {done.models or 'none'}"
        )
        if not done.dry_run:
            runs = recovery.prune_runs(context.instance, keep=KEPT_RUNS)
            context.log.info(f"removed {runs} runs from Dagster's own records")
            tidied = housekeeping.tidy(project)
            context.log.info(
                f"removed {tidied.entries} unused caches ({tidied.bytes / 1e6:.1f} MB) of this disk"
            )
        for digest in done.images:
            context.log.info(f"{would} {digest}")

    @dg.job(
        name=keys.job_name(app, "clean_up"),
        description="Remove images and model versions that nobody needs any more.",
        tags=keys.run_tags(app, keys.BY_HAND),
    )
    def clean_up_job() -> None:
        clean_up()

    return clean_up_job
