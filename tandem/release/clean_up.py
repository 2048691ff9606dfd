"""Removes old images and model versions, and what killed runs left behind."""

from __future__ import annotations

import logging

import msgspec

from tandem.errors import TargetError
from tandem.release.deploy import newest_image
from tandem.release.project import Project
from tandem.release.prove import engine
from tandem.targets.once import sweep_once
from tandem.util.folders import sweep_scratch

log = logging.getLogger("tandem")


class CleanUp(msgspec.Struct, frozen=True, kw_only=True):
    """What a clean-up removed, or would remove.

    `image_bytes` counts layers that no other image shares.
    """

    images: list[str]
    image_bytes: int
    models: list[int]
    dry_run: bool


def prune(project: Project, *, dry_run: bool = False) -> CleanUp:
    """Remove images and model versions beyond the number to keep.

    Never one that is live, that would go live next, or that a release record names.
    """
    from tandem.oci.prune import prune as prune_images

    number = project.settings.keep
    releases = project.ledger.releases.all()
    good, _ = newest_image(project)
    live = project.target.current()
    keep = {record.image for record in releases}
    keep |= {good.digest} if good else set()
    keep |= {live.digest} if live else set()
    images = project.ledger.images.all()
    pruned = prune_images(
        project.registry,
        [record.digest for record in images],
        app=project.app,
        keep=keep,
        number=number,
        dry_run=dry_run,
    )
    kept_models = {record.model.version for record in releases if not record.model.is_none}
    kept_models |= {r.model.version for r in images if r.digest in keep}
    models = project.models.prune(kept_models, newest=number, dry_run=dry_run)
    return CleanUp(
        images=[image.digest for image in pruned.removed],
        image_bytes=pruned.bytes,
        models=models.versions,
        dry_run=dry_run,
    )


def sweep(project: Project) -> list[str]:
    """Clean up what a killed deploy or check left running; what was done, a line each."""
    sweep_scratch()
    done = []
    for ask_one in (
        project.target.sweep,
        lambda: sweep_once(state=project.state / "target", engine=engine(project)),
    ):
        try:
            done += ask_one()
        except TargetError as problem:
            # Whoever needs that engine or cluster gets the error; others can go on.
            log.info("nothing was cleaned up: %s", problem)
    return done
