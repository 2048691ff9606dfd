"""What there is to build, pack or release, or the reason why there is nothing."""

from __future__ import annotations

import hashlib

import msgspec

from tandem.errors import NothingToPack
from tandem.model import acceptance
from tandem.model.repository import Version
from tandem.release.build import outdated, tests_in_words
from tandem.release.deploy import newest_image
from tandem.release.judging import rule
from tandem.release.pair import choose_pair
from tandem.release.project import Project
from tandem.release.record import is_recorded
from tandem.release.records import ImageRecord, PassedOver
from tandem.source import Commit


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What there is to do, or the reason why there is nothing.

    `key` names the work by what it is made from, and by nothing that another run moves; empty for
    none.
    """

    reason: str
    key: str = ""
    held: bool = False
    """Whether the newest commit or model is held back for good: red, or refused."""
    unjudged: bool = False
    """Whether a model has to be judged for it."""
    settled: bool = False
    """Whether only a newer model can change that there is nothing to do."""


class BuildPlan(Plan, frozen=True, kw_only=True):
    """As `Plan`; `commit` is the newest, whether there is something to do or not."""

    commit: Commit


class ReleasePlan(Plan, frozen=True, kw_only=True):
    """As `Plan`; `image` is what would go live."""

    image: ImageRecord | None = None
    passed_over: list[PassedOver] = []


def build(project: Project) -> BuildPlan:
    """Whether the newest commit still has to be built, or packed for the first time.

    Raises `TandemError`.
    """
    commit = project.source.newest()
    key = f"commit-{commit.sha}"
    made = project.builds.of(commit.tree)
    if made is None:
        return BuildPlan(reason=f"commit {commit.short} is not built yet", key=key, commit=commit)
    if not made.passed:
        return BuildPlan(
            reason=f"commit {commit.short} is held back: {tests_in_words(made.report)}",
            held=True,
            commit=commit,
        )
    if why := outdated(project, made):
        mark = hashlib.sha256(why.encode()).hexdigest()[:8]
        return BuildPlan(reason=f"commit {commit.short} {why}", key=f"{key}-{mark}", commit=commit)
    newest = project.ledger.images.latest()
    is_packed = newest is not None and (newest.app.tree, newest.app.commit) == (
        commit.tree,
        commit.sha,
    )
    if made.recipe.code_alone:
        if is_packed:
            why = f"commit {commit.short} is packed, without a model as its recipe says"
            return BuildPlan(reason=_nothing_changed(project, why), commit=commit)
        return BuildPlan(reason=f"commit {commit.short} is not yet packed", key=key, commit=commit)
    by = rule(project, made)
    version, refused = acceptance.newest_accepted(project.models, by)
    if version is None:
        why = f"model that is accepted (v{refused[0][0]}: {refused[0][1]})" if refused else ""
        return BuildPlan(
            reason=f"commit {commit.short} is built, and waits for a {why or 'first model'}",
            commit=commit,
        )
    # A newer model on the same commit is `image`'s to see: each is asked for by one of the two.
    if not is_packed:
        return BuildPlan(
            reason=f"commit {commit.short} is not yet packed with model v{version.number}",
            key=key,
            commit=commit,
        )
    return BuildPlan(
        reason=_nothing_changed(project, f"commit {commit.short} is built"), commit=commit
    )


def image(project: Project, version: Version | None) -> Plan:
    """Whether a model still has to be judged or packed; `version` is the newest.

    Below a refused version the next one is looked at. Raises `TandemError`.
    """
    if version is None:
        return Plan(reason=f"no model {project.app} is published yet")
    try:
        pair = choose_pair(project, unjudged=True)
    except NothingToPack as problem:
        refused = f"no version of model {project.app} was accepted" in str(problem)
        words = str(problem) if refused else f"model v{version.number} waits: {problem}"
        return Plan(reason=words, held=refused)
    found = pair.version
    if found is None:
        return Plan(reason="the newest commit takes no model: its recipe says model = false")
    refused_ones = [over for over in pair.passed_over if over.what == "model"]
    held = "; ".join(f"model {over.which} was refused: {over.reason}" for over in refused_ones[:3])
    newest = project.ledger.images.latest()
    if newest and newest.model.digest == found.digest:
        reason = held or f"nothing changed: model v{found.number} is packed"
        return Plan(reason=reason, held=bool(held), settled=not held)
    return Plan(
        reason=f"model v{found.number} is {'not yet packed' if pair.judged else 'new'}"
        + (f"; {held}" if held else ""),
        key=f"model-{found.number}-{pair.build.commit[:12]}",
        held=bool(held),
        unjudged=not pair.judged,
    )


def release(project: Project) -> ReleasePlan:
    """The image that a release would put live, or why none. Raises `TandemError`."""
    found, passed_over = newest_image(project)
    if found is None:
        reason = passed_over[0].reason if passed_over else "none was packed yet"
        return ReleasePlan(reason=f"no image of {project.app} passed its checks: {reason}")
    live = project.target.current()
    last = project.ledger.releases.latest()
    if (
        live is None
        or live.digest != found.digest
        or last is None
        or not is_recorded(project, last, live)
    ):
        return ReleasePlan(
            reason=f"image {found.number} is not live yet" if live else "nothing is live",
            key=release_key(found),
            image=found,
            passed_over=passed_over,
        )
    if drift := project.target.drift():
        return ReleasePlan(
            reason=f"changed by hand: {'; '.join(drift[:3])}", key=release_key(found), image=found
        )
    over = "".join(f"; passed over {p.what} {p.which[:19]}: {p.reason}" for p in passed_over)
    return ReleasePlan(
        reason=_nothing_changed(
            project,
            f"commit {found.app.commit[:10]} and {found.model} are live as "
            f"{found.digest[:19]}{over}",
        )
    )


def unreleased(project: Project) -> ImageRecord | None:
    """The newest proven image, if the newest release is of another. Asks no target."""
    found, _ = newest_image(project)
    last = project.ledger.releases.latest()
    return found if found and (last is None or last.image != found.digest) else None


def release_key(image: ImageRecord) -> str:
    """The name of the work of putting that image live."""
    return f"release-{image.digest.removeprefix('sha256:')[:16]}"


def _nothing_changed(project: Project, why: str) -> str:
    last = project.ledger.releases.latest()
    return (
        f"nothing changed since release {last.number}: {why}" if last else f"nothing changed: {why}"
    )
