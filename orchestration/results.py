"""How a verdict of the core is told to Dagster: as a check's result, and as a tag of the run."""

import dagster as dg

from orchestration import keys
from orchestration.apps import App
from tandem.release import Proof


def check_result(app: App, asset: str, proof: Proof) -> dg.AssetCheckResult:
    """A proof as the result of the asset's check of that name."""
    return dg.AssetCheckResult(
        asset_key=keys.key(app, asset),
        check_name=proof.name,
        passed=proof.passed,
        severity=dg.AssetCheckSeverity.ERROR,
        description=proof.summary,
        metadata={"summary": proof.summary},
    )


def evaluation(app: App, asset: str, proof: Proof, *, blocking: bool) -> dg.AssetCheckEvaluation:
    """What is reported of a check that no run has made."""
    return dg.AssetCheckEvaluation(
        asset_key=keys.key(app, asset),
        check_name=proof.name,
        passed=proof.passed,
        metadata={"summary": proof.summary},
        description=proof.summary,
        blocking=blocking,
    )


def tell_outcome(context: dg.AssetExecutionContext, outcome: str) -> None:
    """Write on the run, where its list shows it, that it ended in a red commit or a refusal."""
    context.log.warning(outcome)
    context.instance.add_run_tags(context.run.run_id, {keys.OUTCOME: outcome[:200]})
