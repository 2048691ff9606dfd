"""The `image` asset: the newest tested app build and the newest accepted model as one image in the
registry, started and asked before anything may use it.
"""

from collections.abc import Iterator

import dagster as dg

from tandem.dagster import keys, metadata
from tandem.dagster.app import App
from tandem.dagster.assets.model import report_judged
from tandem.dagster.resources import Tandem
from tandem.dagster.results import check_result, evaluation, tell_outcome
from tandem.errors import NothingToPack
from tandem.release import steps
from tandem.release.project import Project


def image_asset(app: App) -> dg.AssetsDefinition:
    """Packs the pair, pushes it and proves it; nothing is uploaded that the registry has.

    Where there is no pair, or its image does not answer, nothing is materialized: Dagster then
    skips what is downstream, and what is live keeps its colour.
    """
    image_key = keys.key(app, "image")

    @dg.multi_asset(
        name=f"{app.name}__image",
        specs=[
            dg.AssetSpec(
                image_key,
                deps=[keys.key(app, "app_build"), keys.key(app, "model")],
                group_name=keys.IMAGE,
                kinds={"oci"},
                skippable=True,
                description="The newest tested commit with the newest accepted model, by digest.",
            )
        ],
        check_specs=[
            dg.AssetCheckSpec(
                "starts_and_answers",
                asset=image_key,
                description="that digest starts and gives the model's golden predictions",
            )
        ],
        can_subset=True,  # so that neither must be yielded
    )
    def image(
        context: dg.AssetExecutionContext, tandem: Tandem
    ) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
        project = tandem.project(app)
        judge(context, app, project)
        before = project.ledger.images.latest()
        try:
            packed = steps.pack(project, run_id=context.run.run_id)
        except NothingToPack as problem:
            tell_outcome(context, f"nothing to pack: {problem}")
            return
        if packed.passed_over and before and before.good and before.digest == packed.digest:
            context.log.info("what is new was passed over; image %d stays", before.number)
            return
        record = steps.prove(project, packed, run_id=context.run.run_id)
        proof = record.proofs[0]
        if not proof.passed:
            tell_outcome(context, f"image refused: {proof.summary}")
        if not proof.passed or image_key not in context.selected_asset_keys:
            yield check_result(app, "image", proof)
            return
        yield dg.MaterializeResult(
            metadata=metadata.of_image(packed, app, project),
            data_version=dg.DataVersion(packed.digest),
            check_results=[check_result(app, "image", proof)],
        )

    return image


def judge(context: dg.AssetExecutionContext, app: App, project: Project) -> None:
    """Judge the newest model where that was not done yet, and say on its page what was found."""
    if steps.is_judged(project):
        return
    proofs = steps.judge_newest_model(project)
    report_judged(context.instance, app, project)
    for proof in proofs:
        more = metadata.of_judging(project) if proof.name == "good_enough" else {}
        context.instance.report_runless_asset_event(
            evaluation(app, "model", proof, blocking=False, more=more)
        )
    if refused := [proof.summary for proof in proofs if not proof.passed]:
        tell_outcome(context, f"model refused: {'; '.join(refused)}")
