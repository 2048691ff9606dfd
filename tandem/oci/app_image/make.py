"""An app image by whichever builder the settings and the machine allow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec

from tandem.oci import Registry
from tandem.oci.app_image.assemble import COMMAND, AppImage, build_app_image
from tandem.oci.app_image.docker_build import build_with_docker, choose_builder
from tandem.oci.app_image.installed_packages import packages_in


def make_app_image(
    folder: Path,
    paths: Iterable[str],
    lock: Path,
    *,
    cache: Path,
    registry: Registry,
    tag: str,
    app: str,
    commit: str,
    builder: str = "auto",
    base: str = "",
    command: Sequence[str] = COMMAND,
    created: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> AppImage:
    """The image of a commit without a model, by whichever builder is set.

    Push it afterwards, with either builder: `push(registry, made.image, made.sources, tag=tag,
    mount_from=made.mount_from)` sends what is not there yet. Raises `BuildError`, `RegistryError`,
    and `SettingError` where Docker is asked for and cannot be had.
    """
    if choose_builder(builder, base=base, registry=registry) == "docker":
        app_image = build_with_docker(
            folder,
            lock,
            registry=registry,
            base=base,
            tag=tag,
            app=app,
            commit=commit,
            command=command,
            created=created,
            progress=progress,
        )
        # The engine does not report what it installed; the packages do.
        components = packages_in(
            registry, app_image.image, cache=cache / "layers", locked=app_image.components
        )
        return msgspec.structs.replace(app_image, components=components)
    return build_app_image(
        folder,
        paths,
        lock,
        cache=cache,
        registry=registry,
        base=base,
        app=app,
        commit=commit,
        command=command,
        created=created,
        progress=progress,
    )
