"""Artifacts that refer to an image: put beside it, listed, and read."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec

from tandem.errors import RegistryError
from tandem.oci import INDEX, MANIFEST, Descriptor, Registry, UploadSession
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


Artifact = tuple[str, str, bytes]
"""Artifact type, media type and content."""


def attach(registry: Registry, image: Image, artifacts: Sequence[Artifact]) -> list[Referrer]:
    """Put artifacts beside an image that is in the registry, and list them.

    What is there already is not put there twice. The fallback list has no compare-and-swap: where
    two machines write to one image's list in the same moment, the later one's stays, and the other
    one's next `attest` adds what is missing.
    """
    added = put_artifacts(registry, image, artifacts)
    list_referrers(registry, image.digest, added)
    return added


def put_artifacts(
    registry: Registry,
    image: Image,
    artifacts: Sequence[Artifact],
    *,
    absent: bool = False,
    sessions: Sequence[UploadSession | None] = (),
) -> list[Referrer]:
    """Put artifacts that name an image as their subject, listed nowhere yet.

    The image may follow later: registries take both in either order (distribution specification,
    "Pushing Manifests with Subject"). `absent` content is not asked for before it is sent,
    through the uploads that were opened for it (`sessions`).
    """
    subject = Descriptor(media_type=MANIFEST, digest=image.digest, size=len(image.manifest))
    empty = Descriptor(media_type=EMPTY, digest=digest_of(b"{}"), size=2)

    def put_content(artifact: Artifact, session: UploadSession | None) -> Descriptor:
        _, media_type, data = artifact
        descriptor = Descriptor(media_type=media_type, digest=digest_of(data), size=len(data))
        registry.put_blob(descriptor, bytes_source(data), absent=absent, session=session)
        return descriptor

    def put_manifest(artifact_type: str, content: Descriptor) -> Referrer:
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": artifact_type,
            "config": empty,
            "layers": [content],
            "subject": subject,
        }
        stored = registry.put_manifest(msgspec.json.encode(manifest), MANIFEST)
        return Referrer(digest=stored.digest, size=stored.size, artifact_type=artifact_type)

    types = [artifact_type for artifact_type, _, _ in artifacts]
    opened = sessions or [None] * len(artifacts)
    with ThreadPoolExecutor(1 + len(artifacts)) as pool:
        # Beside a new image it is not asked for: the app image's own statements left it there.
        config = None if absent else pool.submit(registry.put_blob, empty, bytes_source(b"{}"))
        contents = list(pool.map(put_content, artifacts, opened))
        if config is not None:
            config.result()
            return list(pool.map(put_manifest, types, contents))
        try:
            return list(pool.map(put_manifest, types, contents))
        except RegistryError:
            registry.put_blob(empty, bytes_source(b"{}"))
            return list(pool.map(put_manifest, types, contents))


def list_referrers(registry: Registry, digest: str, added: Sequence[Referrer]) -> None:
    """List referrers where the registry does not do it by itself, and make sure they stay."""
    for _ in range(TRIES):
        # Another writer may put its own list there in the same moment: so it is read again.
        if not list_missing(registry, digest, added):
            return
    raise RegistryError(f"{registry.url}: too many write to the referrers of {digest} at once")


def list_missing(registry: Registry, digest: str, added: Sequence[Referrer]) -> bool:
    """List those referrers that are not listed yet, and return whether there were any."""
    with _LISTING:
        listed, from_api = _referrers(registry, digest)
        missing = [referrer for referrer in added if referrer not in listed]
        if not missing or from_api:
            return False
        _put_list(registry, digest, [*listed, *missing])
        return True


def _put_list(registry: Registry, digest: str, listed: Sequence[Referrer]) -> None:
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
            for referrer in listed
        ],
    }
    registry.put_manifest(msgspec.json.encode(index), INDEX, tag=fallback_tag(digest))


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
