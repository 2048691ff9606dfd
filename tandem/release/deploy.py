"""The newest proven image, live: which it is, and putting it there."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from tandem.errors import RegistryError, SourceError, TandemError
from tandem.release.commits import history
from tandem.release.live_answers import ask, asked_of, proof_of
from tandem.release.pack import sign_again
from tandem.release.project import Project
from tandem.release.records import ImageRecord, PassedOver, Proof, ReleaseRecord
from tandem.service.probe import Answers, ask_instance
from tandem.source import Commit
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
    proof: Proof
    """What the service answered at its public address once it was live."""

    def is_of(self, live: Live) -> bool:
        """Whether that is live still, and nothing else went live since."""
        return (live.digest, live.since) == (self.live.digest, self.live.since)


def newest_image(project: Project) -> tuple[ImageRecord | None, list[PassedOver]]:
    """The newest image that passed its checks, and what was passed over for it.

    Newest by commit, then by model. The remote is asked only where an image is of a commit that the
    mirror has not seen on the branch.
    """
    newest = project.models.latest()
    return project.ledger.newest_good_image(
        _shas(project.source.history),
        newest.number if newest else 0,
        ask=lambda: _shas(lambda: history(project)),
    )


def _shas(commits: Callable[[], list[Commit]]) -> list[str]:
    """Their hashes; none where the branch was never seen."""
    try:
        return [commit.sha for commit in commits()]
    except SourceError:
        return []


def _newest_image(project: Project) -> tuple[ImageRecord, list[PassedOver]]:
    image, passed_over = newest_image(project)
    if image is None:
        reason = passed_over[0].reason if passed_over else "none was packed yet"
        raise TandemError(f"no image of {project.app} passed its checks: {reason}")
    return image, passed_over


def next_deployment(project: Project) -> DeployRequest:
    """What `deploy` would ask of the target. Raises `TandemError` without an image."""
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


def deploy(project: Project) -> Deployed:
    """Make the newest proven image live; what is live already is not touched.

    Raises `TargetError` once the previous one serves again, `TandemError` when no image was proven
    yet.
    """
    from tandem.oci.attest.signature import checking_key, signing_key
    from tandem.oci.attest.trust import require_signed

    started = time.monotonic()
    image, passed_over = _newest_image(project)
    if project.registry.get_manifest(image.digest) is None:
        raise RegistryError(
            f"{image.reference} is recorded as proven, but no longer in the registry: run "
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
    answers: dict[str, Answers] = {}

    def check(url: str) -> None:
        answers[url] = ask_instance(url, digest=image.digest, golden=golden, asked=asked)

    live = project.target.deploy(
        _request(project, image),
        check=check,
        progress=lambda text: log.info("%s", text),
        live=before,
    )
    # The last check that the target made was at the public address.
    public = answers.get(live.url)
    return Deployed(
        live=live,
        details={**live.detail, **project.target.details()},
        image=image,
        changed=before is None or before.since != live.since,
        seconds=round(time.monotonic() - started, 2),
        passed_over=passed_over,
        proof=proof_of(live, public) if public else ask(project, live),
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
