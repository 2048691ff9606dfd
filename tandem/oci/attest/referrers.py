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


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """What refers to an image; `by_registry` where the registry keeps the list by itself."""

    referrers: list[Referrer]
    by_registry: bool


Artifact = tuple[str, str, bytes]
"""Artifact type, media type and content."""


def attach(registry: Registry, image: Image, artifacts: Sequence[Artifact]) -> list[Referrer]:
    """Put artifacts beside an image that is in the registry, and list them.

    What is there already is not put there twice. The fallback list has no compare-and-swap: where
    two machines write to one image's list in the same moment, the later one's stays, and the other
    one's next `attest` adds what is missing.
    """
    put_contents(registry, artifacts)
    added = put_manifests(registry, image, artifacts)
    list_referrers(registry, image.digest, added)
    return added


def put_contents(
    registry: Registry,
    artifacts: Sequence[Artifact],
    *,
    absent: bool = False,
    sessions: Sequence[UploadSession | None] = (),
) -> None:
    """Put the blobs of artifacts, which name no image yet.

    `absent` ones are not asked for before they are sent, through the uploads that were opened for
    them (`sessions`).
    """

    def put(artifact: Artifact, session: UploadSession | None) -> None:
        source = bytes_source(artifact[2])
        registry.put_blob(_content(artifact), source, absent=absent, session=session)

    with ThreadPoolExecutor(len(artifacts)) as pool:
        list(pool.map(put, artifacts, sessions or [None] * len(artifacts)))


def put_manifests(
    registry: Registry, image: Image, artifacts: Sequence[Artifact]
) -> list[Referrer]:
    """Put the manifests of artifacts whose content is there; they are listed nowhere yet.

    They name the image as their subject, and it may follow later: registries take both in either
    order (distribution specification, "Pushing Manifests with Subject").
    """
    subject = Descriptor(media_type=MANIFEST, digest=image.digest, size=len(image.manifest))
    empty = Descriptor(media_type=EMPTY, digest=digest_of(b"{}"), size=2)

    def put(artifact: Artifact) -> Referrer:
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": artifact[0],
            "config": empty,
            "layers": [_content(artifact)],
            "subject": subject,
        }
        stored = registry.put_manifest(msgspec.json.encode(manifest), MANIFEST)
        return Referrer(digest=stored.digest, size=stored.size, artifact_type=artifact[0])

    with ThreadPoolExecutor(len(artifacts)) as pool:
        try:
            return list(pool.map(put, artifacts))
        except RegistryError:
            # Only the first statements of a repository lack it: the others do not ask for it.
            registry.put_blob(empty, bytes_source(b"{}"))
            return list(pool.map(put, artifacts))


def _content(artifact: Artifact) -> Descriptor:
    _, media_type, data = artifact
    return Descriptor(media_type=media_type, digest=digest_of(data), size=len(data))


def list_referrers(registry: Registry, digest: str, added: Sequence[Referrer]) -> None:
    """List referrers where the registry does not do it by itself, and make sure they stay."""
    for _ in range(TRIES):
        # Another writer may put its own list there in the same moment: so it is read again.
        if not list_missing(registry, digest, added):
            return
    raise RegistryError(f"{registry.url}: too many write to the referrers of {digest} at once")


def list_missing(
    registry: Registry, digest: str, added: Sequence[Referrer], *, listed: Listed | None = None
) -> bool:
    """List those referrers that are not listed yet, and return whether there were any.

    `listed` is what `read_list` gave a moment ago.
    """
    with _LISTING:
        listed = listed or read_list(registry, digest)
        missing = [referrer for referrer in added if referrer not in listed.referrers]
        if not missing or listed.by_registry:
            return False
        _put_list(registry, digest, [*listed.referrers, *missing])
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
    return read_list(registry, digest).referrers


def read_list(registry: Registry, digest: str) -> Listed:
    """What refers to an image, and who keeps the list of it. Raises `RegistryError`."""
    index = registry.referrers(digest)
    by_registry = index is not None
    if index is None:
        stored = registry.get_manifest(fallback_tag(digest))
        index = stored[1] if stored else b'{"manifests":[]}'
    try:
        found = [
            Referrer(
                digest=entry["digest"],
                size=entry["size"],
                artifact_type=entry.get("artifactType", ""),
            )
            for entry in msgspec.json.decode(index)["manifests"]
        ]
    except (msgspec.MsgspecError, KeyError, TypeError):
        raise RegistryError(f"{registry.url}: the referrers of {digest} are not a list") from None
    return Listed(referrers=found, by_registry=by_registry)


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
