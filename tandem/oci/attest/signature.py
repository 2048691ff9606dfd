"""Signatures of statements: keys from the environment, and DSSE envelopes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import msgspec

from tandem.errors import RegistryError, SettingError
from tandem.oci.attest.provenance import PROVENANCE
from tandem.oci.attest.sbom import BillStatement

ENVELOPE = "application/vnd.dsse.envelope.v1+json"


def signing_key(env: Mapping[str, str] = os.environ) -> Any | None:
    """The signer of TANDEM_SIGNING_KEY (a PEM private key), or None if unset."""
    text = env.get("TANDEM_SIGNING_KEY", "")
    if not text.strip():
        return None
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]

    try:
        return CryptoSigner(load_pem_private_key(text.encode(), None))
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # The message of cryptography may quote the key.
        raise SettingError(
            "invalid TANDEM_SIGNING_KEY: expected an unencrypted PEM private key (Ed25519, ECDSA "
            "or RSA)"
        ) from None


def checking_key(env: Mapping[str, str] = os.environ) -> Any | None:
    """The public key of TANDEM_VERIFY_KEY (PEM), else of the signing key, or None."""
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
        raise SettingError("invalid TANDEM_VERIFY_KEY: expected a PEM public key") from None


def sign(statement: bytes, signer: Any) -> bytes:
    """A DSSE envelope around a statement."""
    from securesystemslib.dsse import Envelope

    envelope = Envelope(statement, PROVENANCE, {})
    envelope.sign(signer)
    return msgspec.json.encode(envelope.to_dict(), order="sorted")


def opened(envelope: bytes, key: Any | None) -> tuple[bytes, bool | None]:
    """The statement in a DSSE envelope, and whether `key` signed it.

    The second is None without a key.
    """
    from securesystemslib.dsse import Envelope
    from securesystemslib.exceptions import FormatError, VerificationError

    try:
        dsse = Envelope.from_dict(msgspec.json.decode(envelope))
    except (msgspec.MsgspecError, FormatError, KeyError, TypeError, ValueError):
        raise RegistryError("the signed statement is not a DSSE envelope") from None
    if key is None:
        return dsse.payload, None
    try:
        dsse.verify([key], 1)
    except VerificationError:
        return dsse.payload, False
    return dsse.payload, dsse.payload_type == PROVENANCE


def bill_document(media_type: str, data: bytes) -> bytes:
    """The bill of materials of an artifact, out of its envelope where it is in one."""
    if media_type != ENVELOPE:
        return data
    return bytes(msgspec.json.decode(opened(data, None)[0], type=BillStatement).predicate)
