"""A packed image, started and asked before anything may use it."""

from __future__ import annotations

import logging
import time

from tandem.errors import ImageFault
from tandem.release.pack import Packed
from tandem.release.project import Project
from tandem.release.records import ImageRecord, Proof
from tandem.service.probe import ask_private_instance
from tandem.targets.once import run_once
from tandem.util.clock import now

log = logging.getLogger("tandem")


def prove(project: Project, packed: Packed, *, run_id: str = "") -> ImageRecord:
    """Start a packed image, ask it all there is to ask, and record the verdict.

    An image that ends by itself or answers otherwise is recorded as not good. Raises `TandemError`
    when it could not be tried (no engine, no answer in time on a busy machine): that says nothing
    of the image, so nothing is recorded and the next run tries again.
    """
    golden = project.golden(packed.model.version)
    started = time.monotonic()
    try:
        with run_once(
            project.registry,
            packed.digest,
            state=project.state / "target",
            engine=engine(project),
            health=packed.asked.health,
        ) as url:
            answers = ask_private_instance(
                url, digest=packed.digest, golden=golden, asked=packed.asked
            )
        summary = f"started, and {answers} ({time.monotonic() - started:.1f} s in all)"
        proof = Proof("starts_and_answers", True, summary)
    except ImageFault as problem:
        proof = Proof("starts_and_answers", False, str(problem))
    log.info("%s: %s", packed.digest[:19], proof.summary)
    newest = project.ledger.images.latest()
    if newest and newest.digest == packed.digest and newest.good == proof.passed:
        return newest  # proven again, with the same verdict
    return project.ledger.images.append(
        lambda number: ImageRecord(
            number=number,
            digest=packed.digest,
            reference=packed.reference,
            app=packed.app,
            model=packed.model,
            tests=packed.tests,
            good=proof.passed,
            proofs=[proof],
            passed_over=packed.passed_over,
            created=now(),
            run_id=run_id,
        )
    )


def engine(project: Project) -> str:
    """What tries an image: a container where it has a Python of its own and an engine is there."""
    from tandem.oci.app_image.docker_build import engine_problem

    if not project.settings.base_image:
        return "process"
    problem = engine_problem()
    if problem:
        log.info("tried on this machine's own Python, because %s", problem)
    return "process" if problem else "docker"
