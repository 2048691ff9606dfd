"""What is said about an image beside it: bill of materials, provenance, signature; and checks.

Both are OCI artifacts that refer to the image's digest (`subject`). Where a registry has no
referrers API (CNCF distribution 2.8, an image layout folder), they are listed under the tag
`sha256-DIGEST`, as the distribution specification's fallback says.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

import msgspec

from tandem.errors import RegistryError, SettingError
from tandem.oci import INDEX, MANIFEST, Descriptor, Registry
from tandem.oci.app_image.wheels import Component
from tandem.oci.image import Image, bytes_source, digest_of, pull

EMPTY = "application/vnd.oci.empty.v1+json"
SBOM = "application/vnd.cyclonedx+json"
PROVENANCE = "application/vnd.in-toto+json"
ENVELOPE = "application/vnd.dsse.envelope.v1+json"
STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
BILL = "https://cyclonedx.org/bom"
"""The predicate type of a bill of materials in a statement, so that it can be signed."""
LARGEST = 16 << 20
TRIES = 8
log = logging.getLogger("tandem")
_LISTING = threading.Lock()
"""The threads of one process take turns."""


class Referrer(msgspec.Struct, frozen=True, kw_only=True):
    """One artifact that refers to an image."""

    digest: str
    size: int
    artifact_type: str


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What an image was made from, by whom and how; what is empty is left out of the statement."""

    app: str
    commit: str
    tree: str = ""
    source: str = ""
    model: str = ""
    model_version: int = 0
    model_digest: str = ""
    lock_digest: str = ""
    base: str = ""
    """Reference of the base image."""
    base_digest: str = ""
    builder: str = "assemble"
    tests: str = ""
    """The test report in a few words."""
    tests_digest: str = ""
    run_id: str = ""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that `verify` looked at. `ok` is None where there was nothing to compare with."""

    name: str
    ok: bool | None
    text: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
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


# --- bill of materials ----------------------------------------------------------------------------


def bill_of_materials(
    app: str,
    components: Iterable[Component],
    *,
    facts: Facts | None = None,
) -> bytes:
    """A CycloneDX 1.6 document; the same components give the same bytes."""
    listed: list[dict[str, Any]] = []
    for one in sorted(components, key=lambda one: one.name.lower()):
        name = re.sub(r"[-_.]+", "-", one.name).lower()
        purl = f"pkg:pypi/{quote(name)}@{quote(one.version)}"
        entry: dict[str, Any] = {
            "type": "library",
            "bom-ref": purl,
            "name": one.name,
            "version": one.version,
            "purl": purl,
        }
        if one.license:
            entry["licenses"] = [_license(one.license)]
        if one.summary:
            entry["description"] = one.summary
        listed.append(entry)
    if facts and facts.model_digest:
        listed.append(
            {
                "type": "machine-learning-model",
                "bom-ref": f"model:{facts.model}@{facts.model_version}",
                "name": facts.model,
                "version": str(facts.model_version),
                "hashes": [
                    {"alg": "SHA-256", "content": facts.model_digest.removeprefix("sha256:")}
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
    """An SPDX expression where it is one; else the words that the package uses."""
    from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

    try:
        return {"expression": canonicalize_license_expression(words)}
    except InvalidLicenseExpression:
        return {"license": {"name": words}}


def bill_statement(name: str, digest: str, document: bytes) -> bytes:
    """An in-toto statement that a bill of materials is about an image: what is signed of it."""
    statement = {
        "_type": STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": digest.removeprefix("sha256:")}}],
        "predicateType": BILL,
        "predicate": msgspec.Raw(document),
    }
    return msgspec.json.encode(statement)


def components_of(data: bytes) -> list[Component]:
    """The libraries that a bill of materials lists."""
    found = []
    for one in msgspec.json.decode(data).get("components", []):
        if one.get("type") == "library":
            license = (one.get("licenses") or [{}])[0]
            words = license.get("expression") or (license.get("license") or {}).get("name", "")
            found.append(
                Component(
                    name=one["name"],
                    version=one["version"],
                    license=words,
                    summary=one.get("description", ""),
                )
            )
    return found


# --- provenance and signature ---------------------------------------------------------------------


def provenance(name: str, digest: str, facts: Facts) -> bytes:
    """An in-toto statement with a SLSA provenance predicate about an image."""

    def part(uri: str, **digests: str) -> dict[str, Any]:
        return {"uri": uri, "digest": {key: value for key, value in digests.items() if value}}

    materials = [part(f"git+{facts.source}" if facts.source else "git", gitCommit=facts.commit)]
    if facts.tree:
        materials[0]["digest"]["gitTree"] = facts.tree
    if facts.model_digest:
        uri = f"tandem:model/{facts.model}@{facts.model_version}"
        materials.append(part(uri, sha256=facts.model_digest.removeprefix("sha256:")))
    if facts.lock_digest:
        materials.append(part("tandem:lock", sha256=facts.lock_digest.removeprefix("sha256:")))
    if facts.base_digest:
        uri = f"docker://{facts.base}"
        materials.append(part(uri, sha256=facts.base_digest.removeprefix("sha256:")))
    tests: dict[str, Any] = {"name": "tests", "annotations": {"summary": facts.tests}}
    if facts.tests_digest:
        tests["digest"] = {"sha256": facts.tests_digest.removeprefix("sha256:")}
    statement = {
        "_type": STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": digest.removeprefix("sha256:")}}],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": "tandem:image/v1",
                "externalParameters": {
                    "app": facts.app,
                    "commit": facts.commit,
                    "model": {"name": facts.model, "version": facts.model_version},
                },
                "resolvedDependencies": materials,
            },
            "runDetails": {
                "builder": {"id": f"tandem:{facts.builder}"},
                "metadata": {"invocationId": facts.run_id},
                "byproducts": [tests] if facts.tests else [],
            },
        },
    }
    return msgspec.json.encode(statement, order="sorted")


def signing_key(env: Mapping[str, str] = os.environ) -> Any | None:
    """The signer of TANDEM_SIGNING_KEY (a PEM private key), or None when it is not set."""
    text = env.get("TANDEM_SIGNING_KEY", "")
    if not text.strip():
        return None
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]

    try:
        return CryptoSigner(load_pem_private_key(text.encode(), None))
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # What cryptography says may quote the key.
        raise SettingError(
            "TANDEM_SIGNING_KEY is not a private key: an unencrypted PEM (Ed25519, ECDSA or RSA) "
            "would be right"
        ) from None


def checking_key(env: Mapping[str, str] = os.environ) -> Any | None:
    """The public key of TANDEM_VERIFY_KEY (PEM), else that of the signing key, else None."""
    text = env.get("TANDEM_VERIFY_KEY", "")
    if not text.strip():
        signer = signing_key(env)
        return signer.public_key if signer else None
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
    from securesystemslib.signer import SSlibKey  # type: ignore[attr-defined]

    try:
        return SSlibKey.from_crypto(load_pem_public_key(text.encode()))
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise SettingError("TANDEM_VERIFY_KEY is not a public key: a PEM would be right") from None


def sign(statement: bytes, signer: Any) -> bytes:
    """A DSSE envelope around a statement."""
    from securesystemslib.dsse import Envelope

    envelope = Envelope(statement, PROVENANCE, {})
    envelope.sign(signer)
    return msgspec.json.encode(envelope.to_dict(), order="sorted")


def opened(envelope: bytes, key: Any | None) -> tuple[bytes, bool | None]:
    """The statement in a DSSE envelope, and whether `key` signed it (None without a key)."""
    from securesystemslib.dsse import Envelope
    from securesystemslib.exceptions import FormatError, VerificationError

    try:
        found = Envelope.from_dict(msgspec.json.decode(envelope))
    except (msgspec.MsgspecError, FormatError, KeyError, TypeError, ValueError):
        raise RegistryError("the signed statement is not a DSSE envelope") from None
    if key is None:
        return found.payload, None
    try:
        found.verify([key], 1)
    except VerificationError:
        return found.payload, False
    return found.payload, found.payload_type == PROVENANCE


# --- attaching ------------------------------------------------------------------------------------


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
        one = Descriptor(media_type=media_type, digest=digest_of(data), size=len(data))
        registry.put_blob(one, bytes_source(data))
        return one

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
        there, from_api = _referrers(registry, digest)
        missing = [one for one in added if one not in there]
        if not missing or from_api:
            return
        index = {
            "schemaVersion": 2,
            "mediaType": INDEX,
            "manifests": [
                {
                    "mediaType": MANIFEST,
                    "digest": one.digest,
                    "size": one.size,
                    "artifactType": one.artifact_type,
                }
                for one in (*there, *missing)
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
    ask = getattr(registry, "referrers", None)
    listed = ask(digest) if ask else None
    from_api = listed is not None
    if listed is None:
        found = registry.get_manifest(fallback_tag(digest))
        listed = found[1] if found else b'{"manifests":[]}'
    try:
        entries = msgspec.json.decode(listed)["manifests"]
        there = [
            Referrer(
                digest=entry["digest"],
                size=entry["size"],
                artifact_type=entry.get("artifactType", ""),
            )
            for entry in entries
        ]
    except (msgspec.MsgspecError, KeyError, TypeError):
        raise RegistryError(f"{registry.url}: the referrers of {digest} are not a list") from None
    return there, from_api


def read_artifact(registry: Registry, referrer: Referrer, subject: str) -> tuple[str, bytes]:
    """Media type and content of an artifact, which must name `subject` as its subject."""
    found = registry.get_manifest(referrer.digest)
    if found is None:
        raise RegistryError(f"{registry.url} lists {referrer.digest} and does not have it")
    try:
        manifest = msgspec.json.decode(found[1])
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
    for one in referrers(registry, digest):
        if one.artifact_type != artifact_type:
            continue
        try:
            found = read_artifact(registry, one, digest)
        except RegistryError as told:
            problem = problem or told
            continue
        readable = True
        yield found
    if problem and not readable:
        raise problem


def find(registry: Registry, digest: str, artifact_type: str) -> tuple[str, bytes] | None:
    """The first artifact of a type about an image that can be read."""
    return next(artifacts(registry, digest, artifact_type), None)


def signed(registry: Registry, digest: str, artifact_type: str, key: Any) -> Iterator[bytes]:
    """The statements of a type beside an image that `key` signed, whatever they say.

    What others put there, unsigned, damaged or signed by somebody else, is not among them.
    """
    for one in referrers(registry, digest):
        if one.artifact_type != artifact_type:
            continue
        try:
            media_type, data = read_artifact(registry, one, digest)
            statement, good = opened(data, key) if media_type == ENVELOPE else (b"", False)
        except RegistryError:
            continue  # not an artifact that can be read: nobody's statement
        if good:
            yield statement


def signed_provenance(
    registry: Registry, image: Image, digest: str, key: Any
) -> tuple[bytes | None, list[str]]:
    """The first provenance signed by `key` that is right about the image; else what is wrong.

    One of another image, signed by the same key and put here, is not in the way of the right one.
    """
    problems: list[str] = []
    for statement in signed(registry, digest, PROVENANCE, key):
        try:
            wrong = _differences(msgspec.json.decode(statement), image, digest)
        except (msgspec.MsgspecError, KeyError, TypeError, IndexError, AttributeError) as problem:
            wrong = [f"the signed provenance cannot be read: {problem}"]
        if not wrong:
            return statement, []
        problems = problems or wrong
    return None, problems


def signed_bill(registry: Registry, digest: str, key: Any) -> bytes | None:
    """The first bill of materials that `key` signed for just this image."""
    sha256 = digest.removeprefix("sha256:")
    for data in signed(registry, digest, SBOM, key):
        try:
            statement = msgspec.json.decode(data, type=_BillStatement)
        except msgspec.MsgspecError:
            continue
        about = [one.digest.get("sha256") for one in statement.subject]
        if statement.predicate_type == BILL and sha256 in about:
            return bytes(statement.predicate)
    return None


class _Subject(msgspec.Struct, frozen=True):
    digest: dict[str, str]


class _BillStatement(msgspec.Struct, frozen=True, rename="camel"):
    subject: list[_Subject]
    predicate_type: str
    predicate: msgspec.Raw


def require_signed(registry: Registry, digest: str, key: Any) -> None:
    """Raise `RegistryError` unless `key` signed a provenance and a bill of materials of this image.

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
    """The libraries of an image, by the bill of materials that `key` signed, else by any that can
    be read (one made before a key was set).
    """
    if key is not None and (document := signed_bill(registry, digest, key)) is not None:
        return components_of(document)
    problem: Exception | None = None
    for media_type, data in artifacts(registry, digest, SBOM):
        try:
            found = components_of(_document(media_type, data))
        except (msgspec.MsgspecError, KeyError, AttributeError, TypeError, RegistryError) as told:
            problem = problem or told
            continue
        if found:
            if key is not None:
                log.warning(
                    "%s: its bill of materials is not signed by the key that is set", digest
                )
            return found
    if problem is not None:
        raise RegistryError(f"the bill of materials of {digest} cannot be read: {problem}")
    return []


