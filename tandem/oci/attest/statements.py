"""Make the statements about an image and put them beside it, where they are missing."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec

from tandem.errors import RegistryError
from tandem.oci import Registry
from tandem.oci.attest.provenance import PROVENANCE, Origin, provenance
from tandem.oci.attest.referrers import Referrer, artifacts, attach, referrers
from tandem.oci.attest.sbom import SBOM, bill_of_materials, bill_statement, components_of
from tandem.oci.attest.signature import ENVELOPE, bill_document, sign
from tandem.oci.attest.trust import signed_bill, signed_provenance
from tandem.oci.components import Component
from tandem.oci.image import Image

log = logging.getLogger("tandem")
_UNREADABLE = (msgspec.MsgspecError, KeyError, AttributeError, TypeError)


def attach_materials(
    registry: Registry,
    image: Image,
    components: Iterable[Component],
    *,
    app: str,
    signer: Any | None = None,
) -> None:
    """Put the bill of materials of an app image beside it, where `attest` finds it later."""
    document = bill_of_materials(app, components)
    attach(registry, image, [_bill(registry, image.digest, document, signer)])


def _bill(
    registry: Registry, digest: str, document: bytes, signer: Any | None
) -> tuple[str, str, bytes]:
    if signer is None:
        return SBOM, SBOM, document
    return SBOM, ENVELOPE, sign(bill_statement(registry.url, digest, document), signer)


def _listed(registry: Registry, digest: str, key: Any | None) -> list[Component]:
    """The libraries of an image, by the bill of materials that `key` signed.

    Else by any that can be read: one made before a key was set.
    """
    if key is not None and (document := signed_bill(registry, digest, key)) is not None:
        return components_of(document)
    problem: Exception | None = None
    for media_type, data in artifacts(registry, digest, SBOM):
        try:
            components = components_of(bill_document(media_type, data))
        except (
            msgspec.MsgspecError,
            KeyError,
            AttributeError,
            TypeError,
            RegistryError,
        ) as unreadable:
            problem = problem or unreadable
            continue
        if components:
            if key is not None:
                log.warning(
                    "%s: its bill of materials is not signed by the key that is set", digest
                )
            return components
    if problem is not None:
        raise RegistryError(f"the bill of materials of {digest} cannot be read: {problem}")
    return []


def attest(
    registry: Registry,
    image: Image,
    origin: Origin,
    *,
    app_image: str = "",
    components: Iterable[Component] | None = None,
    signer: Any | None = None,
) -> list[Referrer]:
    """Put bill of materials and provenance beside an image that is in the registry.

    The components are those of `app_image` (the digest of the image without the model) when they
    are not given. With a `signer` both are signed, also where unsigned ones or others' lie there
    already. An image that has both already is left as it is.
    """
    key = signer.public_key if signer else None
    missing: list[tuple[str, str, bytes]] = []
    with ThreadPoolExecutor(2) as pool:
        asked = pool.submit(referrers, registry, image.digest)
        of_app = None
        if components is None and app_image:
            of_app = pool.submit(_listed, registry, app_image, key)
        listed = {referrer.artifact_type for referrer in asked.result()}
        app_components = of_app.result() if of_app else []
    has_bill = SBOM in listed
    if has_bill and key is not None:
        has_bill = signed_bill(registry, image.digest, key) is not None
    if not has_bill:
        document = bill_of_materials(
            origin.app, app_components if components is None else components, origin=origin
        )
        missing.append(_bill(registry, image.digest, document, signer))
    has_provenance = PROVENANCE in listed
    if has_provenance and key is not None:
        has_provenance = signed_provenance(registry, image, image.digest, key)[0] is not None
    if not has_provenance:
        statement = provenance(registry.url, image.digest, origin)
        if signer:
            missing.append((PROVENANCE, ENVELOPE, sign(statement, signer)))
        else:
            missing.append((PROVENANCE, PROVENANCE, statement))
    return attach(registry, image, missing) if missing else []
