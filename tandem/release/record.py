"""The record of what went live."""

from __future__ import annotations

from tandem.errors import TargetError
from tandem.release.deploy import asked_of
from tandem.release.project import Project
from tandem.release.records import Proof, ReleaseRecord, changes
from tandem.service.probe import ask_instance
from tandem.targets import Live
from tandem.util.clock import now


def ask_live(project: Project) -> Proof:
    """Whether the live service answers as the image that the target runs must."""
    live = project.target.current()
    if live is None:
        return Proof("live_answers", False, f"nothing is live at {project.target.name}")
    image = next(
        (record for record in project.ledger.images.newest_first() if record.digest == live.digest),
        None,
    )
    if image is None:
        return Proof(
            "live_answers", False, f"{live.digest} is live, an image of which there is no record"
        )
    try:
        answers = ask_instance(
            live.url,
            digest=live.digest,
            golden=project.golden(image.model.version),
            asked=asked_of(project, image),
        )
    except TargetError as problem:
        return Proof("live_answers", False, str(problem))
    return Proof("live_answers", True, f"{live.url} serves {live.digest[:19]} and {answers}")


def record_release(project: Project, *, trigger: str, run_id: str = "") -> ReleaseRecord:
    """Write the record of what is live, unless the newest record says just that.

    Raises `TargetError` when nothing is live, or what is live does not answer as it should.
    """
    proof = ask_live(project)
    live = project.target.current()
    if live is None or not proof.passed:
        raise TargetError(f"no release is recorded: {proof.summary}")
    last = project.ledger.releases.latest()
    if last and is_recorded(project, last, live):
        return last
    image = next(r for r in project.ledger.images.newest_first() if r.digest == live.digest)
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
