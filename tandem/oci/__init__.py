"""Container images as immutable values, and registries behind one small protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import BinaryIO, Literal, Protocol

import msgspec

from tandem.oci.credentials import Credentials

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER_TAR = "application/vnd.oci.image.layer.v1.tar"
LAYER_GZIP = LAYER_TAR + "+gzip"
LAYER_ZSTD = LAYER_TAR + "+zstd"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
ACCEPTED = (MANIFEST, INDEX, DOCKER_MANIFEST, DOCKER_INDEX)
"""The kinds of manifest that are read."""

Progress = Callable[[int], None]
"""Called with the number of bytes just moved."""


class Descriptor(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """A blob or manifest by content; `size` in bytes (OCI image specification)."""

    media_type: str
    digest: str
    size: int
    annotations: Mapping[str, str] | None = None


class Layer(msgspec.Struct, frozen=True, kw_only=True):
    """One layer: its blob, and the digest of its uncompressed tar (`diff_id`)."""

    descriptor: Descriptor
    diff_id: str
    kind: str = ""
    """What it holds: `base`, `dependencies`, `application`, `model`."""


class Transfer(msgspec.Struct, frozen=True, kw_only=True):
    """What happened to one blob: `sent` counts the bytes that went over the wire."""

    digest: str
    size: int
    how: Literal["uploaded", "mounted", "present"]
    sent: int
    seconds: float


class UploadSession(msgspec.Struct, frozen=True, kw_only=True):
    """An upload that was opened before it was known of what; pieces in bytes."""

    location: str
    smallest_piece: int = 0


class Registry(Protocol):
    """One repository of a registry, or an OCI image layout folder.

    Methods raise `RegistryError`. What is written is whole or not there; what is read is verified
    against its digest.
    """

    url: str
    """What the settings call it, without any secret."""
    host: str
    """`HOST:PORT`, by which engines and nodes pull from it; empty for a folder of this machine."""

    def reference(self, digest: str) -> str:
        """How a person's tools name the image: `HOST/REPOSITORY@sha256:…`."""

    def login_for_others(self) -> Credentials | None:
        """What an engine or a node logs in with; None where nothing is needed or known."""

    def head_blob(self, digest: str) -> int | None:
        """The blob's size in bytes, or None where the registry has no such blob."""

    def put_blob(
        self,
        descriptor: Descriptor,
        source: Callable[[], AbstractContextManager[BinaryIO]],
        *,
        mount_from: str | None = None,
        absent: bool = False,
        session: UploadSession | None = None,
        progress: Progress | None = None,
    ) -> Transfer:
        """Make sure the blob is there: ask, mount, then stream what `source` opens.

        One that is known to be `absent` is not asked for. `session` is an upload opened for it by
        `open_upload`. A retry may open the source again from the start.
        """

    def open_upload(self) -> UploadSession | None:
        """Open an upload before it is known of what; None where that saves nothing."""

    def cancel_upload(self, session: UploadSession) -> None:
        """Close an upload that is not needed after all; never an error."""

    def get_blob(self, digest: str) -> Iterator[bytes]:
        """The blob in chunks; raises at the end when its digest is another."""

    def get_manifest(self, reference: str) -> tuple[Descriptor, bytes] | None:
        """The manifest or index of a tag or digest, its exact bytes; or None."""

    def put_manifest(self, data: bytes, media_type: str, *, tag: str | None = None) -> Descriptor:
        """Store a manifest whose blobs are all there, by digest and under `tag`."""

    def referrers(self, digest: str) -> bytes | None:
        """The index of what refers to a digest; None where none is kept."""

    def tags(self) -> list[str]:
        """The tags there are."""

    def delete(self, reference: str) -> None:
        """Remove a tag or a manifest by digest; no error when it is not there."""

    def collect(self) -> int:
        """Free the bytes of unnamed blobs; 0 where the registry does so by itself."""


def open_registry(url: str) -> Registry:
    """The registry that `url` names: `oci:FOLDER` or `HOST/REPOSITORY`.

    Raises `SettingError` for any other form. Nothing is contacted yet.
    """
    if url.startswith("oci:"):
        from tandem.oci.layout import LayoutRegistry

        return LayoutRegistry(url)
    from tandem.oci.remote.client import RemoteRegistry

    return RemoteRegistry(url)
