"""Which commit and which model belong together just now, read from records alone."""

from __future__ import annotations

import msgspec

from tandem.build.app_build import AppBuild
from tandem.errors import NothingToPack
from tandem.model import acceptance
from tandem.model.repository import Version
from tandem.release.judging import only_interface, rules
from tandem.release.project import Project
from tandem.release.records import PassedOver


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """The newest commit whose tests passed and the newest accepted model.

    `passed_over`: what is newer and was not taken; `overruled`: who accepted the model, and why,
    although it was not good enough.
    """

    build: AppBuild
    version: Version | None
    """None for an app that is released as code alone."""
    passed_over: list[PassedOver]
    overruled: str = ""
    judged: bool = True


def choose_pair(project: Project, *, unjudged: bool = False) -> Pair:
    """The newest commit of the branch whose tests passed, with the newest model that was accepted.

    A commit whose code is written for a model that is not there yet is passed over for an older
    one. With `unjudged`, a version that was not judged yet counts as accepted. Raises
    `NothingToPack` saying what is missing when there is no such commit or no such model.
    """
    builds, passed_over = rules(project)
    newest = project.models.latest()
    if newest is None:
        alone = next((build for build, _ in builds), None)
        if alone and alone.recipe.code_alone:
            return Pair(build=alone, version=None, passed_over=passed_over)
        raise NothingToPack(
            f"no model {project.app} is published yet: `tandem publish`, or train one"
        )
    waiting: list[PassedOver] = []
    first = ""
    for build, by in builds:
        if build.recipe.code_alone:
            return Pair(build=build, version=None, passed_over=[*passed_over, *waiting])
        refused: list[PassedOver] = []
        fits_another = False
        for version in project.models.versions():
            verdict = acceptance.standing_verdict(project.models, version, by)
            if verdict.accepted if verdict else unjudged:
                return Pair(
                    build=build,
                    version=version,
                    passed_over=[*passed_over, *waiting, *refused],
                    overruled=_overruled(verdict),
                    judged=verdict is not None,
                )
            reason = verdict.reason if verdict else "not judged yet"
            refused.append(PassedOver("model", f"v{version.number}", reason))
            fits_another = fits_another or (verdict is not None and only_interface(verdict))
        first = first or f"{refused[0].which} was refused, {refused[0].reason}"
        waiting.append(PassedOver("commit", build.commit, "it waits for a model that fits it"))
        if not fits_another:
            break
    if not first:
        reason = passed_over[0].reason if passed_over else "none was built yet"
        raise NothingToPack(f"no commit of {project.source.branch} passed its tests: {reason}")
    raise NothingToPack(f"no version of model {project.app} was accepted: {first}")


def _overruled(verdict: acceptance.Verdict | None) -> str:
    if verdict is None or not verdict.overruled_by:
        return ""
    return f"{verdict.overruled_by}: {verdict.overruled_reason}"
