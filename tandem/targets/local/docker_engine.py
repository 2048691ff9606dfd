"""The Docker engine: reached, given images, asked for logs, rid of containers."""

from __future__ import annotations

import contextlib
import os
import tarfile
import tempfile
from collections.abc import Iterator
from typing import IO, Any

import msgspec

from tandem.errors import TargetError
from tandem.oci import Registry
from tandem.targets.local.runner import LOG_LINES
from tandem.targets.protocol import Say


@contextlib.contextmanager
def engine() -> Iterator[Any]:
    """The engine of DOCKER_HOST, with what goes wrong as `TargetError`."""
    import docker
    import docker.errors
    import requests

    try:
        client = docker.from_env(timeout=60)
        try:
            yield client
        finally:
            client.close()
    except docker.errors.APIError as problem:
        raise TargetError(f"Docker: {problem.explanation or problem}") from None
    except (docker.errors.DockerException, requests.RequestException) as problem:
        where = os.environ.get("DOCKER_HOST", "its usual socket")
        raise TargetError(f"the Docker engine at {where} does not answer: {problem}") from None


def ensure_image(client: Any, registry: Registry, digest: str, progress: Say) -> str:
    """Have the engine pull the image by digest, or give it one from a layout folder."""
    import docker.errors

    reference = registry.reference(digest)
    if not registry.host:
        return _load(client, registry, digest, progress)
    try:
        client.images.get(reference)
        return reference
    except docker.errors.ImageNotFound:
        progress(f"pulling {reference}")
    from tandem.oci.credentials import find_credentials

    credentials = find_credentials(registry.url.partition("/")[0])
    login = (
        {"username": credentials.username, "password": credentials.password}
        if credentials
        else None
    )
    try:
        client.images.pull(reference.partition("@")[0], tag=digest, auth_config=login)
    except docker.errors.APIError as problem:
        raise TargetError(f"Docker cannot pull {reference}: {problem.explanation}") from None
    return reference


def _load(client: Any, registry: Registry, digest: str, progress: Say) -> str:
    """Give the engine an image as `docker save` writes it, layer by layer."""
    import docker.errors

    from tandem.oci.pull import pull
    from tandem.oci.unpack import decompressed

    image = pull(registry, digest)
    # What the engine calls an image is the digest of its configuration.
    config = image.config_descriptor.digest
    try:
        client.images.get(config)
        return config
    except docker.errors.ImageNotFound:
        progress(f"giving {registry.reference(digest)} to the Docker engine")
    if not any(layer.kind == "base" for layer in image.layers):
        raise TargetError(
            f"{registry.reference(digest)} has no base image, so no Python to run in a container: "
            "set TANDEM_BASE_IMAGE and build again, or use the process: target"
        )
    with tempfile.TemporaryFile() as archive:
        with tarfile.open(fileobj=archive, mode="w") as tar:
            names = []
            for layer in image.layers:
                with tempfile.TemporaryFile() as plain:
                    for chunk in decompressed(registry, layer):
                        plain.write(chunk)
                    names.append(f"{layer.diff_id.removeprefix('sha256:')}.tar")
                    _add(tar, names[-1], plain)
            with tempfile.TemporaryFile() as file:
                file.write(image.config)
                _add(tar, f"{config.removeprefix('sha256:')}.json", file)
            with tempfile.TemporaryFile() as file:
                listing = {"Config": f"{config.removeprefix('sha256:')}.json", "Layers": names}
                file.write(msgspec.json.encode([listing]))
                _add(tar, "manifest.json", file)
        archive.seek(0)
        client.images.load(archive)
    return config


def _add(tar: tarfile.TarFile, name: str, file: IO[bytes]) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = file.tell()
    file.seek(0)
    tar.addfile(entry, file)


def remove(container: Any) -> None:
    """Remove a container, running or not; no error where it is gone already."""
    import docker.errors

    with contextlib.suppress(docker.errors.NotFound, docker.errors.APIError):
        container.remove(force=True, v=True)


def log_of(container: Any) -> str:
    """The last lines a container wrote."""
    return str(container.logs(tail=LOG_LINES).decode(errors="replace").strip())
