"""Push images: blobs side by side, what is there already not at all, the manifest last."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from tandem.errors import RegistryError
from tandem.oci import (
    MANIFEST,
    Descriptor,
    Layer,
    Progress,
    Registry,
    Transfer,
    UploadSession,
)
from tandem.oci.blobs import BlobSource, bytes_source
from tandem.oci.image import Image
from tandem.oci.layer import BuiltLayer
from tandem.oci.pull import pull

PUSHED_AT_ONCE = 6


class BlobPush:
    """One blob on its way to a registry, in a thread of `pool`.

    `known_absent` tells without asking the registry that the blob is not there; `session` is an
    upload that was opened for it, in case.
    """

    def __init__(
        self,
        pool: ThreadPoolExecutor,
        registry: Registry,
        descriptor: Descriptor,
        source: BlobSource,
        *,
        mount_from: str | None = None,
        known_absent: Callable[[], bool] | None = None,
        session: Future[UploadSession | None] | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._absent: Future[bool] = Future()

        def send() -> Transfer:
            started = time.perf_counter()
            try:
                absent = bool(known_absent and known_absent())
                absent = absent or registry.head_blob(descriptor.digest) is None
            except BaseException as problem:
                self._absent.set_exception(problem)
                raise
            self._absent.set_result(absent)
            if absent:
                return registry.put_blob(
                    descriptor,
                    source,
                    mount_from=mount_from,
                    absent=True,
                    session=session.result() if session else None,
                    progress=progress,
                )
            if session and not session.exception() and (unneeded := session.result()):
                registry.cancel_upload(unneeded)
            return present(descriptor, time.perf_counter() - started)

        self._transfer = pool.submit(send)

    def was_absent(self) -> bool:
        """Whether it was not there yet; known before it has gone up."""
        return self._absent.result()

    def result(self) -> Transfer:
        """What happened to it. Raises `RegistryError`."""
        return self._transfer.result()


def present(descriptor: Descriptor, seconds: float = 0.0) -> Transfer:
    """The transfer of a blob that was there already."""
    return Transfer(
        digest=descriptor.digest, size=descriptor.size, how="present", sent=0, seconds=seconds
    )


def push(
    registry: Registry,
    image: Image,
    sources: Mapping[str, BlobSource] | None = None,
    *,
    tag: str | None = None,
    mount_from: Mapping[str, str] | None = None,
    based_on: Image | None = None,
    under_way: Mapping[str, BlobPush] | None = None,
    progress: Progress | None = None,
) -> list[Transfer]:
    """Make sure the image is in the registry, whole, by digest and, when given, under `tag`.

    `sources` opens the blob of each layer that may be missing there, by digest; `mount_from` names
    the repository of the same registry that has it. An image that was just read from this registry
    and repository is `based_on`: its layers are there without asking. Blobs that are `under_way`,
    by digest, are waited for. Blobs go up side by side; the manifest goes last. Returns what
    happened to each layer and to the config. Raises `RegistryError`.
    """
    sources = sources or {}
    mount_from = mount_from or {}

    def missing(layer: Layer) -> BlobSource:
        def refuse() -> Any:
            raise RegistryError(
                f"{registry.url} does not have layer {layer.descriptor.digest} "
                f"({layer.kind or 'of the image'}) and there is nothing here to upload it from: "
                "build the app image again"
            )

        return refuse

    known = {layer.descriptor.digest for layer in based_on.layers} if based_on else set()
    # All are asked for at once: on a small change, waiting for answers is most of the time.
    with ThreadPoolExecutor(PUSHED_AT_ONCE) as pool:
        sending = dict(under_way or {})
        for layer in image.layers:
            digest = layer.descriptor.digest
            if digest not in known and digest not in sending:
                sending[digest] = BlobPush(
                    pool,
                    registry,
                    msgspec.structs.replace(layer.descriptor, annotations=None),
                    sources.get(digest) or missing(layer),
                    mount_from=mount_from.get(digest),
                    progress=progress,
                )
        config = BlobPush(
            pool,
            registry,
            image.config_descriptor,
            bytes_source(image.config),
            # It names its layers: one that was never there was in no image yet.
            known_absent=lambda: any(blob.was_absent() for blob in sending.values()),
            progress=progress,
        )
        layers = {layer.descriptor.digest: layer.descriptor for layer in image.layers}
        transfers = [
            sending[digest].result() if digest in sending else present(descriptor)
            for digest, descriptor in layers.items()
        ]
        transfers.append(config.result())
    # No manifest can be there already whose config was not.
    if transfers[-1].how == "present":
        stored = registry.get_manifest(tag or image.digest)
        if stored is not None and stored[0].digest == image.digest:
            return transfers
    registry.put_manifest(image.manifest, MANIFEST, tag=tag)
    return transfers


def push_on_top(
    registry: Registry,
    reference: str,
    make: Callable[[], BuiltLayer],
    change: Callable[[Image], Image],
    *,
    tag: str | None = None,
    expect_new: bool = False,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> tuple[Image, list[Transfer]]:
    """Put one more layer on an image of this registry, and push the result under `tag`.

    `make` makes the layer, and `change` gives the image below the settings that go with it. The
    layer goes up while that image is still being read: neither waits for the other's answers. A
    layer that is expected to be new has its upload opened while it is being made. `cache`: see
    `pull`. Returns the whole image and what happened to its blobs. Raises as `pull` and `push` do.
    """
    with ThreadPoolExecutor(3) as pool:
        session = pool.submit(registry.open_upload) if expect_new else None
        reading = pool.submit(pull, registry, reference, cache=cache)
        built = make()
        blob = BlobPush(
            pool, registry, built.layer.descriptor, built.open, session=session, progress=progress
        )
        below = reading.result()
        image = change(below).append(built.layer)
        under_way = {built.layer.descriptor.digest: blob}
        return image, push(
            registry, image, tag=tag, based_on=below, under_way=under_way, progress=progress
        )
