"""The commits of the branch, and those among them whose tests passed."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import msgspec

from tandem.build.app_build import AppBuild
from tandem.errors import TandemError
from tandem.release.build import tests_in_words
from tandem.release.project import Project
from tandem.release.records import PassedOver
from tandem.source import Commit

log = logging.getLogger("tandem")


def green_builds(project: Project) -> tuple[Iterator[AppBuild], list[PassedOver]]:
    """The builds of the branch's commits whose tests passed, newest first, read as asked for.

    The list has, once the first was asked for, the commits above it that are red.
    """
    passed_over: list[PassedOver] = []

    def found() -> Iterator[AppBuild]:
        green = False
        for commit in history(project):
            build = project.builds.of(commit.tree)
            if build is None:
                continue  # a newer commit came in the same moment, or it is not built yet
            if build.passed:
                green = True
                yield msgspec.structs.replace(build, commit=commit.sha, subject=commit.subject)
            elif not green:
                why = tests_in_words(build.report)
                passed_over.append(PassedOver("commit", commit.sha, why))

    return found(), passed_over


def history(project: Project) -> list[Commit]:
    """The commits of the branch, newest first.

    A vanished branch or a remote that is away holds back nobody: what was seen of it last stands.
    Raises `SourceError` when it was never seen.
    """
    try:
        project.source.newest()
    except TandemError as problem:
        log.warning("%s; the commits seen last are used", problem)
    return project.source.history()
