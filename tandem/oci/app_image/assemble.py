"""The app image without any engine, from layers that are made here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec

from tandem.oci import Registry
from tandem.oci.app_image.base import BaseImage, find_base
from tandem.oci.app_image.compile_python import interpreter
from tandem.oci.app_image.layers import APP, LIB, application_layer, dependencies_layer
from tandem.oci.app_image.python_runtime import host_python
from tandem.oci.blobs import BlobSource, registry_source
from tandem.oci.components import Component
from tandem.oci.image import Image, make_image
from tandem.oci.remote.client import open_reference

USER = "10001:10001"
PORT = 8080
COMMAND = ("python3", "-m", "serving")


class AppImage(msgspec.Struct, frozen=True, kw_only=True):
    """An image with everything but a model, and how to read its new layers."""

    image: Image
    sources: dict[str, BlobSource]
    """Opens the layers that may not be in the registry yet, by digest."""
    mount_from: dict[str, str] = {}
    """The repository of the same registry that has a layer."""
    components: tuple[Component, ...] = ()
    base: str = ""
    """The digest of the base image; empty without one."""
    builder: str = "assemble"


def image_settings(
    *,
    app: str,
    commit: str,
    command: Sequence[str] = COMMAND,
    python: str = "",
    created: str | None = None,
) -> dict[str, object]:
    """The settings that both builders give an app image: arguments of `make_image`."""
    labels = {
        "org.opencontainers.image.title": app,
        "org.opencontainers.image.revision": commit,
        "tandem.app": app,
        "tandem.python": python,
    }
    environment = {"TANDEM_APP_COMMIT": commit} if commit else {}
    return {
        "env": {
            "PYTHONPATH": f"/{LIB}:/{APP}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
            "TANDEM_MODEL": "/model",
            "TANDEM_APP_NAME": app,
            **environment,
        },
        "labels": {name: value for name, value in labels.items() if value},
        "created": created,
        "Cmd": list(command),
        "Entrypoint": None,
        "User": USER,
        "WorkingDir": f"/{APP}",
        "ExposedPorts": {f"{PORT}/tcp": {}},
        "StopSignal": "SIGTERM",
    }


def build_app_image(
    folder: Path,
    paths: Iterable[str],
    lock: Path,
    *,
    cache: Path,
    registry: Registry,
    app: str,
    commit: str,
    command: Sequence[str] = COMMAND,
    created: str | None = None,
    base: str = "",
    progress: Callable[[str], None] | None = None,
) -> AppImage:
    """An app image from a commit: dependencies, then the application, on `base`.

    `base` is an image reference (`HOST/REPOSITORY:TAG`); its layers are taken over as they are.

    Without a base the image holds no Python: it is run by the host's. `cache` keeps what can be
    made again. Push it with
    `push(registry, made.image, made.sources, mount_from=made.mount_from)`.
    """
    below = find_base(base) if base else None
    runtime = below.runtime if below else host_python()
    dependencies = dependencies_layer(
        lock, cache=cache / "layers", registry=registry, runtime=runtime, progress=progress
    )
    application = application_layer(
        folder, paths, into=cache / "layers", python=interpreter(runtime.version)
    )
    settings = image_settings(
        app=app,
        commit=commit,
        command=command,
        python=runtime.version,
        created=created,
    )
    image = make_image(
        below.image if below else None,
        [dependencies.layer, application.layer],
        platform=runtime.platform,
        annotations={"org.opencontainers.image.title": app},
        **settings,  # type: ignore[arg-type]
    )
    sources = {application.layer.descriptor.digest: application.open}
    if dependencies.open:
        sources[dependencies.layer.descriptor.digest] = dependencies.open
    app_image = AppImage(image=image, sources=sources, components=dependencies.components)
    return on_base(app_image, below, registry) if below else app_image


def on_base(app_image: AppImage, below: BaseImage, registry: Registry) -> AppImage:
    """An app image that also knows where the layers of its base are."""
    home, _ = open_reference(below.reference)
    digests = [layer.descriptor.digest for layer in below.image.layers]
    near = registry.host == home.host
    return msgspec.structs.replace(
        app_image,
        base=below.digest,
        sources=app_image.sources | {digest: registry_source(home, digest) for digest in digests},
        mount_from=dict.fromkeys(digests, home.repository) if near else {},
    )