def _document(media_type: str, data: bytes) -> bytes:
    """The bill of materials of an artifact, out of its envelope where it is in one."""
    if media_type != ENVELOPE:
        return data
    return bytes(msgspec.json.decode(opened(data, None)[0], type=_BillStatement).predicate)


def attest(
    registry: Registry,
    image: Image,
    facts: Facts,
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
    made: list[tuple[str, str, bytes]] = []
    with ThreadPoolExecutor(2) as pool:
        asked = pool.submit(referrers, registry, image.digest)
        of_app = None
        if components is None and app_image:
            of_app = pool.submit(_listed, registry, app_image, key)
        there = {one.artifact_type for one in asked.result()}
        found = of_app.result() if of_app else []
    listed = SBOM in there
    if listed and key is not None:
        listed = signed_bill(registry, image.digest, key) is not None
    if not listed:
        document = bill_of_materials(
            facts.app, found if components is None else components, facts=facts
        )
        made.append(_bill(registry, image.digest, document, signer))
    stated = PROVENANCE in there
    if stated and key is not None:
        stated = signed_provenance(registry, image, image.digest, key)[0] is not None
    if not stated:
        statement = provenance(registry.url, image.digest, facts)
        if signer:
            made.append((PROVENANCE, ENVELOPE, sign(statement, signer)))
        else:
            made.append((PROVENANCE, PROVENANCE, statement))
    return attach(registry, image, made) if made else []


# --- verifying ------------------------------------------------------------------------------------

WANTED = (
    "org.opencontainers.image.revision",
    "org.opencontainers.image.version",
    "tandem.model.name",
    "tandem.model.version",
    "tandem.model.digest",
)


def verify(
    registry: Registry, reference: str, *, key: Any | None = None, deep: bool = False
) -> Report:
    """Check everything that can be known of an image from its registry alone.

    Layers there (with `deep`: read to the end and compared), settings, labels, bill of materials,
    provenance that names this digest, commit and model, and its signature by `key` (see
    `checking_key`). Raises `RegistryError` when there is no such image.
    """
    image = pull(registry, reference)
    found = registry.get_manifest(reference)
    digest = found[0].digest if found else image.digest
    findings = [
        _layers(registry, image, deep=deep),
        _settings(image),
        _labels(image),
        _materials(registry, digest, key),
        *_provenance(registry, image, digest, key),
    ]
    return Report(reference=registry.reference(digest), digest=digest, findings=tuple(findings))


def _layers(registry: Registry, image: Image, *, deep: bool) -> Finding:
    wrong = []
    for layer in image.layers:
        one = layer.descriptor
        if registry.head_blob(one.digest) != one.size:
            wrong.append(f"{layer.kind or 'layer'} {one.digest} is missing or cut short")
        elif deep:
            try:
                for _ in registry.get_blob(one.digest):
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
    missing = [name for name in WANTED if not image.labels.get(name)]
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
            found = find(registry, digest, SBOM)
            if found is None:
                return Finding(name="sbom", ok=False, text="no bill of materials is attached")
            document = _document(*found)
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
        found = find(registry, digest, PROVENANCE)
        if found is None:
            text = "no provenance is attached"
            return [Finding(name="provenance", ok=False, text=text), signature]
        media_type, data = found
        if media_type == ENVELOPE:
            data, _ = opened(data, None)
            text = "the provenance is signed; no key is set to check it"
            signature = Finding(name="signature", ok=None, text=text)
        wrong = _differences(msgspec.json.decode(data), image, digest)
    except _UNREADABLE as problem:
        text = f"the provenance cannot be read: {problem}"
        return [Finding(name="provenance", ok=False, text=text), signature]
    text = "; ".join(wrong) or "provenance names this digest, commit and model"
    return [Finding(name="provenance", ok=not wrong, text=text), signature]


_UNREADABLE = (
    RegistryError, msgspec.MsgspecError, KeyError, TypeError, IndexError, AttributeError
)  # fmt: skip
"""What a provenance that is none raises when it is looked at."""


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
        found = find(registry, digest, PROVENANCE)
    except RegistryError as problem:
        text = f"the provenance cannot be read: {problem}"
        return [
            Finding(name="provenance", ok=False, text=text),
            Finding(name="signature", ok=False, text="the provenance is not signed"),
        ]
    if found is None:
        return [
            Finding(name="provenance", ok=False, text="no provenance is attached"),
            Finding(name="signature", ok=False, text="the provenance is not signed"),
        ]
    how = " by the key that is set" if found[0] == ENVELOPE else ""
    return [
        Finding(name="provenance", ok=None, text="not compared: nobody we trust says it"),
        Finding(name="signature", ok=False, text=f"the provenance is not signed{how}"),
    ]


def _differences(statement: Any, image: Image, digest: str) -> list[str]:
    """Where a statement says other than the image does."""
    wrong = []
    about = [one["digest"].get("sha256") for one in statement["subject"]]
    if digest.removeprefix("sha256:") not in about:
        wrong.append("the provenance is about another digest")
    materials = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    commits = [one["digest"].get("gitCommit") for one in materials]
    if image.labels.get("org.opencontainers.image.revision") not in commits:
        wrong.append("the provenance names another commit than the image's label")
    model = image.labels.get("tandem.model.digest", "").removeprefix("sha256:")
    models = [one["digest"].get("sha256") for one in materials if "model" in one["uri"]]
    if model and model not in models:
        wrong.append("the provenance names another model than the image's label")
    return wrong
