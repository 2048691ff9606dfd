"""The record of what went live."""

from __future__ import annotations

from tandem.errors import TargetError
from tandem.release.deploy import Deployed
from tandem.release.live_answers import ask
from tandem.release.project import Project
from tandem.release.records import ReleaseRecord, changes
from tandem.targets import Live
from tandem.util.clock import now


def record_release(
    project: Project, *, trigger: str, run_id: str = "", deployed: Deployed | None = None
) -> ReleaseRecord:
    """Write the record of what is live, unless the newest record names it already.

    `deployed` is what this process has just put live: its proof is taken as long as that is still
    live, and the service is asked otherwise. Raises `TargetError` when nothing is live, or what is
    live does not answer as it should.
    """
    # Read once more: another release may have gone live in between.
    live = project.target.current()
    proof = deployed.proof if deployed and live and deployed.is_of(live) else ask(project, live)
    if live is None or not proof.passed:
        raise TargetError(f"no release was recorded: {proof.summary}")
    last = project.ledger.releases.latest()
    if last and is_recorded(project, last, live):
        return last
    image = project.ledger.image(live.digest)
    if image is None:
        raise TargetError(f"no release was recorded: no record names image {live.digest}")
    return project.ledger.releases.append(
        lambda number: ReleaseRecord(
            number=number,
            time=now(),
            trigger=trigger,
            app=image.app,
            model=image.model,
            image=image.digest,
            image_number=image.number,
            reference=image.reference,
            tests=image.tests,
            proofs=[*image.proofs, proof],
            target=project.target.name,
            url=live.url,
            changed=changes(last, image.app, image.model),
            passed_over=image.passed_over,
            run_id=run_id,
        )
    )


def is_recorded(project: Project, record: ReleaseRecord, live: Live) -> bool:
    """Whether the record is of just what is live."""
    return record.image == live.digest and record.target == project.target.name
