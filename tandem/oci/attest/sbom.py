"""Bills of materials in CycloneDX: written, read, and stated for signing."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

import msgspec

from tandem.oci.attest.provenance import STATEMENT, Origin
from tandem.oci.blobs import digest_of
from tandem.oci.components import Component

SBOM = "application/vnd.cyclonedx+json"
BILL = "https://cyclonedx.org/bom"
"""The predicate type of a bill of materials in a statement, so that it can be signed."""


class _Subject(msgspec.Struct, frozen=True):
    digest: dict[str, str]


class BillStatement(msgspec.Struct, frozen=True, rename="camel"):
    """An in-toto statement that a bill of materials is about an image."""

    subject: list[_Subject]
    predicate_type: str
    predicate: msgspec.Raw

    def is_about(self, digest: str) -> bool:
        """Whether the image of this digest is a subject of it."""
        sha256 = digest.removeprefix("sha256:")
        return self.predicate_type == BILL and any(
            subject.digest.get("sha256") == sha256 for subject in self.subject
        )


def bill_of_materials(
    app: str,
    components: Iterable[Component],
    *,
    origin: Origin | None = None,
) -> bytes:
    """A CycloneDX 1.6 document; the same components give the same bytes."""
    listed: list[dict[str, Any]] = []
    for component in sorted(components, key=lambda component: component.name.lower()):
        name = re.sub(r"[-_.]+", "-", component.name).lower()
        purl = f"pkg:pypi/{quote(name)}@{quote(component.version)}"
        entry: dict[str, Any] = {
            "type": "library",
            "bom-ref": purl,
            "name": component.name,
            "version": component.version,
            "purl": purl,
        }
        if component.license:
            entry["licenses"] = [_license(component.license)]
        if component.summary:
            entry["description"] = component.summary
        listed.append(entry)
    if origin and origin.model_digest:
        listed.append(
            {
                "type": "machine-learning-model",
                "bom-ref": f"model:{origin.model}@{origin.model_version}",
                "name": origin.model,
                "version": str(origin.model_version),
                "hashes": [
                    {"alg": "SHA-256", "content": origin.model_digest.removeprefix("sha256:")}
                ],
            }
        )
    document: dict[str, Any] = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {"type": "container", "bom-ref": app, "name": app},
            "tools": {"components": [{"type": "application", "name": "tandem"}]},
        },
        "components": listed,
    }
    name = digest_of(msgspec.json.encode(document))
    document["serialNumber"] = f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, name)}"
    return msgspec.json.encode(document, order="sorted")


def _license(words: str) -> dict[str, Any]:
    """An SPDX expression where it is one; else the package's own words."""
    from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

    try:
        return {"expression": canonicalize_license_expression(words)}
    except InvalidLicenseExpression:
        return {"license": {"name": words}}


def bill_statement(name: str, digest: str, document: bytes) -> bytes:
    """An in-toto statement that a bill of materials is about an image, to be signed."""
    statement = {
        "_type": STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": digest.removeprefix("sha256:")}}],
        "predicateType": BILL,
        "predicate": msgspec.Raw(document),
    }
    return msgspec.json.encode(statement)


def components_of(document: bytes) -> list[Component]:
    """The libraries that a bill of materials lists."""
    components = []
    for entry in msgspec.json.decode(document).get("components", []):
        if entry.get("type") == "library":
            license = (entry.get("licenses") or [{}])[0]
            words = license.get("expression") or (license.get("license") or {}).get("name", "")
            components.append(
                Component(
                    name=entry["name"],
                    version=entry["version"],
                    license=words,
                    summary=entry.get("description", ""),
                )
            )
    return components
