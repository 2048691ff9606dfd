"""Read an image of a registry: its manifest, and its configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from tandem.errors import RegistryError
from tandem.oci import (
    DOCKER_INDEX,
    INDEX,
    LAYER_GZIP,
    LAYER_TAR,
    LAYER_ZSTD,
    MANIFEST,
    Descriptor,
    Layer,
    Registry,
)
from tandem.oci.blobs import DIGEST, digest_of, read_blob
from tandem.oci.image import KIND, Image, Platform
from tandem.oci.spool import writing

_OCI_NAME = {
    "application/vnd.docker.image.rootfs.diff.tar.gzip": LAYER_GZIP,
    "application/vnd.docker.image.rootfs.diff.tar": LAYER_TAR,
    LAYER_GZIP: LAYER_GZIP,
    LAYER_TAR: LAYER_TAR,
    LAYER_ZSTD: LAYER_ZSTD,
}


def pull(
    registry: Registry,
    reference: str,
    *,
    platform: Platform | None = None,
    cache: Path | None = None,
) -> Image:
    """The image that a tag or digest names; of an index, the one for `platform`.

    The folder `cache` keeps what has a digest, manifests and configurations, so that each is read
    once: what it has is not asked of the registry again. Raises `RegistryError` when there is no
    such image, or none for that platform, or it does not follow the specification.
    """
    where = registry.reference(reference)
    stored = _kept_manifest(reference, cache) or registry.get_manifest(reference)
    if stored is None:
        raise RegistryError(f"there is no image {where}")
    descriptor, data = stored
    try:
        manifest = msgspec.json.decode(data)
        if descriptor.media_type in (INDEX, DOCKER_INDEX):
            digest = _for_platform(manifest["manifests"], platform or Platform(), where)
            return pull(registry, digest)
        image = _image(registry, manifest, where, cache)
    except (msgspec.MsgspecError, KeyError, TypeError, AttributeError) as problem:
        raise RegistryError(
            f"{where} is not an image that Tandem can read: {type(problem).__name__} {problem}"
        ) from None
    if cache is not None and descriptor.digest == reference:
        _keep(data, cache)
    return image


def _for_platform(entries: list[dict[str, Any]], platform: Platform, where: str) -> str:
    """The digest of the image for a platform in an index."""
    offers = []
    for entry in entries:
        offered = entry.get("platform") or {}
        if (offered.get("os"), offered.get("architecture")) == (
            platform.os,
            platform.architecture,
        ):
            digest: str = entry["digest"]
            return digest
        offers.append(f"{offered.get('os', '?')}/{offered.get('architecture', '?')}")
    raise RegistryError(
        f"{where} is not made for {platform}, only for {', '.join(offers) or 'nothing'}"
    )


def _image(registry: Registry, manifest: dict[str, Any], where: str, cache: Path | None) -> Image:
    config = _config(registry, manifest["config"]["digest"], manifest["config"]["size"], cache)
    diff_ids = msgspec.json.decode(config)["rootfs"]["diff_ids"]
    layers = manifest["layers"]
    if len(diff_ids) != len(layers):
        raise RegistryError(
            f"{where}: {len(layers)} layers, but the configuration names {len(diff_ids)}"
        )
    return Image(
        config=config,
        annotations=manifest.get("annotations") or {},
        layers=tuple(
            Layer(
                descriptor=Descriptor(
                    media_type=_OCI_NAME[layer["mediaType"]],
                    digest=layer["digest"],
                    size=layer["size"],
                ),
                diff_id=diff_id,
                kind=(layer.get("annotations") or {}).get(KIND, ""),
            )
            for layer, diff_id in zip(layers, diff_ids, strict=True)
        ),
    )


def _config(registry: Registry, digest: str, size: int, cache: Path | None) -> bytes:
    if cache is None:
        return read_blob(registry, digest, size)
    if kept := _kept(digest, cache):
        return kept
    data = read_blob(registry, digest, size)
    _keep(data, cache)
    return data


def _kept_manifest(digest: str, cache: Path | None) -> tuple[Descriptor, bytes] | None:
    """A manifest of the cache; an index is none of them, it names no image by itself."""
    data = _kept(digest, cache) if cache is not None else None
    if data is None:
        return None
    return Descriptor(media_type=MANIFEST, digest=digest, size=len(data)), data


def _kept(digest: str, cache: Path) -> bytes | None:
    """What the cache has under a digest, if it is whole."""
    if not DIGEST.fullmatch(digest):
        return None
    try:
        data = (cache / digest.removeprefix("sha256:")).read_bytes()
    except OSError:
        return None
    return data if digest_of(data) == digest else None


def _keep(data: bytes, cache: Path) -> None:
    with writing(cache, f"writing to {cache}", RegistryError) as (file, keep):
        file.write(data)
        keep(digest_of(data).removeprefix("sha256:"))
