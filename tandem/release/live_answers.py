"""The proof `live_answers`: the live service answers as its image must."""

from __future__ import annotations

from tandem.errors import TargetError
from tandem.release.project import Project
from tandem.release.records import ImageRecord, Proof
from tandem.service.probe import CONTRACT, Answers, Asked, ask_instance
from tandem.targets import Live

LIVE_ANSWERS = "live_answers"


def asked_of(project: Project, image: ImageRecord) -> Asked:
    """What an instance of that image is asked, as its commit says."""
    build = project.builds.of(image.app.tree)
    return build.asked if build else CONTRACT


def proof_of(live: Live, answers: Answers) -> Proof:
    """The proof that what is live answered right at its public address."""
    return Proof(LIVE_ANSWERS, True, f"{live.url} serves {live.digest[:19]} and {answers}")


def ask_live(project: Project) -> Proof:
    """Ask the live service all that the image must answer which the target runs."""
    return ask(project, project.target.current())


def ask(project: Project, live: Live | None) -> Proof:
    """As `ask_live`, of what the target has just reported as live."""
    if live is None:
        return Proof(LIVE_ANSWERS, False, f"nothing is live at {project.target.name}")
    image = project.ledger.image(live.digest)
    if image is None:
        return Proof(LIVE_ANSWERS, False, f"{live.digest} is live, but no record names this image")
    try:
        answers = ask_instance(
            live.url,
            digest=live.digest,
            golden=project.golden(image.model.version),
            asked=asked_of(project, image),
        )
    except TargetError as problem:
        return Proof(LIVE_ANSWERS, False, str(problem))
    return proof_of(live, answers)
