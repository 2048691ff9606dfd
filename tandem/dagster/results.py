"""Verdicts of the core as Dagster's check results, and as a tag of the run."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from tandem.dagster import keys
from tandem.release.app import App
from tandem.release.records import Proof


def check_result(
    app: App, asset: str, proof: Proof, more: Mapping[str, Any] | None = None
) -> dg.AssetCheckResult:
    """A proof as the result of the asset's check of that name; `more` is metadata."""
    return dg.AssetCheckResult(
        asset_key=keys.key(app, asset),
        check_name=proof.name,
        passed=proof.passed,
        severity=dg.AssetCheckSeverity.ERROR,
        description=proof.summary,
        metadata={"summary": proof.summary, **(more or {})},
    )


def evaluation(
    app: App,
    asset: str,
    proof: Proof,
    *,
    blocking: bool,
    more: Mapping[str, Any] | None = None,
) -> dg.AssetCheckEvaluation:
    """What is reported of a check that no run has made."""
    return dg.AssetCheckEvaluation(
        asset_key=keys.key(app, asset),
        check_name=proof.name,
        passed=proof.passed,
        metadata=dg.AssetMaterialization(
            "m", metadata={"summary": proof.summary, **(more or {})}
        ).metadata,
        description=proof.summary,
        blocking=blocking,
    )


def tell_outcome(context: dg.AssetExecutionContext, outcome: str) -> None:
    """Tag the run, for the list of runs, with its red commit or refusal."""
    context.log.warning(outcome)
    context.instance.add_run_tags(context.run.run_id, {keys.OUTCOME: outcome[:200]})
