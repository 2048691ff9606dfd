"""One commit, tested and turned into an app image; a tree is built once."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path

import msgspec

from tandem.build.app_build import (
    AppBuild,
    Recipe,
    TestReport,
    locked_environment,
    read_recipe,
    run_tests,
)
from tandem.errors import BuildError
from tandem.model.package import locked_versions
from tandem.release.progress import uploading
from tandem.release.project import Project
from tandem.release.records import Proof
from tandem.source import Commit
from tandem.util.folders import clean_folder

log = logging.getLogger("tandem")


def build_app(project: Project, sha: str | None = None, *, again: bool = False) -> AppBuild:
    """Test commit `sha` (by default the newest) and make its layers; a tree that passed before is
    found again.

    A report of failed tests is a result too. `again` runs the tests although there is a build of
    this tree. Raises `SourceError`, `BuildError` and `RegistryError`.
    """
    source = project.source
    commit = source.commit(sha) if sha else source.newest()
    left_out = source.left_out()
    for path in left_out[:5]:
        log.info("left out, because it is not committed: %s", path)
    known = project.builds.of(commit.tree)
    if known and not again and _still_good(project, known):
        log.info("commit %s: tree %s was built before", commit.short, commit.tree[:10])
        build = msgspec.structs.replace(
            known, commit=commit.sha, subject=commit.subject, time=commit.time, left_out=left_out
        )
        if known.commit != commit.sha:
            project.builds.keep(build)
        return build
    log.info("building commit %s %s", commit.short, commit.subject)
    with clean_folder(project.state, "checkouts") as folder:
        source.checkout(commit.sha, folder)
        try:
            recipe = read_recipe(folder, project.app)
        except BuildError as problem:
            return _without_recipe(project, commit, problem)
        python = locked_environment(folder / recipe.test_lock, project.state / "environments")
        report = run_tests(folder, recipe, python=python)
        log.info("tests of %s: %s", commit.short, report.summary)
        build = AppBuild(
            commit=commit.sha,
            tree=commit.tree,
            subject=commit.subject,
            time=commit.time,
            report=report,
            recipe=recipe,
            made_for=_made_for(project),
            left_out=left_out,
        )
    if report.passed:
        # Checked out anew: the tests may have written where they ran.
        with clean_folder(project.state, "checkouts") as folder:
            source.checkout(commit.sha, folder)
            build = _make_app_image(project, folder, build)
    project.builds.keep(build)
    return build


def _without_recipe(project: Project, commit: Commit, problem: BuildError) -> AppBuild:
    """The red build of a commit that does not say, or says wrongly, how it is built.

    A verdict on the commit, as failed tests are: it must not keep an older one from being packed.
    """
    log.info("commit %s: %s", commit.short, problem)
    report = TestReport(
        passed=False, total=0, skipped=0, seconds=0.0, failures=[], summary=str(problem), output=""
    )
    recipe = Recipe(name=project.app, paths=[], lock="", test_lock="", test=[], command=[])
    build = AppBuild(
        commit=commit.sha,
        tree=commit.tree,
        subject=commit.subject,
        time=commit.time,
        report=report,
        recipe=recipe,
        made_for=_made_for(project),
    )
    project.builds.keep(build)
    return build


def _make_app_image(project: Project, folder: Path, build: AppBuild) -> AppBuild:
    from tandem.oci.app_image.make import make_app_image
    from tandem.oci.attest import attach_materials, signing_key
    from tandem.oci.image import digest_of, push

    recipe, lock = build.recipe, folder / build.recipe.lock
    tag = f"app-{build.tree[:12]}"
    made = make_app_image(
        folder,
        recipe.paths,
        lock,
        cache=project.state / "cache",
        registry=project.registry,
        tag=tag,
        app=project.app,
        commit="",  # of the tree alone: the commit is written when the model is put on
        builder=project.settings.builder,
        base=project.settings.base_image,
        command=recipe.command,
        progress=log.info,
    )
    transfers = push(
        project.registry,
        made.image,
        made.sources,
        tag=tag,
        mount_from=made.mount_from,
        progress=uploading(),
    )
    attach_materials(
        project.registry, made.image, made.components, app=project.app, signer=signing_key()
    )
    return msgspec.structs.replace(
        build,
        image=made.image.digest,
        layers=list(made.image.layers),
        transfers=transfers,
        lock_digest=digest_of(lock.read_bytes()),
        locked=locked_versions(lock.read_text(encoding="utf-8")),
        base_digest=made.base,
        builder=made.builder,
        components=len(made.components),
    )


def _made_for(project: Project) -> str:
    """What decides, beside the tree, what an app image is."""
    settings = project.settings
    python = "" if settings.base_image else f"{sys.version_info.major}.{sys.version_info.minor}"
    return f"{settings.builder} on {settings.base_image or f'host Python {python}'}"


def outdated(project: Project, build: AppBuild) -> str:
    """Why a passed build has to be made again: other settings, or the base image was renewed."""
    if not build.passed:
        return ""
    if build.made_for != _made_for(project):
        return f"was made by {build.made_for}, and the settings say {_made_for(project)}"
    base = project.settings.base_image
    if base and build.base_digest and (newest := base_digest(base)) != build.base_digest:
        return f"was made on an older {base} ({build.base_digest[:19]}, now {newest[:19]})"
    return ""


_BASE_SECONDS = 300.0

_bases: dict[str, tuple[float, str]] = {}


def base_digest(reference: str) -> str:
    """The digest that a base image's tag stands for, asked of its registry every five minutes."""
    from tandem.oci.app_image.assemble import find_base

    asked, digest = _bases.get(reference, (0.0, ""))
    if not digest or time.monotonic() - asked > _BASE_SECONDS:
        digest = find_base(reference).digest
        _bases[reference] = (time.monotonic(), digest)
    return digest


def _still_good(project: Project, build: AppBuild) -> bool:
    if not build.report.passed:
        return True
    return (
        build.image is not None
        and not outdated(project, build)
        and project.registry.get_manifest(build.image) is not None
    )


def tests_proof(build: AppBuild) -> Proof:
    """Whether the tests of that build passed, with the failures by name."""
    return Proof("tests_pass", build.passed, tests_in_words(build.report))


def tests_in_words(report: TestReport) -> str:
    """What the tests said, with the first failures by name."""
    names = ", ".join(failure.test for failure in report.failures[:3])
    return f"{report.summary}: {names}" if names else report.summary
