"""Check everything that can be known of an image from its registry alone."""

from __future__ import annotations

from typing import Any

import msgspec

from tandem.errors import RegistryError
from tandem.oci import Registry
from tandem.oci.attest.provenance import PROVENANCE, differences
from tandem.oci.attest.referrers import find
from tandem.oci.attest.sbom import SBOM, components_of
from tandem.oci.attest.signature import ENVELOPE, bill_document, opened
from tandem.oci.attest.trust import signed_bill, signed_provenance
from tandem.oci.image import Image
from tandem.oci.pull import pull


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One result of `verify`; `ok` is None where nothing could be compared."""

    name: str
    ok: bool | None
    text: str


class ImageReport(msgspec.Struct, frozen=True, kw_only=True):
    """What `verify` found out about an image."""

    reference: str
    digest: str
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong and nothing is missing."""
        return all(finding.ok is not False for finding in self.findings)

    @property
    def missing(self) -> list[str]:
        """What is wrong or missing, in words."""
        return [finding.text for finding in self.findings if finding.ok is False]


WANTED = (
    "org.opencontainers.image.revision",
    "org.opencontainers.image.version",
)
OF_MODEL = ("tandem.model.name", "tandem.model.version", "tandem.model.digest")
"""Labels of every image but one whose version says that it is code alone."""


def verify(
    registry: Registry, reference: str, *, key: Any | None = None, deep: bool = False
) -> ImageReport:
    """Check everything that can be known of an image from its registry alone.

    Layers there (with `deep`: read to the end and compared), settings, labels, bill of materials,
    provenance that names this digest, commit and model, and its signature by `key` (see
    `checking_key`). Raises `RegistryError` when there is no such image.
    """
    image = pull(registry, reference)
    stored = registry.get_manifest(reference)
    digest = stored[0].digest if stored else image.digest
    findings = [
        _layers(registry, image, deep=deep),
        _settings(image),
        _labels(image),
        _materials(registry, digest, key),
        *_provenance(registry, image, digest, key),
    ]
    return ImageReport(
        reference=registry.reference(digest), digest=digest, findings=tuple(findings)
    )


def _layers(registry: Registry, image: Image, *, deep: bool) -> Finding:
    wrong = []
    for layer in image.layers:
        blob = layer.descriptor
        if registry.head_blob(blob.digest) != blob.size:
            wrong.append(f"{layer.kind or 'layer'} {blob.digest} is missing or cut short")
        elif deep:
            try:
                for _ in registry.get_blob(blob.digest):
                    pass
            except RegistryError as problem:
                wrong.append(str(problem))
    how = "read and compared" if deep else "there"
    text = "; ".join(wrong) or f"all {len(image.layers)} layers are {how}"
    return Finding(name="layers", ok=not wrong, text=text)


def _settings(image: Image) -> Finding:
    config = image.settings.get("config") or {}
    wrong = []
    if str(config.get("User", "")).partition(":")[0] in ("", "0", "root"):
        wrong.append("it would run as root")
    if not config.get("Cmd") and not config.get("Entrypoint"):
        wrong.append("it has no command")
    text = "; ".join(wrong) or f"runs {' '.join(config.get('Cmd') or [])} as {config.get('User')}"
    return Finding(name="settings", ok=not wrong, text=text)


def _labels(image: Image) -> Finding:
    is_code = image.labels.get("org.opencontainers.image.version", "").endswith("-code")
    wanted = WANTED if is_code else (*WANTED, *OF_MODEL)
    missing = [name for name in wanted if not image.labels.get(name)]
    text = f"labels missing: {', '.join(missing)}" if missing else "all labels are there"
    return Finding(name="labels", ok=not missing, text=text)


def _materials(registry: Registry, digest: str, key: Any | None) -> Finding:
    try:
        if key is not None:
            document = signed_bill(registry, digest, key)
            if document is None:
                text = "no bill of materials signed by the key that is set is attached"
                return Finding(name="sbom", ok=False, text=text)
        else:
            artifact = find(registry, digest, SBOM)
            if artifact is None:
                return Finding(name="sbom", ok=False, text="no bill of materials is attached")
            document = bill_document(*artifact)
        count = len(components_of(document))
    except (RegistryError, msgspec.MsgspecError, KeyError, AttributeError, TypeError) as problem:
        text = f"the bill of materials cannot be read: {problem}"
        return Finding(name="sbom", ok=False, text=text)
    text = f"bill of materials: {count} packages" if count else "the bill of materials is empty"
    return Finding(name="sbom", ok=bool(count), text=text)


def _provenance(registry: Registry, image: Image, digest: str, key: Any | None) -> list[Finding]:
    signature = Finding(name="signature", ok=None, text="not asked for: no key is set")
    if key is not None:
        return _signed_findings(registry, image, digest, key)
    try:
        artifact = find(registry, digest, PROVENANCE)
        if artifact is None:
            text = "no provenance is attached"
            return [Finding(name="provenance", ok=False, text=text), signature]
        media_type, data = artifact
        if media_type == ENVELOPE:
            data, _ = opened(data, None)
            text = "the provenance is signed; no key is set to check it"
            signature = Finding(name="signature", ok=None, text=text)
        wrong = differences(msgspec.json.decode(data), image, digest)
    except _UNREADABLE as problem:
        text = f"the provenance cannot be read: {problem}"
        return [Finding(name="provenance", ok=False, text=text), signature]
    text = "; ".join(wrong) or "provenance names this digest, commit and model"
    return [Finding(name="provenance", ok=not wrong, text=text), signature]


_UNREADABLE = (
    RegistryError,
    msgspec.MsgspecError,
    KeyError,
    TypeError,
    IndexError,
    AttributeError,
)
"""Errors of reading something else as a provenance."""


def _signed_findings(registry: Registry, image: Image, digest: str, key: Any) -> list[Finding]:
    """With a key only what it signed counts."""
    statement, wrong = signed_provenance(registry, image, digest, key)
    if statement is not None or wrong:
        text = "; ".join(wrong) or "provenance names this digest, commit and model"
        signature = "the provenance is signed by the key that is set"
        return [
            Finding(name="provenance", ok=not wrong, text=text),
            Finding(name="signature", ok=True, text=signature),
        ]
    try:
        artifact = find(registry, digest, PROVENANCE)
    except RegistryError as problem:
        text = f"the provenance cannot be read: {problem}"
        return [
            Finding(name="provenance", ok=False, text=text),
            Finding(name="signature", ok=False, text="the provenance is not signed"),
        ]
    if artifact is None:
        return [
            Finding(name="provenance", ok=False, text="no provenance is attached"),
            Finding(name="signature", ok=False, text="the provenance is not signed"),
        ]
    how = " by the key that is set" if artifact[0] == ENVELOPE else ""
    return [
        Finding(name="provenance", ok=None, text="not compared: it is not signed by a trusted key"),
        Finding(name="signature", ok=False, text=f"the provenance is not signed{how}"),
    ]
