"""The pair as one image in the registry, with what is stated about it."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import msgspec

from tandem.build.app_build import AppBuild
from tandem.errors import BuildError, RegistryError
from tandem.model.repository import Version
from tandem.oci import Layer, Transfer
from tandem.release.pair import Pair
from tandem.release.progress import uploading
from tandem.release.project import Project
from tandem.release.records import NO_MODEL, AppRef, ImageRecord, ModelRef, PassedOver
from tandem.service.probe import Asked

if TYPE_CHECKING:
    from tandem.oci.attest.provenance import Origin
    from tandem.oci.image import Image

log = logging.getLogger("tandem")


class Packed(msgspec.Struct, frozen=True, kw_only=True):
    """An image in the registry, not yet proven.

    `transfers`: what happened to each blob; `seconds` in all.
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
    asked: Asked
    seconds: float


def pack(project: Project, pair: Pair, *, run_id: str = "") -> Packed:
    """Put the pair's model as one more layer on its tested app image, in the registry.

    Code alone is the app image with the commit written on it.

    The same pair gives the same digest, and then nothing is uploaded. Raises `BuildError` for a
    build without an image, `PackageError`, `StorageError` and `RegistryError`.
    """
    from tandem.oci.attest.signature import signing_key
    from tandem.oci.attest.statements import attest
    from tandem.oci.layer import model_layer
    from tandem.oci.pack import pack as pack_image
    from tandem.oci.pull import pull
    from tandem.oci.push import push

    started = time.monotonic()
    build = pair.build
    if build.image is None:
        raise BuildError(f"commit {build.commit} passed its tests but has no image: build it again")
    app = AppRef(name=project.app, commit=build.commit, tree=build.tree, subject=build.subject)
    model = _model(pair, project.app)
    origin = _origin(project, build, model, run_id)
    tag = _tag(app, model)

    def change(app_image: Image) -> Image:
        return app_image.with_config(
            env=_environment(app, model, build.recipe.trust),
            labels=_labels(project, app, model),
            created=build.time,
        )

    if model.is_none:
        image = change(pull(project.registry, build.image))
        transfers = push(project.registry, image, {}, tag=tag)
        attest(project.registry, image, origin, app_image=build.image, signer=signing_key())
    else:
        package = project.package(model.version)
        last = project.ledger.images.latest()
        image, transfers = pack_image(
            project.registry,
            build.image,
            lambda: model_layer(package.folder, into=project.state / "layers"),
            change,
            origin,
            signer=signing_key(),
            tag=tag,
            expect_new=last is None or last.model.digest != model.digest,
            cache=project.state / "cache" / "configs",
            progress=uploading(),
        )
        if pair.version is not None:
            _put_model_pack(project, image.layers[-1], pair.version)
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
        asked=build.asked,
        seconds=round(time.monotonic() - started, 3),
    )
    log.info("packed commit %s with %s: %s", build.commit[:10], model, image.digest[:19])
    return packed


def _model(pair: Pair, app: str) -> ModelRef:
    version = pair.version
    if version is None:
        return NO_MODEL
    return ModelRef(
        name=app,
        version=version.number,
        digest=version.digest,
        metrics=dict(version.manifest.metrics),
        overruled=pair.overruled,
    )


def _put_model_pack(project: Project, layer: Layer, version: Version) -> None:
    """Name the model for tools that know models alone; no image waits for what they read."""
    from tandem.oci.model_pack import ModelDescription, put_model_pack

    model = ModelDescription(
        name=version.manifest.name,
        version=version.number,
        format=version.manifest.runtime,
        revision=version.digest,
        created=version.manifest.created,
    )
    try:
        put_model_pack(project.registry, layer, model)
    except RegistryError as problem:
        log.warning("model v%d has no ModelPack artifact: %s", version.number, problem)


def _tag(app: AppRef, model: ModelRef) -> str:
    return f"{app.commit[:12]}-{'code' if model.is_none else f'm{model.version}'}"


def _environment(app: AppRef, model: ModelRef, trust: list[str]) -> dict[str, str]:
    environment = {"TANDEM_APP_NAME": app.name, "TANDEM_APP_COMMIT": app.commit}
    if not model.is_none:
        environment["TANDEM_MODEL_VERSION"] = str(model.version)
        environment["TANDEM_MODEL_DIGEST"] = model.digest
        if trust:
            environment["TANDEM_TRUST"] = ",".join(trust)
    return environment


def _labels(project: Project, app: AppRef, model: ModelRef) -> dict[str, str]:
    """The standard labels (OCI image specification, annotations) and Tandem's own."""
    labels = {
        "org.opencontainers.image.title": app.name,
        "org.opencontainers.image.revision": app.commit,
        "org.opencontainers.image.version": _tag(app, model),
        "tandem.app.tree": app.tree,
    }
    if not model.is_none:
        labels["tandem.model.name"] = model.name
        labels["tandem.model.version"] = str(model.version)
        labels["tandem.model.digest"] = model.digest
    if project.source.folder is None:  # a folder's path says nothing elsewhere
        labels["org.opencontainers.image.source"] = project.source.url
    return labels


def _origin(project: Project, build: AppBuild, model: ModelRef, run_id: str) -> Origin:
    from tandem.oci.attest.provenance import Origin
    from tandem.oci.blobs import digest_of

    return Origin(
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


def sign_again(project: Project, image: ImageRecord) -> None:
    """Sign the statements about an image that our own records say was tested and proven."""
    from tandem.oci.attest.signature import signing_key
    from tandem.oci.attest.statements import attest
    from tandem.oci.pull import pull

    build = project.builds.of(image.app.tree)
    if build is None or build.image is None:
        return
    origin = _origin(
        project,
        msgspec.structs.replace(build, commit=image.app.commit),
        image.model,
        image.run_id,
    )
    attest(
        project.registry,
        pull(project.registry, image.digest),
        origin,
        app_image=build.image,
        signer=signing_key(),
    )
    log.info("signed what is known of %s", image.digest[:19])
