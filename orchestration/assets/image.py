"""The `image` asset: the newest tested app build and the newest accepted model as one image in the
registry.
"""

import dagster as dg

from orchestration import keys, pages
from orchestration.apps import App
from orchestration.assets.model import report_judged
from orchestration.checks import evaluation
from orchestration.resources import Tandem
from tandem import steps


def image_asset(app: App) -> dg.AssetsDefinition:
    """Packs the pair and pushes it; nothing is uploaded that the registry has."""

    @dg.asset(
        key=keys.key(app, "image"),
        deps=[keys.key(app, "app_build"), keys.key(app, "model")],
        group_name=keys.IMAGE,
        kinds={"oci"},
        description="The newest tested commit with the newest accepted model, by digest.",
    )
    def image(context: dg.AssetExecutionContext, tandem: Tandem) -> dg.MaterializeResult:
        project = tandem.project(app)
        judged = steps.is_judged(project)
        packed = steps.pack(project, run_id=context.run.run_id)
        if not judged:
            # No check of this run judged the newest model, `pack` did: its page says so too.
            report_judged(context.instance, app, project)
            for proof in steps.judge_newest_model(project):
                context.instance.report_runless_asset_event(
                    evaluation(app, "model", proof, blocking=True)
                )
        return dg.MaterializeResult(
            metadata=pages.of_image(packed, app, project),
            data_version=dg.DataVersion(packed.digest),
        )

    return image
