"""Push images: missing blobs side by side, the manifest last."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
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

PUSHED_AT_ONCE = 6
Session = Future[UploadSession | None]
"""An upload that is being opened before it is known whether it is needed."""


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
        session: Session | None = None,
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
            cancel(registry, session)
            return present(descriptor, time.perf_counter() - started)

        self._transfer = pool.submit(send)

    def was_absent(self) -> bool:
        """Whether it was not there yet; known before it has gone up."""
        return self._absent.result()

    def result(self) -> Transfer:
        """What happened to it. Raises `RegistryError`."""
        return self._transfer.result()


def cancel(registry: Registry, session: Session | None) -> None:
    """Close an upload that is not needed, if it could be opened at all."""
    if session and not session.exception() and (unneeded := session.result()):
        registry.cancel_upload(unneeded)


def present(descriptor: Descriptor, seconds: float = 0.0) -> Transfer:
    """The transfer of a blob that was there already."""
    return Transfer(
        digest=descriptor.digest, size=descriptor.size, how="present", sent=0, seconds=seconds
    )


class ImagePush:
    """The blobs of one image on their way up, in threads of `pool`.

    `sources` opens the blob of each layer that may be missing there, by digest; `mount_from` names
    the repository of the same registry that has it. The layers of an image of this registry and
    repository that it is `based_on` are there without asking. Blobs that are `under_way`,
    by digest, are waited for; `config_session` is an upload opened for the configuration.
    """

    def __init__(
        self,
        pool: ThreadPoolExecutor,
        registry: Registry,
        image: Image,
        sources: Mapping[str, BlobSource] | None = None,
        *,
        mount_from: Mapping[str, str] | None = None,
        based_on: Image | None = None,
        under_way: Mapping[str, BlobPush] | None = None,
        config_session: Session | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._registry = registry
        self._image = image
        known = {layer.descriptor.digest for layer in based_on.layers} if based_on else set()
        # All are asked for at once: on a small change, waiting for answers is most of the time.
        layers = dict(under_way or {})
        for layer in image.layers:
            digest = layer.descriptor.digest
            if digest not in known and digest not in layers:
                layers[digest] = BlobPush(
                    pool,
                    registry,
                    msgspec.structs.replace(layer.descriptor, annotations=None),
                    (sources or {}).get(digest) or _missing(registry, layer),
                    mount_from=(mount_from or {}).get(digest),
                    progress=progress,
                )
        self._layers = layers
        self._config = BlobPush(
            pool,
            registry,
            image.config_descriptor,
            bytes_source(image.config),
            # It names its layers: one that was never there was in no image yet.
            known_absent=lambda: any(blob.was_absent() for blob in layers.values()),
            session=config_session,
            progress=progress,
        )

    def is_new(self) -> bool:
        """Whether the registry cannot have the image yet; known before it is sent."""
        return self._config.was_absent()

    def transfers(self) -> list[Transfer]:
        """What happened to each layer and to the config, once all are there."""
        descriptors = {layer.descriptor.digest: layer.descriptor for layer in self._image.layers}
        transfers = [
            self._layers[digest].result() if digest in self._layers else present(descriptor)
            for digest, descriptor in descriptors.items()
        ]
        return [*transfers, self._config.result()]

    def put_manifest(self, tag: str | None) -> None:
        """Make the image be there, by digest and, when given, under `tag`."""
        # No manifest can be there already whose config was not.
        if not self.is_new():
            stored = self._registry.get_manifest(tag or self._image.digest)
            if stored is not None and stored[0].digest == self._image.digest:
                return
        self._registry.put_manifest(self._image.manifest, MANIFEST, tag=tag)


def _missing(registry: Registry, layer: Layer) -> BlobSource:
    def refuse() -> Any:
        raise RegistryError(
            f"{registry.url} does not have layer {layer.descriptor.digest} "
            f"({layer.kind or 'of the image'}) and there is nothing here to upload it from: "
            "build the app image again"
        )

    return refuse


def push(
    registry: Registry,
    image: Image,
    sources: Mapping[str, BlobSource] | None = None,
    *,
    tag: str | None = None,
    mount_from: Mapping[str, str] | None = None,
    based_on: Image | None = None,
    progress: Progress | None = None,
) -> list[Transfer]:
    """Make sure the image is in the registry, whole, by digest and under `tag`.

    The arguments are those of `ImagePush`. Returns what happened to each layer and to the config.
    Raises `RegistryError`.
    """
    with ThreadPoolExecutor(PUSHED_AT_ONCE) as pool:
        pushed = ImagePush(
            pool,
            registry,
            image,
            sources,
            mount_from=mount_from,
            based_on=based_on,
            progress=progress,
        )
        transfers = pushed.transfers()
    pushed.put_manifest(tag)
    return transfers
