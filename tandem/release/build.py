"""One commit, tested and turned into an app image; a tree is built once."""

from __future__ import annotations

import hashlib
import logging
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from tandem.build.app_build import AppBuild
from tandem.build.environment import locked_environment
from tandem.build.locks import Lock, Locks, lock
from tandem.build.recipe import Recipe, read_recipe
from tandem.build.tests import NO_TESTS, TestReport, run_tests
from tandem.errors import BuildError, RecipeError, SettingError
from tandem.model.package import locked_versions
from tandem.release.progress import uploading
from tandem.release.project import Project
from tandem.release.records import Proof
from tandem.service.probe import Asked
from tandem.service.question_tables import read_questions
from tandem.source import Commit
from tandem.util.files import write_whole
from tandem.util.folders import scratch

if TYPE_CHECKING:
    from tandem.oci.app_image.base import BaseImage

log = logging.getLogger("tandem")


def build_app(project: Project, sha: str | None = None, *, again: bool = False) -> AppBuild:
    """Test commit `sha` (by default the newest) and make its layers.

    A tree that passed before is found again.

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
    # Where no configuration of an outer project reaches: tests look for it above their folder.
    with scratch("checkouts") as folder:
        source.checkout(commit.sha, folder)
        try:
            recipe = read_recipe(folder, project.app)
            asked = _asked(recipe, folder)
            app_lock, test_lock = _locks(project, folder, recipe)
        except RecipeError as problem:
            return _without_recipe(project, commit, problem)
        report = NO_TESTS
        if recipe.tests:
            name = recipe.test_lock or recipe.lock
            pinned = _lock_file(project, folder, name, test_lock)
            python = locked_environment(pinned, project.state / "environments")
            report = run_tests(folder, recipe.test, python=python)
        log.info("tests of %s: %s", commit.short, report.summary)
        build = msgspec.structs.replace(
            _tested(project, commit, recipe, report), left_out=left_out, asked=asked
        )
    if report.passed:
        # Checked out anew: the tests may have written where they ran.
        with scratch("checkouts") as folder:
            source.checkout(commit.sha, folder)
            build = _make_app_image(project, folder, build, app_lock)
    project.builds.keep(build)
    return build


def _asked(recipe: Recipe, folder: Path) -> Asked:
    """What the service will be asked; the files that are sent come from the commit."""
    try:
        questions = read_questions(recipe.questions, folder)
    except SettingError as problem:
        raise RecipeError(str(problem)) from None
    return Asked(contract=recipe.contract, health=recipe.health, questions=questions)


def _locks(project: Project, folder: Path, recipe: Recipe) -> tuple[Lock, Lock]:
    """What pins the libraries of the app, and those of its tests.

    The commit's own ones where they pin everything by hash. Raises `RecipeError`, and `BuildError`
    where an index is unreachable.
    """
    locks = Locks(project.store, project.app)
    python = _python(project)
    app = lock(folder, recipe.lock, locks=locks, python=python, also=recipe.needs)
    for note in app.notes:
        log.info("%s", note)
    if not recipe.tests:
        return app, app
    if recipe.test_lock:
        return app, lock(folder, recipe.test_lock, locks=locks, python=python)
    needs = [*recipe.needs, "pytest"]
    more = recipe.test_requirements
    return app, lock(folder, recipe.lock, locks=locks, python=python, also=needs, more=more)


def _lock_file(project: Project, folder: Path, name: str, found: Lock) -> Path:
    """The commit's own file, or the lock that was made for it, on this disk."""
    if found.own:
        return folder / name
    data = found.text.encode()
    path = project.state / "locks" / f"{hashlib.sha256(data).hexdigest()[:16]}.txt"
    if not path.exists():
        write_whole(path, data)
    os.utime(path)  # what is not used for long is removed
    return path


def _python(project: Project) -> str:
    """The Python that the image will have, like "3.11"."""
    if base := project.settings.base_image:
        return _base(base).runtime.version
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _without_recipe(project: Project, commit: Commit, problem: BuildError) -> AppBuild:
    """The red build of a commit that does not say, or says wrongly, how it is built.

    A verdict on the commit, as failed tests are: it must not keep an older one from being packed.
    """
    log.info("commit %s: %s", commit.short, problem)
    report = TestReport(
        passed=False, total=0, skipped=0, seconds=0.0, failures=[], summary=str(problem), output=""
    )
    recipe = Recipe(name=project.app, paths=[], lock="", test_lock="", test=[], command=[])
    build = _tested(project, commit, recipe, report)
    project.builds.keep(build)
    return build


def _tested(project: Project, commit: Commit, recipe: Recipe, report: TestReport) -> AppBuild:
    """The build of a commit as far as its tests."""
    return AppBuild(
        commit=commit.sha,
        tree=commit.tree,
        subject=commit.subject,
        time=commit.time,
        report=report,
        recipe=recipe,
        made_for=_made_for(project),
    )


def _make_app_image(project: Project, folder: Path, build: AppBuild, found: Lock) -> AppBuild:
    from tandem.oci.app_image.make import make_app_image
    from tandem.oci.attest.materials import attach_materials
    from tandem.oci.attest.signature import signing_key
    from tandem.oci.blobs import digest_of
    from tandem.oci.push import push

    recipe = build.recipe
    lock_file = _lock_file(project, folder, recipe.lock, found)
    builder = project.settings.builder
    if builder == "auto" and not _is_for_tandem(folder, found):
        builder = "assemble"
    tag = f"app-{build.tree[:12]}"
    made = make_app_image(
        folder,
        recipe.paths,
        lock_file,
        cache=project.state / "cache",
        registry=project.registry,
        tag=tag,
        app=project.app,
        commit="",  # of the tree alone: the commit is written when the model is put on
        builder=builder,
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
        lock_digest=digest_of(lock_file.read_bytes()),
        locked=locked_versions(lock_file.read_text(encoding="utf-8")),
        base_digest=made.base,
        builder=made.builder,
        components=len(made.components),
    )


def _is_for_tandem(folder: Path, found: Lock) -> bool:
    """Whether the commit has a Dockerfile that takes its base and its lock from Tandem."""
    try:
        dockerfile = (folder / "Dockerfile").read_text("utf-8", errors="replace")
    except OSError:
        return False
    return found.own and "ARG BASE_IMAGE" in dockerfile


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

_bases: dict[str, tuple[float, BaseImage]] = {}


def base_digest(reference: str) -> str:
    """The digest that a base image's tag stands for, asked of its registry every five minutes."""
    return _base(reference).digest


def _base(reference: str) -> BaseImage:
    from tandem.oci.app_image.base import find_base

    asked, base = _bases.get(reference, (0.0, None))
    if base is None or time.monotonic() - asked > _BASE_SECONDS:
        base = find_base(reference)
        _bases[reference] = (time.monotonic(), base)
    return base


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
