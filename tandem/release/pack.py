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
from tandem.release.records import AppRef, ImageRecord, ModelRef, PassedOver
from tandem.service.probe import Asked

if TYPE_CHECKING:
    from tandem.oci.attest.provenance import Origin

log = logging.getLogger("tandem")


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
    asked: Asked
    seconds: float


def pack(project: Project, pair: Pair, *, run_id: str = "") -> Packed:
    """Put the pair's model as one more layer on its tested app image, in the registry.

    The same pair gives the same digest, and then nothing is uploaded. Raises `BuildError` for a
    build without an image, `PackageError`, `StorageError` and `RegistryError`.
    """
    from tandem.oci.attest.signature import signing_key
    from tandem.oci.layer import model_layer
    from tandem.oci.pack import pack as pack_image

    started = time.monotonic()
    build, version = pair.build, pair.version
    package = project.package(version.number)
    app = AppRef(name=project.app, commit=build.commit, tree=build.tree, subject=build.subject)
    model = ModelRef(
        name=project.app,
        version=version.number,
        digest=version.digest,
        metrics=dict(version.manifest.metrics),
        overruled=pair.overruled,
    )
    if build.image is None:
        raise BuildError(f"commit {build.commit} passed its tests but has no image: build it again")
    last = project.ledger.images.latest()
    image, transfers = pack_image(
        project.registry,
        build.image,
        lambda: model_layer(package.folder, into=project.state / "layers"),
        lambda app_image: app_image.with_config(
            env=_environment(app, model),
            labels=_labels(project, app, model),
            created=build.time,
        ),
        _origin(project, build, model, run_id),
        signer=signing_key(),
        tag=f"{build.commit[:12]}-m{version.number}",
        expect_new=last is None or last.model.digest != model.digest,
        cache=project.state / "cache" / "configs",
        progress=uploading(),
    )
    _put_model_pack(project, image.layers[-1], version)
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
    log.info(
        "packed commit %s with model v%d: %s", build.commit[:10], version.number, image.digest[:19]
    )
    return packed


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
