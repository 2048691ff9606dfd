"""The bill of materials of an app image: attached, and read again."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from tandem.errors import RegistryError
from tandem.oci import Registry
from tandem.oci.attest.referrers import Artifact, artifacts, attach
from tandem.oci.attest.sbom import SBOM, bill_of_materials, bill_statement, components_of
from tandem.oci.attest.signature import ENVELOPE, bill_document, sign
from tandem.oci.attest.trust import signed_bill
from tandem.oci.blobs import DIGEST
from tandem.oci.components import Component
from tandem.oci.image import Image
from tandem.oci.spool import writing

log = logging.getLogger("tandem")
_NOT_A_BILL = (msgspec.MsgspecError, KeyError, AttributeError, TypeError)


def attach_materials(
    registry: Registry,
    image: Image,
    components: Iterable[Component],
    *,
    app: str,
    signer: Any | None = None,
) -> None:
    """Attach the bill of materials of an app image, where `attest` finds it."""
    document = bill_of_materials(app, components)
    attach(registry, image, [bill_artifact(registry, image.digest, document, signer)])


def bill_artifact(registry: Registry, digest: str, document: bytes, signer: Any | None) -> Artifact:
    """A bill of materials as an artifact, signed when there is a signer."""
    if signer is None:
        return SBOM, SBOM, document
    return SBOM, ENVELOPE, sign(bill_statement(registry.url, digest, document), signer)


def components_in(
    registry: Registry, digest: str, *, key: Any | None = None, cache: Path | None = None
) -> list[Component]:
    """The libraries of an app image, as its bill of materials lists them.

    With a `key`, the bill that it signed is preferred; one made before a key was set is read with
    a warning. The folder `cache` remembers what was read, by the image's digest and the key. Raises
    `RegistryError` when none can be read.
    """
    if cache is None or not DIGEST.fullmatch(digest):
        return _read_components(registry, digest, key)[0]
    name = f"components-{digest.removeprefix('sha256:')}-{key.keyid if key else 'any'}.json"
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        return msgspec.json.decode((cache / name).read_bytes(), type=list[Component])
    components, final = _read_components(registry, digest, key)
    if final:
        with writing(cache, f"writing to {cache}", RegistryError) as (file, keep):
            file.write(msgspec.json.encode(components))
            keep(name)
    return components


def _read_components(
    registry: Registry, digest: str, key: Any | None
) -> tuple[list[Component], bool]:
    """The libraries of an image, and whether that answer is final."""
    if key is not None and (document := signed_bill(registry, digest, key)) is not None:
        return components_of(document), True
    problem: Exception | None = None
    for media_type, data in artifacts(registry, digest, SBOM):
        try:
            components = components_of(bill_document(media_type, data))
        except (*_NOT_A_BILL, RegistryError) as unreadable:
            problem = problem or unreadable
            continue
        if components:
            if key is not None:
                log.warning("%s: its bill of materials is not signed by the key set", digest)
            return components, key is None
    if problem is not None:
        raise RegistryError(f"the bill of materials of {digest} cannot be read: {problem}")
    return [], False
