"""The newest proven image, live: which it is, and putting it there."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

import msgspec

from tandem.errors import RegistryError, SourceError, TandemError
from tandem.release.commits import history
from tandem.release.pack import sign_again
from tandem.release.project import Project
from tandem.release.records import ImageRecord, PassedOver, ReleaseRecord
from tandem.service.probe import CONTRACT, Asked, ask_instance
from tandem.targets import DeployRequest, Live

log = logging.getLogger("tandem")


class Deployed(msgspec.Struct, frozen=True, kw_only=True):
    """What is live; `changed` is False when it was live already."""

    live: Live
    details: Mapping[str, Any]
    """All that the target knows: processes, pods, events."""
    image: ImageRecord
    changed: bool
    seconds: float
    passed_over: list[PassedOver]


def newest_image(project: Project) -> tuple[ImageRecord | None, list[PassedOver]]:
    """The image of the newest commit, then the newest model, that passed its checks, and what was
    passed over for it.
    """
    try:
        commits = [commit.sha for commit in history(project)]
    except SourceError:
        commits = []
    newest = project.models.latest()
    return project.ledger.newest_good_image(commits, newest.number if newest else 0)


def _newest_image(project: Project) -> tuple[ImageRecord, list[PassedOver]]:
    image, passed_over = newest_image(project)
    if image is None:
        reason = passed_over[0].reason if passed_over else "none was packed yet"
        raise TandemError(f"no image of {project.app} passed its checks: {reason}")
    return image, passed_over


def next_deployment(project: Project) -> DeployRequest:
    """What `deploy` would ask of the target. Raises `TandemError` when no image was proven yet."""
    return _request(project, _newest_image(project)[0])


def _request(project: Project, image: ImageRecord) -> DeployRequest:
    asked = asked_of(project, image)
    return DeployRequest(
        app=project.app,
        release=_release_number(project.ledger.releases.latest(), image),
        registry=project.registry,
        digest=image.digest,
        annotations=_annotations(image),
        health=asked.health,
        names_its_image=asked.contract,
    )


def asked_of(project: Project, image: ImageRecord) -> Asked:
    """What an instance of that image is asked, as its commit says."""
    build = project.builds.of(image.app.tree)
    return build.asked if build else CONTRACT


def deploy(project: Project) -> Deployed:
    """Make the newest image that passed its checks live; what is live already is not touched.

    Raises `TargetError` once the previous one serves again, `TandemError` when no image was proven
    yet.
    """
    from tandem.oci.attest.signature import checking_key, signing_key
    from tandem.oci.attest.trust import require_signed

    started = time.monotonic()
    image, passed_over = _newest_image(project)
    if project.registry.get_manifest(image.digest) is None:
        raise RegistryError(
            f"{image.reference} is recorded as proven, but the registry has it no longer: run "
            f"{project.app}_build to pack it again"
        )
    if key := checking_key():
        try:
            require_signed(project.registry, image.digest, key)
        except RegistryError:
            # It was packed before there was a key: what we recorded of it is signed now.
            if signing_key() is None:
                raise
            sign_again(project, image)
            require_signed(project.registry, image.digest, key)
    before = project.target.current()
    golden = project.golden(image.model.version)
    asked = asked_of(project, image)

    def check(url: str) -> None:
        ask_instance(url, digest=image.digest, golden=golden, asked=asked)

    live = project.target.deploy(
        _request(project, image),
        check=check,
        progress=lambda text: log.info("%s", text),
        live=before,
    )
    return Deployed(
        live=live,
        details={**live.detail, **project.target.details()},
        image=image,
        changed=before is None or before.since != live.since,
        seconds=round(time.monotonic() - started, 2),
        passed_over=passed_over,
    )


def _release_number(last: ReleaseRecord | None, image: ImageRecord) -> int:
    if last is None:
        return 1
    return last.number if last.image == image.digest else last.number + 1


def _annotations(image: ImageRecord) -> dict[str, str]:
    annotations = {"tandem.app.commit": image.app.commit}
    if not image.model.is_none:
        annotations["tandem.model.name"] = image.model.name
        annotations["tandem.model.version"] = str(image.model.version)
        annotations["tandem.model.digest"] = image.model.digest
    return annotations
