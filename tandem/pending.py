"""What there is to build, to pack or to release, or the reason why there is nothing."""

from __future__ import annotations

import msgspec

from tandem import gates
from tandem.errors import TandemError
from tandem.project import Project
from tandem.release import ImageRecord, PassedOver
from tandem.repository import Version
from tandem.source import Commit
from tandem.steps import is_recorded, newest_green, tests_in_words


class Pending(msgspec.Struct, frozen=True, kw_only=True):
    """What there is to do, or the reason why there is nothing; `key` names the work, empty for
    none.
    """

    reason: str
    key: str = ""
    held: bool = False
    """Whether the newest commit or model is held back for good: red, or refused."""
    settled: bool = False
    """Whether only a newer model can change that there is nothing to do."""
    commit: Commit | None = None
    image: ImageRecord | None = None
    passed_over: list[PassedOver] = []


def build(project: Project) -> Pending:
    """Whether the newest commit still has to be built or packed. Raises `TandemError`."""
    commit = project.source.newest()
    made = project.builds.of(commit.tree)
    if made is None:
        return Pending(
            reason=f"commit {commit.short} is not built yet",
            key=f"commit-{commit.sha}-{_mark(project)}",
            commit=commit,
        )
    if not made.passed:
        return Pending(
            reason=f"commit {commit.short} is held back: {tests_in_words(made.report)}",
            held=True,
            commit=commit,
        )
    version, _ = gates.newest_accepted(project.models)
    if version and not project.ledger.image_of(commit.tree, commit.sha, version.digest):
        return Pending(
            reason=f"commit {commit.short} is not yet packed with model v{version.number}",
            key=f"commit-{commit.sha}-{_mark(project)}",
            commit=commit,
        )
    return Pending(
        reason=_nothing_changed(project, f"commit {commit.short} is built")
        if version
        else f"commit {commit.short} is built, and waits for a first model",
        commit=commit,
    )


def image(project: Project, version: Version | None) -> Pending:
    """Whether the newest model version still has to be judged or packed. Raises `TandemError`."""
    if version is None:
        return Pending(reason=f"no model {project.app} is published yet")
    verdict = gates.verdict(project.models, version.number)
    if verdict and not verdict.accepted:
        reasons = "; ".join(check.summary for check in verdict.checks if not check.passed)
        return Pending(reason=f"model v{version.number} was refused: {reasons}", held=True)
    newest = project.ledger.images.latest()
    if newest and newest.model.digest == version.digest:
        return Pending(reason=f"nothing changed: model v{version.number} is packed", settled=True)
    try:
        # A run that finds no code to pack with would fail, and be given up after some tries, while
        # the first build is still on.
        newest_green(project)
    except TandemError as problem:
        return Pending(reason=f"model v{version.number} waits: {problem}")
    return Pending(
        reason=f"model v{version.number} is {'not yet packed' if verdict else 'new'}",
        key=f"model-{version.number}-{_mark(project)}",
    )


def release(project: Project) -> Pending:
    """The image that a release would put live, or why there is none. Raises `TandemError`."""
    found, passed_over = project.ledger.newest_good_image()
    if found is None:
        reason = passed_over[0].reason if passed_over else "none was packed yet"
        return Pending(reason=f"no image of {project.app} passed its checks: {reason}")
    live = project.target.current()
    last = project.ledger.releases.latest()
    if (
        live is None
        or live.digest != found.digest
        or last is None
        or not is_recorded(project, last, live)
    ):
        return Pending(
            reason=f"image {found.number} is not live yet" if live else "nothing is live",
            image=found,
            passed_over=passed_over,
        )
    if drift := project.target.drift():
        return Pending(reason=f"changed by hand: {'; '.join(drift[:3])}", image=found)
    over = "".join(f"; passed over {p.what} {p.which[:19]}: {p.reason}" for p in passed_over)
    return Pending(
        reason=_nothing_changed(
            project,
            f"commit {found.app.commit[:10]} and model v{found.model.version} are live as "
            f"{found.digest[:19]}{over}",
        )
    )


def _nothing_changed(project: Project, why: str) -> str:
    last = project.ledger.releases.latest()
    return (
        f"nothing changed since release {last.number}: {why}" if last else f"nothing changed: {why}"
    )


def _mark(project: Project) -> int:
    newest = project.ledger.images.latest()
    return newest.number if newest else 0
