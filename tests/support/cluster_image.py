"""The small service of `small_image` as an image on the real base image, in the real registry."""

from __future__ import annotations

import gzip
import hashlib
import os
from typing import Any

from support.small_image import SERVER, layer
from tandem.oci import LAYER_GZIP, Descriptor, Layer
from tandem.oci.blobs import bytes_source, registry_source
from tandem.oci.credentials import Credentials
from tandem.oci.image import make_image
from tandem.oci.pull import pull
from tandem.oci.push import push
from tandem.oci.remote.client import RemoteRegistry


def registry(repository: str = "tests/small") -> RemoteRegistry:
    """A repository of the real registry, with its login."""
    login = Credentials(os.environ["REGISTRY_USERNAME"], os.environ["REGISTRY_PASSWORD"])
    return RemoteRegistry(f"{os.environ['REGISTRY']}/{repository}", credentials=login)


def small(
    word: str,
    *,
    repository: str = "tests/small",
    server: str = SERVER,
    command: tuple[str, ...] = ("python3", "-m", "small"),
    **env: str,
) -> str:
    """Push the small service whose model is that word; returns the image's digest."""
    base_name, _, tag = os.environ["BASE_IMAGE"].rpartition(":")
    base_repository = base_name.partition("/")[2]
    source = registry(base_repository)
    base = pull(source, tag)
    into = registry(repository)
    sources: dict[str, Any] = {}
    mounts = {}
    for one in base.layers:
        sources[one.descriptor.digest] = registry_source(source, one.descriptor.digest)
        mounts[one.descriptor.digest] = base_repository
    layers = []
    for kind, files in (
        ("application", {"app/small/__init__.py": "", "app/small/__main__.py": server}),
        ("model", {"model/word.txt": word}),
    ):
        tar = layer(files)
        blob = gzip.compress(tar, 1, mtime=0)
        digest = "sha256:" + hashlib.sha256(blob).hexdigest()
        sources[digest] = bytes_source(blob)
        layers.append(
            Layer(
                descriptor=Descriptor(media_type=LAYER_GZIP, digest=digest, size=len(blob)),
                diff_id="sha256:" + hashlib.sha256(tar).hexdigest(),
                kind=kind,
            )
        )
    image = make_image(
        base, layers,
        env={"PYTHONPATH": "/app", "TANDEM_MODEL": "/model", "PYTHONUNBUFFERED": "1", **env},
        Cmd=list(command), WorkingDir="/app", User="10001:10001",
        ExposedPorts={"8080/tcp": {}},
    )  # fmt: skip
    push(into, image, sources, mount_from=mounts)
    return image.digest
