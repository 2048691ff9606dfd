"""Asset checks that are steps of their own: each reads or makes the verdict that the core keeps.

`tests_pass` and `starts_and_answers` are results of the assets that make them. A refused model does
not block in Dagster, where all that is downstream would turn red: `image` reads the verdicts.
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
from tandem.release.record import ask_live
from tandem.release.records import Proof

MODEL_CHECKS = {
    "good_enough": "surely reaches the floor on held-out rows (the application's, else the live "
    "version's, else its publisher's), and is not worse than what is live on the same ones",
    "loads_safely": "loads with the application's own allow-list, and every file has its digest",
    "answers_match": "gives its recorded answers again, from ONNX as from scikit-learn",
    "same_interface": "is asked and answers as the commit says, and else as what is live",
}


def build_checks(app: App) -> list[dg.AssetChecksDefinition]:
    """The checks of one app; `live_answers` is blocking."""
    return [
        _model_checks(app),
        _live_answers(app),
        _as_released(app),
    ]


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


def _live_answers(app: App) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=keys.key(app, "deployment"),
        name="live_answers",
        blocking=True,
        description="the live service says the released digest and gives the golden predictions",
    )
    def live_answers(tandem: Tandem) -> dg.AssetCheckResult:
        return check_result(app, "deployment", ask_live(tandem.project(app)))

    return live_answers


AS_RELEASED = "as_released"


def _as_released(app: App) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=keys.key(app, "deployment"),
        name=AS_RELEASED,
        # Not between going live and being recorded, when the two differ.
        additional_deps=[keys.key(app, "release")],
        description="record, target, registry and the service itself say the same; the drift "
        "sensor looks again and again, and materializing `deployment` heals it",
    )
    def as_released(tandem: Tandem) -> dg.AssetCheckResult:
        return check_result(app, "deployment", drift_proof(drift(tandem.project(app))))

    return as_released


def drift_proof(differences: list[str]) -> Proof:
    """The verdict on what differs from the release record."""
    told = "; ".join(differences) or "record, target, registry and service say the same"
    return Proof(AS_RELEASED, not differences, told)
