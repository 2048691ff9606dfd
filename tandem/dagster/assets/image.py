"""The `image` asset: app build and model as one image, proven before its use."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from tandem.dagster import keys, metadata
from tandem.dagster.assets.model import report_judged
from tandem.dagster.resources import Tandem
from tandem.dagster.results import check_result, evaluation, tell_outcome
from tandem.errors import NothingToPack
from tandem.release.app import App
from tandem.release.judging import is_judged, judge_missing, judge_newest
from tandem.release.pack import pack
from tandem.release.pair import choose_pair
from tandem.release.project import Project
from tandem.release.prove import prove


def image_asset(app: App) -> dg.AssetsDefinition:
    """Packs, pushes and proves the newest tested commit with the newest good model.

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
    ) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]:
        project = tandem.project(app)
        judge(context, app, project)
        judge_missing(project)  # of the older ones, where the newest was refused
        before = project.ledger.images.latest()
        try:
            packed = pack(project, choose_pair(project), run_id=context.run.run_id)
        except NothingToPack as problem:
            tell_outcome(context, f"nothing to pack: {problem}")
            return
        if packed.passed_over and before and before.good and before.digest == packed.digest:
            context.log.info("what is new was passed over; image %d stays", before.number)
            return
        record = prove(project, packed, run_id=context.run.run_id)
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
    """Judge the newest model if that was not done yet, and report it on its page."""
    if is_judged(project):
        return
    proofs = judge_newest(project)
    report_judged(context.instance, app, project)
    for proof in proofs:
        more = metadata.of_judging(project) if proof.name == "good_enough" else {}
        context.instance.report_runless_asset_event(
            evaluation(app, "model", proof, blocking=False, more=more)
        )
    if refused := [proof.summary for proof in proofs if not proof.passed]:
        tell_outcome(context, f"model refused: {'; '.join(refused)}")
