"""Remove images that nobody needs any more, with the statements about them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec

from tandem.errors import RegistryError
from tandem.oci import Registry
from tandem.oci.attest.referrers import fallback_tag, referrers
from tandem.oci.image import Image
from tandem.oci.model_pack import layers_of_model_pack
from tandem.oci.pull import pull


class RemovedImage(msgspec.Struct, frozen=True, kw_only=True):
    """One image that was removed, or would be."""

    digest: str
    tags: tuple[str, ...]
    what: str
    """`image`, or `app image` for one without a model."""


class PrunedImages(msgspec.Struct, frozen=True, kw_only=True):
    """What a clean-up removes; `bytes` counts layers that no other image has."""

    removed: tuple[RemovedImage, ...]
    kept: tuple[str, ...]
    bytes: int
    dry_run: bool


def prune(
    registry: Registry,
    newest_first: Sequence[str],
    *,
    app: str,
    keep: Collection[str],
    number: int,
    dry_run: bool = False,
) -> PrunedImages:
    """Remove the app's images beyond the `number` newest, except those in `keep`.

    `newest_first` are the digests of all its recorded images; what is in no record is not touched,
    because it may be on its way. `keep` names what is live, in the rollback window, or named by a
    release record. The image without a model goes when no image that stays was made from it. The
    registry frees the layers' bytes when it next collects its garbage; a folder now, except those
    of the last hour.
    """
    if number < 1:
        raise RegistryError(f"prune keeps at least 1 image, not {number}")
    images, model_packs = _tagged(registry, app)
    recorded = list(dict.fromkeys(newest_first))
    spared = set(recorded[:number]) | set(keep)
    going = {digest for digest in recorded if digest in images and digest not in spared}
    staying = {digest: tagged for digest, tagged in images.items() if digest not in going}
    # An image without a model is gone with the last image that was made from it.
    made_from = [images[digest][0] for digest in going]
    needed = [image for image, _ in staying.values() if _has_model(image)]
    for digest, (image, _) in list(staying.items()):
        used = any(_is_below(image, other) for other in needed)
        was_used = any(_is_below(image, other) for other in made_from)
        if not _has_model(image) and was_used and not used and digest not in spared:
            going.add(digest)
            del staying[digest]
    blobs = {layer.descriptor.digest for image, _ in staying.values() for layer in image.layers}
    freed = {
        layer.descriptor.digest: layer.descriptor.size
        for digest in going
        for layer in images[digest][0].layers
        if layer.descriptor.digest not in blobs
    }
    removed = [
        RemovedImage(
            digest=digest,
            tags=tuple(sorted(images[digest][1])),
            what="image" if _has_model(images[digest][0]) else "app image",
        )
        # Oldest first: a clean-up that is stopped half-way has removed the least wanted.
        for digest in sorted(going, key=lambda digest: _age(recorded, digest), reverse=True)
    ]
    if not dry_run:
        for gone in removed:
            _remove(registry, gone.digest)
        for digest, layers in model_packs.items():
            if layers <= freed.keys():
                registry.delete(digest)
        registry.collect()
    return PrunedImages(
        removed=tuple(removed),
        kept=tuple(sorted(staying)),
        bytes=sum(freed.values()),
        dry_run=dry_run,
    )


def _tagged(
    registry: Registry, app: str
) -> tuple[dict[str, tuple[Image, list[str]]], dict[str, set[str]]]:
    """The images of an app that have a tag, and the layers of ModelPacks, by digest."""
    found: dict[str, tuple[Image, list[str]]] = {}
    model_packs: dict[str, set[str]] = {}
    for tag in registry.tags():
        if tag.startswith("sha256-"):
            continue
        manifest = registry.get_manifest(tag)
        if manifest is None:
            continue
        digest = manifest[0].digest
        if digest in found:
            found[digest][1].append(tag)
            continue
        if layers := layers_of_model_pack(manifest[1]):
            model_packs[digest] = set(layers)
            continue
        try:
            image = pull(registry, digest)
        except RegistryError:
            continue  # not an image: somebody else's
        if image.labels.get("tandem.app") == app:
            found[digest] = (image, [tag])
    return found, model_packs


def _has_model(image: Image) -> bool:
    return "tandem.model.digest" in image.labels


def _is_below(app_image: Image, image: Image) -> bool:
    """Whether an image is made of another's layers and more."""
    mine = [layer.diff_id for layer in app_image.layers]
    return [layer.diff_id for layer in image.layers][: len(mine)] == mine


def _age(recorded: Sequence[str], digest: str) -> int:
    return recorded.index(digest) if digest in recorded else len(recorded)


def _remove(registry: Registry, digest: str) -> None:
    """Remove an image, then what refers to it, so that none stays half-explained."""
    statements = referrers(registry, digest)
    listed = registry.get_manifest(fallback_tag(digest))
    registry.delete(digest)
    for statement in statements:
        registry.delete(statement.digest)
    if listed:
        registry.delete(listed[0].digest)
