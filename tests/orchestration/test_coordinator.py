"""Runs that a person starts in the UI are runs of their app."""

from __future__ import annotations

import shutil
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.run_coordinator import SubmitRunContext

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def instance(tmp_path: Path):
    shutil.copy(ROOT / "dagster.yaml", tmp_path)
    with dg.DagsterInstance.from_config(str(tmp_path)) as made:
        yield made


def submitted(instance: dg.DagsterInstance, way, keys: list[list[str]]) -> dg.DagsterRun:
    """A run of just these assets without any tag, as the button of the UI submits it."""
    job = way.defs.resolve_job_def("tiny_build")
    run = instance.create_run_for_job(
        job, asset_selection=frozenset(map(dg.AssetKey, keys)), status=dg.DagsterRunStatus.STARTED
    )
    instance.run_coordinator.submit_run(SubmitRunContext(run, None))
    return instance.get_run_by_id(run.run_id)


def test_what_is_materialized_by_hand_counts_as_the_apps_run(instance, way) -> None:
    run = submitted(instance, way, [["tiny", "image"]])
    assert run.tags["tandem/app"] == "tiny"
    assert run.tags["tandem/trigger"] == "by hand in the Dagster UI"


def test_a_run_of_others_assets_is_left_as_it_is(instance) -> None:
    @dg.asset(key=["one", "two", "three"])
    def other() -> None: ...

    job = dg.Definitions([other]).resolve_implicit_global_asset_job_def()
    run = instance.create_run_for_job(job, asset_selection=frozenset([other.key]))
    with pytest.raises(Exception):  # noqa: B017 - it has no origin to be queued with
        instance.run_coordinator.submit_run(SubmitRunContext(run, None))
    assert "tandem/app" not in instance.get_run_by_id(run.run_id).tags
