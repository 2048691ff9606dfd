"""What a key signed about an image, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from tandem.errors import RegistryError
from tandem.oci import Registry
from tandem.oci.attest.provenance import PROVENANCE, differences
from tandem.oci.attest.referrers import read_artifact, referrers
from tandem.oci.attest.sbom import SBOM, BillStatement
from tandem.oci.attest.signature import ENVELOPE, opened
from tandem.oci.image import Image
from tandem.oci.pull import pull


def signed(registry: Registry, digest: str, artifact_type: str, key: Any) -> Iterator[bytes]:
    """The statements of a type beside an image that `key` signed, whatever they say.

    What others put there, unsigned, damaged or signed by somebody else, is not among them.
    """
    for referrer in referrers(registry, digest):
        if referrer.artifact_type != artifact_type:
            continue
        try:
            media_type, data = read_artifact(registry, referrer, digest)
            statement, good = opened(data, key) if media_type == ENVELOPE else (b"", False)
        except RegistryError:
            continue  # not an artifact that can be read: nobody's statement
        if good:
            yield statement


def signed_provenance(
    registry: Registry, image: Image, digest: str, key: Any
) -> tuple[bytes | None, list[str]]:
    """The first provenance signed by `key` that fits the image, or what is wrong.

    One of another image, signed by the same key and put here, is not in the way of the right one.
    """
    problems: list[str] = []
    for statement in signed(registry, digest, PROVENANCE, key):
        try:
            wrong = differences(msgspec.json.decode(statement), image, digest)
        except (msgspec.MsgspecError, KeyError, TypeError, IndexError, AttributeError) as problem:
            wrong = [f"the signed provenance cannot be read: {problem}"]
        if not wrong:
            return statement, []
        problems = problems or wrong
    return None, problems


def signed_bill(registry: Registry, digest: str, key: Any) -> bytes | None:
    """The first bill of materials that `key` signed for just this image."""
    for data in signed(registry, digest, SBOM, key):
        try:
            statement = msgspec.json.decode(data, type=BillStatement)
        except msgspec.MsgspecError:
            continue
        if statement.is_about(digest):
            return bytes(statement.predicate)
    return None


def require_signed(registry: Registry, digest: str, key: Any) -> None:
    """Raise `RegistryError` unless `key` signed both statements of this image.

    Raises `RegistryError` too when the registry cannot be asked.
    """
    where = registry.reference(digest)
    again = "by the key that is set: pack it again with TANDEM_SIGNING_KEY"
    statement, wrong = signed_provenance(registry, pull(registry, digest), digest, key)
    if wrong:
        raise RegistryError(f"{where}: {'; '.join(wrong)}")
    if statement is None:
        raise RegistryError(f"{where} has no provenance signed {again}")
    if signed_bill(registry, digest, key) is None:
        raise RegistryError(f"{where} has no bill of materials signed {again}")
