"""The verdicts on models: by which rule just now, and those that are missing."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from tandem.build.app_build import AppBuild
from tandem.errors import NothingToPack, SourceError
from tandem.model import acceptance
from tandem.model import judge as judging_process
from tandem.model.rules import Criteria
from tandem.release.commits import green_builds
from tandem.release.project import Project
from tandem.release.records import PassedOver, Proof
from tandem.util.folders import beside


def rule(project: Project, build: AppBuild | None = None) -> Criteria:
    """What models are judged by just now, beside the code of `build`.

    By default that of the newest commit whose tests passed: a model is judged by the libraries
    that it would be served with, and must fit the code.
    """
    build = build or newest_green(project)
    champion = project.ledger.releases.latest()
    return Criteria(
        rule=project.rule,
        takes=build.recipe.model if build else None,
        lock=(build.locked or None) if build else None,
        trust=tuple(build.recipe.trust) if build else (),
        champion=(champion.model.version or None) if champion else None,
    )


def newest_green(project: Project) -> AppBuild | None:
    """The build of the newest commit whose tests passed, if there is one."""
    with contextlib.suppress(NothingToPack, SourceError):
        return next(green_builds(project)[0], None)
    return None


def _modules(project: Project, build: AppBuild) -> tuple[Path, ...]:
    """The folder of the commit's own modules, where it trusts classes of theirs.

    Only the judge reads it, in the sandbox: what is imported there is somebody's code.
    """
    if not set(build.recipe.trust) - {"pickle"}:
        return ()
    folder = project.state / "modules" / build.tree
    if not folder.is_dir():
        with beside(folder) as making:
            project.source.checkout(build.commit, making)
    os.utime(folder)  # what is not used for long is removed
    return (folder,)


def rules(project: Project) -> tuple[Iterator[tuple[AppBuild, Criteria]], list[PassedOver]]:
    """The newest commits whose tests passed, one for each model that code was written for.

    Each with the rule by which a model beside it is judged; the list has the red commits above.
    """
    builds, passed_over = green_builds(project)

    def different() -> Iterator[tuple[AppBuild, Criteria]]:
        seen = []
        for build in builds:
            takes = (build.recipe.code_alone, build.recipe.model)
            if takes not in seen:
                seen.append(takes)
                yield build, rule(project, build)

    return different(), passed_over


def judge_missing(project: Project) -> None:
    """Judge versions, the newest first, until one is accepted.

    Raises `StorageError`, `SettingError` for a rule that cannot be read, and `SandboxError` when
    this machine cannot judge, which says nothing of the version.
    """
    for build, by in rules(project)[0]:
        if build.recipe.code_alone:
            return
        fits_another = False
        for version in project.models.versions():
            verdict = acceptance.standing_verdict(project.models, version, by)
            if verdict is None:
                verdict = judge(project, version.number, by, build)
            if verdict.accepted:
                return
            fits_another = fits_another or only_interface(verdict)
        if not fits_another:
            return


def only_interface(verdict: acceptance.Verdict) -> bool:
    """Whether the version was refused only for not fitting the code: it may fit an older commit."""
    return [check.name for check in verdict.checks if not check.passed] == ["same_interface"]


def judge_newest(project: Project) -> list[Proof]:
    """The verdict that stands on the newest version; judged now where there is none yet."""
    version = project.models.latest()
    if version is None:
        return [
            Proof(name, False, f"no model {project.app} is published yet")
            for name in acceptance.CHECKS
        ]
    build = newest_green(project)
    verdict = judge(project, version.number, rule(project, build), build)
    return [Proof(check.name, check.passed, check.summary) for check in verdict.checks]


def is_judged(project: Project) -> bool:
    """Whether a verdict stands on the newest version."""
    version = project.models.latest()
    return version is None or (
        acceptance.standing_verdict(project.models, version, rule(project)) is not None
    )


def judge(
    project: Project, number: int, by: Criteria, build: AppBuild | None
) -> acceptance.Verdict:
    """The verdict that stands on that version, or a new one, beside the code of `build`."""
    if build is not None:
        by = msgspec.structs.replace(by, modules=_modules(project, build))
    return acceptance.judge(project.models, number, by, cache=project.state / "models")


def expect_judging(project: Project) -> None:
    """Start what judges a model ahead, as a version is about to be published or judged."""
    judging_process.start_ahead(project.state / "models")
