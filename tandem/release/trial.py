"""Questions that a repository suggests, asked once of an instance that is started for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from tandem.build.proposals import Proposal
from tandem.errors import NothingToPack, TandemError
from tandem.release.build import build_app
from tandem.release.judging import judge_missing
from tandem.release.pack import pack
from tandem.release.pair import choose_pair
from tandem.release.project import Project
from tandem.release.prove import engine
from tandem.service.http import ask
from tandem.service.question_tables import read_questions
from tandem.targets.once import run_once


class Tried(msgspec.Struct, frozen=True, kw_only=True):
    """A proposal with what was answered: the status, and the beginning of the answer."""

    proposal: Proposal
    status: int
    excerpt: str

    @property
    def good(self) -> bool:
        """Whether the answer is one that a release may expect again."""
        return 200 <= self.status < 400


def try_questions(project: Project, proposals: Sequence[Proposal]) -> list[Tried]:
    """Build the newest commit, start it with the newest model if there is one, and ask.

    Raises `TandemError` when the tests are red, or the app does not start.
    """
    build = build_app(project)
    if build.image is None:
        raise TandemError(f"the tests did not pass: {build.report.summary}")
    digest = build.image
    try:
        judge_missing(project)
        digest = pack(project, choose_pair(project)).digest
    except NothingToPack:
        pass  # asked without a model, then
    tried = []
    with run_once(
        project.registry,
        digest,
        state=project.state / "target",
        engine=engine(project),
        health=build.asked.health,
    ) as url:
        for proposal in proposals:
            (question,) = read_questions([proposal.table], Path.cwd())
            answer = ask(
                question.method,
                url,
                question.path,
                body=question.body,
                headers=question.headers,
            )
            tried.append(
                Tried(proposal=proposal, status=answer.status, excerpt=answer.excerpt()[:70])
            )
    return tried
