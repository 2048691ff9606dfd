"""Asset checks that are steps of their own, over the core's verdicts.

`tests_pass`, `starts_and_answers` and `live_answers` are results of the assets that make them. A
refused model does not block in Dagster, where all that is downstream would turn red: `image` reads
the verdicts.
"""

from collections.abc import Iterator

import dagster as dg

from tandem.dagster import keys, metadata
from tandem.dagster.assets.model import report_judged
from tandem.dagster.resources import Tandem
from tandem.dagster.results import check_result
from tandem.release.app import App
from tandem.release.drift import drift
from tandem.release.judging import is_judged, judge_newest
from tandem.release.records import Proof

MODEL_CHECKS = {
    "good_enough": "reaches the floor on held-out rows with confidence (the application's, else "
    "the live version's, else its publisher's), and is not worse than the live version on them",
    "loads_safely": "loads with the application's own allow-list, and every file has its digest",
    "answers_match": "reproduces its recorded answers, from ONNX and from scikit-learn",
    "same_interface": "has the inputs and outputs that the commit declares, or the live version",
}


def build_checks(app: App) -> list[dg.AssetChecksDefinition]:
    """The checks of one app that no asset makes."""
    return [_model_checks(app), _as_released(app)]


def _model_checks(app: App) -> dg.AssetChecksDefinition:
    specs = [
        dg.AssetCheckSpec(name, asset=keys.key(app, "model"), description=description)
        for name, description in MODEL_CHECKS.items()
    ]

    @dg.multi_asset_check(name=f"{app.name}_model_checks", specs=specs)
    def model_checks(
        context: dg.AssetCheckExecutionContext, tandem: Tandem
    ) -> Iterator[dg.AssetCheckResult]:
        project = tandem.project(app)
        judged = is_judged(project)
        proofs = judge_newest(project)
        if not judged:
            report_judged(context.instance, app, project)
        for proof in proofs:
            more = metadata.of_judging(project) if proof.name == "good_enough" else {}
            yield check_result(app, "model", proof, more)

    return model_checks


AS_RELEASED = "as_released"


def _as_released(app: App) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=keys.key(app, "deployment"),
        name=AS_RELEASED,
        # Not between going live and being recorded, when the two differ.
        additional_deps=[keys.key(app, "release")],
        description="record, target, registry and the service itself agree; the drift sensor "
        "compares them continuously, and materializing `deployment` repairs a difference",
    )
    def as_released(tandem: Tandem) -> dg.AssetCheckResult:
        return check_result(app, "deployment", drift_proof(drift(tandem.project(app))))

    return as_released


def drift_proof(differences: list[str]) -> Proof:
    """The verdict on what differs from the release record."""
    summary = "; ".join(differences) or "record, target, registry and service agree"
    return Proof(AS_RELEASED, not differences, summary)
