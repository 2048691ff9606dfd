"""Make the statements about an image, and attach those that are missing."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tandem.oci import Registry
from tandem.oci.attest.materials import bill_artifact, components_in
from tandem.oci.attest.provenance import PROVENANCE, Origin, provenance
from tandem.oci.attest.referrers import Artifact, Referrer, attach, referrers
from tandem.oci.attest.sbom import SBOM, bill_of_materials
from tandem.oci.attest.signature import ENVELOPE, sign
from tandem.oci.attest.trust import signed_bill, signed_provenance
from tandem.oci.components import Component
from tandem.oci.image import Image


def bill_of(
    registry: Registry,
    image: Image,
    origin: Origin,
    components: Iterable[Component],
    signer: Any | None,
) -> Artifact:
    """The bill of materials of an image."""
    document = bill_of_materials(origin.app, components, origin=origin)
    return bill_artifact(registry, image.digest, document, signer)


def provenance_of(registry: Registry, image: Image, origin: Origin, signer: Any | None) -> Artifact:
    """The provenance of an image."""
    statement = provenance(registry.url, image.digest, origin)
    if signer is None:
        return PROVENANCE, PROVENANCE, statement
    return PROVENANCE, ENVELOPE, sign(statement, signer)


def attest(
    registry: Registry,
    image: Image,
    origin: Origin,
    *,
    app_image: str = "",
    components: Iterable[Component] | None = None,
    signer: Any | None = None,
    cache: Path | None = None,
) -> list[Referrer]:
    """Put bill of materials and provenance beside an image that is in the registry.

    The components are those of `app_image` (the digest of the image without the model) when they
    are not given; `cache`: see `components_in`. With a `signer` both are signed, also where
    unsigned ones or others' lie there already. An image that has both already is left as it is.
    """
    key = signer.public_key if signer else None
    missing: list[Artifact] = []
    with ThreadPoolExecutor(2) as pool:
        listing = pool.submit(referrers, registry, image.digest)
        reading = None
        if components is None and app_image:
            reading = pool.submit(components_in, registry, app_image, key=key, cache=cache)
        listed = {referrer.artifact_type for referrer in listing.result()}
        if reading is not None:
            components = reading.result()
    has_bill = SBOM in listed
    if has_bill and key is not None:
        has_bill = signed_bill(registry, image.digest, key) is not None
    if not has_bill:
        missing.append(bill_of(registry, image, origin, components or (), signer))
    has_provenance = PROVENANCE in listed
    if has_provenance and key is not None:
        has_provenance = signed_provenance(registry, image, image.digest, key)[0] is not None
    if not has_provenance:
        missing.append(provenance_of(registry, image, origin, signer))
    return attach(registry, image, missing) if missing else []
