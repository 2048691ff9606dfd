"""The steps of a release: build, judge, pack, prove, go live, record; each may be killed and run
again.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from tandem.build.app_build import (
    AppBuild,
    Recipe,
    TestReport,
    locked_environment,
    read_recipe,
    run_tests,
)
from tandem.errors import (
    BuildError,
    ImageFault,
    NothingToPack,
    RegistryError,
    SourceError,
    TandemError,
    TargetError,
)
from tandem.model import acceptance, judge
from tandem.model.interface import Takes
from tandem.model.package import Package, locked_versions
from tandem.model.repository import Version
from tandem.model.rules import Criteria
from tandem.oci import Layer, Transfer
from tandem.release.project import Project
from tandem.release.records import (
    AppRef,
    ImageRecord,
    ModelRef,
    PassedOver,
    Proof,
    ReleaseRecord,
    changes,
    now,
)
from tandem.service import client
from tandem.source import Commit
from tandem.targets import DeployRequest, Live, run_once, sweep_once
from tandem.util.folders import clean_folder, sweep_scratch

if TYPE_CHECKING:
    from tandem.oci.attest import Facts

log = logging.getLogger("tandem")


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """The newest commit whose tests passed and the newest accepted model, and what was passed over
    for them.
    """

    build: AppBuild
    version: Version
    passed_over: list[PassedOver]


class Packed(msgspec.Struct, frozen=True, kw_only=True):
    """An image in the registry, not yet proven. `transfers`: what happened to each blob; `seconds`
    in all.
    """

    digest: str
    reference: str
    app: AppRef
    model: ModelRef
    tests: str
    layers: list[Layer]
    transfers: list[Transfer]
    components: int
    passed_over: list[PassedOver]
    seconds: float


class Deployed(msgspec.Struct, frozen=True, kw_only=True):
    """What is live; `changed` is False when it was live already."""

    live: Live
    details: Mapping[str, Any]
    """All that the target knows: processes, pods, events."""
    image: ImageRecord
    changed: bool
    seconds: float
    passed_over: list[PassedOver]


# --- the app build


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
        progress=_uploading(),
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
        and _has_image(project, build.image)
    )


def _uploading() -> Callable[[int], None]:
    """Counts bytes, and says every few seconds how many have gone up."""
    moved, told = 0, time.monotonic()

    def progress(count: int) -> None:
        nonlocal moved, told
        moved += count
        if time.monotonic() - told > 3:
            told = time.monotonic()
            log.info("uploading: %.0f MB so far", moved / 1e6)

    return progress


def tests_proof(build: AppBuild) -> Proof:
    """Whether the tests of that build passed, with the failures by name."""
    return Proof("tests_pass", build.passed, tests_in_words(build.report))


# --- the model


def train(
    project: Project, trainer: Callable[..., Any], parameters: msgspec.Struct, *, publisher: str
) -> Any:
    """Train with `parameters` and publish the next version; returns what the trainer tells for the
    asset page.
    """
    commit = ""
    try:
        commit = project.source.newest().sha
    except TandemError as problem:
        log.info("the training commit is not known: %s", problem)
    return trainer(
        parameters,
        repository=project.models,
        state=project.state,
        training_commit=commit or None,
        publisher=publisher,
        progress=log.info,
    )


def judge_newest_model(project: Project) -> list[Proof]:
    """The verdict that stands on the newest version; judged now where there is none yet."""
    version = project.models.latest()
    if version is None:
        return [
            Proof(name, False, f"no model {project.app} is published yet")
            for name in acceptance.CHECKS
        ]
    verdict = _judge(project, version.number, rule(project))
    return [Proof(check.name, check.passed, check.summary) for check in verdict.checks]


def expect_judging(project: Project) -> None:
    """Start what judges a model ahead, as a version is about to be published or judged."""
    judge.start_ahead(project.state / "models")


def _overruled(project: Project, number: int) -> str:
    verdict = acceptance.verdict(project.models, number)
    if verdict is None or not verdict.overruled_by:
        return ""
    return f"{verdict.overruled_by}: {verdict.overruled_reason}"


def is_judged(project: Project) -> bool:
    """Whether a verdict stands on the newest version."""
    version = project.models.latest()
    return version is None or (
        acceptance.standing_verdict(project.models, version, rule(project)) is not None
    )


def rule(project: Project, build: AppBuild | None = None) -> Criteria:
    """What models are judged by just now, beside the code of `build` (by default the newest green).

    A model is judged by the libraries that it would be served with, and must fit the code.
    """
    if build is None:
        with contextlib.suppress(NothingToPack, SourceError):
            build = next(green_builds(project)[0], None)
    champion = project.ledger.releases.latest()
    return Criteria(
        rule=project.gate,
        takes=build.recipe.model if build else None,
        lock=(build.locked or None) if build else None,
        champion=champion.model.version if champion else None,
    )


def _judge(project: Project, number: int, by: Criteria) -> acceptance.Verdict:
    return acceptance.judge(project.models, number, by, cache=project.state / "models")


# --- the image


def choose_pair(project: Project) -> Pair:
    """The newest commit of the branch whose tests passed, with the newest model that was accepted.

    A commit whose code is written for a model that is not there yet is passed over for an older
    one. Raises `NothingToPack` saying what is missing when there is no such commit or no such
    model.
    """
    return find_pair(project, judge=True)


def find_pair(project: Project, *, judge: bool) -> Pair:
    """As `choose_pair`; without `judge` a version that was not judged yet counts as accepted."""
    newest = project.models.latest()
    builds, passed_over = green_builds(project)
    tried: list[Takes | None] = []
    waiting: list[PassedOver] = []
    first = ""
    for build in builds:
        if newest is None:
            break
        if build.recipe.model in tried:
            continue  # a model for it was looked for already
        tried.append(build.recipe.model)
        by = rule(project, build)
        version, refused = acceptance.newest_accepted(
            project.models,
            by,
            judge_missing=functools.partial(_judge, project, by=by) if judge else None,
            unjudged=True,
        )
        over = [PassedOver("model", f"v{number}", reason) for number, reason in refused]
        if version is not None:
            return Pair(build=build, version=version, passed_over=[*passed_over, *waiting, *over])
        first = first or (f"v{refused[0][0]} was refused, {refused[0][1]}" if refused else "none")
        waiting.append(PassedOver("commit", build.commit, "it waits for a model that fits it"))
    if newest is None:
        raise NothingToPack(
            f"no model {project.app} is published yet: `tandem publish`, or train one"
        )
    if not tried:
        reason = passed_over[0].reason if passed_over else "none was built yet"
        raise NothingToPack(f"no commit of {project.source.branch} passed its tests: {reason}")
    raise NothingToPack(f"no version of model {project.app} was accepted: {first}")


def pack(project: Project, *, run_id: str = "") -> Packed:
    """Put the newest accepted model as one more layer on the newest tested app image, in the
    registry.

    The same pair gives the same digest, and then nothing is uploaded. Raises `NothingToPack` when
    there is no pair.
    """
    from tandem.oci.attest import attest, signing_key
    from tandem.oci.image import push_on_top
    from tandem.oci.layer import model_layer

    started = time.monotonic()
    pair = choose_pair(project)
    build, version = pair.build, pair.version
    package = _package(project, version.number)
    app = AppRef(name=project.app, commit=build.commit, tree=build.tree, subject=build.subject)
    model = ModelRef(
        name=project.app,
        version=version.number,
        digest=version.digest,
        metrics=dict(version.manifest.metrics),
        overruled=_overruled(project, version.number),
    )
    if build.image is None:
        raise BuildError(f"commit {build.commit} passed its tests but has no image: build it again")
    last = project.ledger.images.latest()
    image, transfers = push_on_top(
        project.registry,
        build.image,
        lambda: model_layer(package.folder, into=project.state / "layers"),
        lambda app_image: app_image.with_config(
            env=_environment(app, model),
            labels=_labels(project, app, model),
            created=build.time,
        ),
        tag=f"{build.commit[:12]}-m{version.number}",
        expect_new=last is None or last.model.digest != model.digest,
        cache=project.state / "cache" / "configs",
        progress=_uploading(),
    )
    attest(
        project.registry,
        image,
        _facts(project, build, model, run_id),
        app_image=build.image,
        signer=signing_key(),
    )
    packed = Packed(
        digest=image.digest,
        reference=project.registry.reference(image.digest),
        app=app,
        model=model,
        tests=build.report.summary,
        layers=list(image.layers),
        transfers=transfers,
        components=build.components,
        passed_over=pair.passed_over,
        seconds=round(time.monotonic() - started, 3),
    )
    log.info(
        "packed commit %s with model v%d: %s", build.commit[:10], version.number, image.digest[:19]
    )
    return packed


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


def prove(project: Project, packed: Packed, *, run_id: str = "") -> ImageRecord:
    """Start a packed image, replay its model's golden predictions, and record the verdict.

    An image that ends by itself or answers otherwise is recorded as not good. Raises `TandemError`
    when it could not be tried (no engine, no answer in time on a busy machine): that says nothing
    of the image, so nothing is recorded and the next run tries again.
    """
    package = _package(project, packed.model.version)
    started = time.monotonic()
    try:
        with run_once(
            project.registry,
            packed.digest,
            state=project.state / "target",
            engine=_engine(project),
        ) as url:
            report = _ask_twice(url, packed.digest, package)
        proof = Proof(
            "starts_and_answers",
            True,
            f"started, and gave {report.questions} of {report.questions} golden predictions "
            f"(largest difference {report.largest_difference:.1e}) "
            f"in {time.monotonic() - started:.1f} s",
        )
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


def _ask_twice(url: str, digest: str, package: Package) -> client.AskReport:
    """The answers of a private instance; one that stops answering is asked whether it still lives.

    Raises `ImageFault` when it answers wrongly or ended over the questions, `TargetError` when it
    lives and is only slow.
    """
    try:
        client.check_version(url, digest=digest)
        return client.ask_golden(url, package.golden())
    except ImageFault:
        raise
    except TargetError as problem:
        try:
            client.wait_ready(url, client.TIMEOUT)
        except TargetError:
            raise ImageFault(f"stopped while it was asked: {problem}") from None
    client.check_version(url, digest=digest)
    return client.ask_golden(url, package.golden())


# --- live


def next_deployment(project: Project) -> DeployRequest:
    """What `go_live` would ask of the target. Raises `TandemError` when no image was proven yet."""
    return _request(project, _newest_image(project)[0])


def newest_image(project: Project) -> tuple[ImageRecord | None, list[PassedOver]]:
    """The image of the newest commit, then the newest model, that passed its checks, and what was
    passed over for it.
    """
    try:
        commits = [commit.sha for commit in history(project)]
    except SourceError:
        commits = []
    newest = project.models.latest()
    return project.ledger.newest_good_image(commits, newest.number if newest else 0)


def _newest_image(project: Project) -> tuple[ImageRecord, list[PassedOver]]:
    image, passed_over = newest_image(project)
    if image is None:
        reason = passed_over[0].reason if passed_over else "none was packed yet"
        raise TandemError(f"no image of {project.app} passed its checks: {reason}")
    return image, passed_over


def _request(project: Project, image: ImageRecord) -> DeployRequest:
    return DeployRequest(
        app=project.app,
        release=_release_number(project.ledger.releases.latest(), image),
        registry=project.registry,
        digest=image.digest,
        annotations=_annotations(image),
    )


def go_live(project: Project) -> Deployed:
    """Make the newest image that passed its checks live; what is live already is not touched.

    Raises `TargetError` once the previous one serves again, `TandemError` when no image was proven
    yet.
    """
    from tandem.oci.attest import checking_key, require_signed, signing_key

    started = time.monotonic()
    image, passed_over = _newest_image(project)
    if not _has_image(project, image.digest):
        raise RegistryError(
            f"{image.reference} is recorded as proven, but the registry has it no longer: run "
            f"{project.app}_build to pack it again"
        )
    if key := checking_key():
        try:
            require_signed(project.registry, image.digest, key)
        except RegistryError:
            # It was packed before there was a key: what we recorded of it is signed now.
            if signing_key() is None:
                raise
            _sign(project, image)
            require_signed(project.registry, image.digest, key)
    before = project.target.current()
    golden = _package(project, image.model.version).golden()

    def check(url: str) -> None:
        client.check_version(url, digest=image.digest)
        client.ask_golden(url, golden)

    live = project.target.deploy(
        _request(project, image), check=check, progress=lambda text: log.info("%s", text)
    )
    return Deployed(
        live=live,
        details={**live.detail, **project.target.details()},
        image=image,
        changed=before is None or before.since != live.since,
        seconds=round(time.monotonic() - started, 2),
        passed_over=passed_over,
    )


def _sign(project: Project, image: ImageRecord) -> None:
    """Sign the statements about an image that our own records say was tested and proven."""
    from tandem.oci.attest import attest, signing_key
    from tandem.oci.image import pull

    build = project.builds.of(image.app.tree)
    if build is None or build.image is None:
        return
    facts = _facts(
        project,
        msgspec.structs.replace(build, commit=image.app.commit),
        image.model,
        image.run_id,
    )
    attest(
        project.registry,
        pull(project.registry, image.digest),
        facts,
        app_image=build.image,
        signer=signing_key(),
    )
    log.info("signed what is known of %s", image.digest[:19])


def ask_live(project: Project) -> Proof:
    """Ask the live service who it is and its golden questions; a difference from the newest proven
    image is said.
    """
    live = project.target.current()
    if live is None:
        return Proof("live_answers", False, f"nothing is live at {project.target.name}")
    image = next(
        (record for record in project.ledger.images.newest_first() if record.digest == live.digest),
        None,
    )
    if image is None:
        return Proof(
            "live_answers", False, f"{live.digest} is live, an image of which there is no record"
        )
    try:
        client.check_version(live.url, digest=live.digest)
        report = client.ask_golden(live.url, _package(project, image.model.version).golden())
    except TargetError as problem:
        return Proof("live_answers", False, str(problem))
    return Proof(
        "live_answers",
        True,
        f"{live.url} serves {live.digest[:19]} and gave {report.questions} of {report.questions} "
        f"golden predictions in {report.milliseconds:.0f} ms",
    )


def record_release(project: Project, *, trigger: str, run_id: str = "") -> ReleaseRecord:
    """Write the record of what is live, unless the newest record says just that.

    Raises `TargetError` when nothing is live, or what is live does not answer as it should.
    """
    proof = ask_live(project)
    live = project.target.current()
    if live is None or not proof.passed:
        raise TargetError(f"no release is recorded: {proof.summary}")
    last = project.ledger.releases.latest()
    if last and is_recorded(project, last, live):
        return last
    image = next(r for r in project.ledger.images.newest_first() if r.digest == live.digest)
    return project.ledger.releases.append(
        lambda number: ReleaseRecord(
            number=number,
            time=now(),
            trigger=trigger,
            app=image.app,
            model=image.model,
            image=image.digest,
            image_number=image.number,
            reference=image.reference,
            tests=image.tests,
            proofs=[*image.proofs, proof],
            target=project.target.name,
            url=live.url,
            changed=changes(last, image.app, image.model),
            passed_over=image.passed_over,
            run_id=run_id,
        )
    )


def truth(project: Project) -> list[str]:
    """What is otherwise than the newest release recorded it, a sentence each.

    Compares the record, what the target runs, the registry, and what the service says of itself.
    Raises `TargetError` when the target cannot be asked.
    """
    from tandem.release.drift import compare

    record = project.ledger.releases.latest()
    if record is None:
        return []
    found = [str(one) for one in compare(record, project.target, project.registry)]
    # Asked afterwards: a release may have gone live while all was compared.
    return [] if found and _is_being_recorded(project, record) else found


RECORDING_SECONDS = 600.0
"""How long after going live a release may be without its record before that is a difference."""


def _is_being_recorded(project: Project, last: ReleaseRecord) -> bool:
    """Whether what is live is a newer proven image that a release has just put there."""
    live = project.target.current()
    if live is None or live.digest == last.image:
        return False
    age = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(live.since)
    if age.total_seconds() > RECORDING_SECONDS:
        return False
    image = next(
        (record for record in project.ledger.images.newest_first() if record.digest == live.digest),
        None,
    )
    return image is not None and image.good and image.number > last.image_number


# --- clean-up


class CleanUp(msgspec.Struct, frozen=True, kw_only=True):
    """What a clean-up removed or would remove; `bytes` of layers that no other image shares."""

    images: list[str]
    image_bytes: int
    models: list[int]
    dry_run: bool


def prune(project: Project, *, dry_run: bool = False) -> CleanUp:
    """Remove images and model versions beyond the number to keep.

    Never one that is live, that would go live next, or that a release record names.
    """
    from tandem.oci.prune import prune as prune_images

    number = project.settings.keep
    releases = project.ledger.releases.all()
    good, _ = newest_image(project)
    live = project.target.current()
    keep = {record.image for record in releases}
    keep |= {good.digest} if good else set()
    keep |= {live.digest} if live else set()
    images = project.ledger.images.all()
    pruned = prune_images(
        project.registry,
        [record.digest for record in images],
        app=project.app,
        keep=keep,
        number=number,
        dry_run=dry_run,
    )
    kept_models = {record.model.version for record in releases}
    kept_models |= {r.model.version for r in images if r.digest in keep}
    models = project.models.prune(kept_models, newest=number, dry_run=dry_run)
    return CleanUp(
        images=[one.digest for one in pruned.removed],
        image_bytes=pruned.bytes,
        models=models.versions,
        dry_run=dry_run,
    )


def sweep(project: Project) -> list[str]:
    """Clean up what a killed deploy or check left running; what was done, a line each."""
    sweep_scratch()
    done = []
    for ask_one in (
        project.target.sweep,
        lambda: sweep_once(state=project.state / "target", engine=_engine(project)),
    ):
        try:
            done += ask_one()
        except TargetError as problem:
            # Whoever needs that engine or cluster is told; others can go on.
            log.info("nothing was cleaned up: %s", problem)
    return done


# --- shared


def is_recorded(project: Project, record: ReleaseRecord, live: Live) -> bool:
    """Whether the record is of just what is live."""
    return record.image == live.digest and record.target == project.target.name


def _release_number(last: ReleaseRecord | None, image: ImageRecord) -> int:
    if last is None:
        return 1
    return last.number if last.image == image.digest else last.number + 1


def _environment(app: AppRef, model: ModelRef) -> dict[str, str]:
    return {
        "TANDEM_APP_NAME": app.name,
        "TANDEM_APP_COMMIT": app.commit,
        "TANDEM_MODEL_VERSION": str(model.version),
        "TANDEM_MODEL_DIGEST": model.digest,
    }


def _labels(project: Project, app: AppRef, model: ModelRef) -> dict[str, str]:
    """The standard labels (OCI image specification, annotations) and Tandem's own."""
    labels = {
        "org.opencontainers.image.title": app.name,
        "org.opencontainers.image.revision": app.commit,
        "org.opencontainers.image.version": f"{app.commit[:12]}-m{model.version}",
        "tandem.app.tree": app.tree,
        "tandem.model.name": model.name,
        "tandem.model.version": str(model.version),
        "tandem.model.digest": model.digest,
    }
    if project.source.folder is None:  # a folder's path says nothing elsewhere
        labels["org.opencontainers.image.source"] = project.source.url
    return labels


