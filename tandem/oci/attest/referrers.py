"""Artifacts that refer to an image: put beside it, listed, and read."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec

from tandem.errors import RegistryError
from tandem.oci import INDEX, MANIFEST, Descriptor, Registry
from tandem.oci.blobs import bytes_source, digest_of
from tandem.oci.image import Image

EMPTY = "application/vnd.oci.empty.v1+json"
LARGEST = 16 << 20
TRIES = 8
_LISTING = threading.Lock()
"""The threads of one process take turns."""


class Referrer(msgspec.Struct, frozen=True, kw_only=True):
    """One artifact that refers to an image."""

    digest: str
    size: int
    artifact_type: str


def attach(
    registry: Registry,
    image: Image,
    artifacts: Sequence[tuple[str, str, bytes]],
) -> list[Referrer]:
    """Put artifacts (type, media type, content) beside an image that is in the registry.

    What is there already is not put there twice. The fallback list has no compare-and-swap: where
    two machines write to one image's list in the same moment, the later one's stays, and the other
    one's next `attest` adds what is missing.
    """
    subject = Descriptor(media_type=MANIFEST, digest=image.digest, size=len(image.manifest))

    def put_blob(content: tuple[str, bytes]) -> Descriptor:
        media_type, data = content
        descriptor = Descriptor(media_type=media_type, digest=digest_of(data), size=len(data))
        registry.put_blob(descriptor, bytes_source(data))
        return descriptor

    def put(artifact: tuple[str, Descriptor]) -> Referrer:
        artifact_type, content = artifact
        manifest = msgspec.json.encode(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "artifactType": artifact_type,
                "config": config,
                "layers": [content],
                "subject": subject,
            }
        )
        stored = registry.put_manifest(manifest, MANIFEST)
        return Referrer(digest=stored.digest, size=stored.size, artifact_type=artifact_type)

    with ThreadPoolExecutor(4) as pool:
        contents = [(media_type, data) for _, media_type, data in artifacts]
        config, *blobs = pool.map(put_blob, [(EMPTY, b"{}"), *contents])
        types = [artifact_type for artifact_type, _, _ in artifacts]
        added = list(pool.map(put, zip(types, blobs, strict=True)))
    with _LISTING:
        _list(registry, image.digest, added)
    return added


def _list(registry: Registry, digest: str, added: Sequence[Referrer]) -> None:
    """List referrers where the registry does not do it by itself."""
    for _ in range(TRIES):
        listed, from_api = _referrers(registry, digest)
        missing = [referrer for referrer in added if referrer not in listed]
        if not missing or from_api:
            return
        index = {
            "schemaVersion": 2,
            "mediaType": INDEX,
            "manifests": [
                {
                    "mediaType": MANIFEST,
                    "digest": referrer.digest,
                    "size": referrer.size,
                    "artifactType": referrer.artifact_type,
                }
                for referrer in (*listed, *missing)
            ],
        }
        # Another writer may have put its own list there in the same moment: so it is read again.
        registry.put_manifest(msgspec.json.encode(index), INDEX, tag=fallback_tag(digest))
    raise RegistryError(f"{registry.url}: too many write to the referrers of {digest} at once")


def fallback_tag(digest: str) -> str:
    """The tag under which the referrers of a digest are listed."""
    return digest.replace(":", "-", 1)


def referrers(registry: Registry, digest: str) -> list[Referrer]:
    """What refers to an image."""
    return _referrers(registry, digest)[0]


def _referrers(registry: Registry, digest: str) -> tuple[list[Referrer], bool]:
    listed = registry.referrers(digest)
    from_api = listed is not None
    if listed is None:
        stored = registry.get_manifest(fallback_tag(digest))
        listed = stored[1] if stored else b'{"manifests":[]}'
    try:
        entries = msgspec.json.decode(listed)["manifests"]
        found = [
            Referrer(
                digest=entry["digest"],
                size=entry["size"],
                artifact_type=entry.get("artifactType", ""),
            )
            for entry in entries
        ]
    except (msgspec.MsgspecError, KeyError, TypeError):
        raise RegistryError(f"{registry.url}: the referrers of {digest} are not a list") from None
    return found, from_api


def read_artifact(registry: Registry, referrer: Referrer, subject: str) -> tuple[str, bytes]:
    """Media type and content of an artifact, which must name `subject` as its subject."""
    stored = registry.get_manifest(referrer.digest)
    if stored is None:
        raise RegistryError(f"{registry.url} lists {referrer.digest} and does not have it")
    try:
        manifest = msgspec.json.decode(stored[1])
        if manifest["subject"]["digest"] != subject:
            raise RegistryError(f"{referrer.digest} is about {manifest['subject']['digest']}")
        layer = manifest["layers"][0]
        if layer["size"] > LARGEST:
            raise RegistryError(f"{referrer.digest} is larger than {LARGEST >> 20} MB: refused")
        return layer["mediaType"], b"".join(registry.get_blob(layer["digest"]))
    except (msgspec.MsgspecError, KeyError, IndexError, TypeError):
        raise RegistryError(f"{referrer.digest} is not an artifact manifest") from None


def artifacts(registry: Registry, digest: str, artifact_type: str) -> Iterator[tuple[str, bytes]]:
    """All artifacts of a type about an image: media type and content.

    One that cannot be read hides no other: its error is raised only when none could be.
    """
    problem: RegistryError | None = None
    readable = False
    for referrer in referrers(registry, digest):
        if referrer.artifact_type != artifact_type:
            continue
        try:
            artifact = read_artifact(registry, referrer, digest)
        except RegistryError as unreadable:
            problem = problem or unreadable
            continue
        readable = True
        yield artifact
    if problem and not readable:
        raise problem


def find(registry: Registry, digest: str, artifact_type: str) -> tuple[str, bytes] | None:
    """The first artifact of a type about an image that can be read."""
    return next(artifacts(registry, digest, artifact_type), None)
