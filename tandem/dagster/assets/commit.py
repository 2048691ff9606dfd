"""The `commit` asset: external; the sensor reports each new commit to it."""

import dagster as dg

from tandem.dagster import keys
from tandem.release.app import App
from tandem.source import Commit, Source


def commit_asset(app: App) -> dg.AssetSpec:
    """The newest commit of the watched branch; its data version is the commit's hash."""
    return dg.AssetSpec(
        keys.key(app, "commit"),
        description="The newest commit of the watched branch, reported by the sensor.",
        group_name=keys.APPLICATION,
        kinds={"git"},
    )


def commit_event(app: App, commit: Commit, source: Source) -> dg.AssetMaterialization:
    """What is reported for one commit.

    A materialization, not an observation: an observation of an external asset leaves what is
    downstream stale for ever, while a materialization with a data version does not.
    """
    metadata: dict[str, dg.MetadataValue | str] = {
        "sha": commit.sha,
        "subject": commit.subject,
        "author": commit.author,
        "committed": commit.time,
        "branch": source.branch,
    }
    if page := source.page(commit.sha):
        metadata["page"] = dg.MetadataValue.url(page)
    return dg.AssetMaterialization(
        keys.key(app, "commit"),
        metadata=metadata,
        tags={"dagster/data_version": commit.sha},
    )