def _annotations(image: ImageRecord) -> dict[str, str]:
    return {
        "tandem.app.commit": image.app.commit,
        "tandem.model.name": image.model.name,
        "tandem.model.version": str(image.model.version),
        "tandem.model.digest": image.model.digest,
    }


def _engine(project: Project) -> str:
    """What tries an image: a container where it has a Python of its own and an engine is there."""
    from tandem.oci.app_image.docker_build import engine_problem

    if not project.settings.base_image:
        return "process"
    problem = engine_problem()
    if problem:
        log.info("tried on this machine's own Python, because %s", problem)
    return "process" if problem else "docker"


def _facts(project: Project, build: AppBuild, model: ModelRef, run_id: str) -> Facts:
    from tandem.oci.attest import Facts
    from tandem.oci.image import digest_of

    return Facts(
        app=project.app,
        commit=build.commit,
        tree=build.tree,
        source="" if project.source.folder else project.source.url,
        model=model.name,
        model_version=model.version,
        model_digest=model.digest,
        lock_digest=build.lock_digest,
        base=project.settings.base_image,
        base_digest=build.base_digest,
        builder=build.builder,
        tests=build.report.summary,
        tests_digest=digest_of(msgspec.json.encode(build.report)),
        run_id=run_id,
    )


def _has_image(project: Project, digest: str) -> bool:
    return project.registry.get_manifest(digest) is not None


def _package(project: Project, number: int) -> Package:
    folder = project.state / "models" / f"{project.app}-{number:06d}"
    package = project.models.fetch(number, folder)
    os.utime(folder)  # what is not used for long is removed
    return package


def tests_in_words(report: TestReport) -> str:
    """What the tests said, with the first failures by name."""
    names = ", ".join(failure.test for failure in report.failures[:3])
    return f"{report.summary}: {names}" if names else report.summary
