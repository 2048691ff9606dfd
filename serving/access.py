"""Who may ask, and how often: API keys, tokens of an OIDC issuer; by default everybody may."""

from __future__ import annotations

import base64
import collections
import hashlib
import hmac
import json
import threading
import time
import urllib.parse
from collections.abc import Mapping
from typing import Any

from serving.problems import Problem
from tandem.errors import SettingError

CHALLENGE = {"WWW-Authenticate": "Bearer"}
LEEWAY = 60.0
"""Seconds that the issuer's clock may differ from ours, as RFC 7519 section 4.1.4 allows."""
KEYS_LIVE = 3600.0
KEYS_ASKED_AGAIN = 30.0
MAX_TOKEN = 16_384
CLIENTS = 10_000

# DER of the DigestInfo for each hash, before the digest itself (RFC 8017 section 9.2, note 1).
_DIGEST_INFO = {
    "RS256": ("sha256", bytes.fromhex("3031300d060960864801650304020105000420")),
    "RS384": ("sha384", bytes.fromhex("3041300d060960864801650304020205000430")),
    "RS512": ("sha512", bytes.fromhex("3051300d060960864801650304020305000440")),
}


class Access:
    """Decides on requests that cost something. Raises Problem: 401 or 429."""

    def __init__(
        self,
        keys: tuple[bytes, ...] = (),
        issuer: Issuer | None = None,
        rate: float | None = None,
    ) -> None:
        self._keys = keys
        self._issuer = issuer
        self._rate = rate
        self._buckets: collections.OrderedDict[str, tuple[float, float]] = collections.OrderedDict()
        self._lock = threading.Lock()
        self.open = not keys and issuer is None
        self.free = self.open and rate is None

    def admit(self, environ: Mapping[str, Any]) -> None:
        """Let the request pass, or raise."""
        client = environ.get("REMOTE_ADDR", "")
        if not self.open:
            client = self._authenticate(environ)
        if self._rate is not None:
            self._count(client, self._rate)

    def _authenticate(self, environ: Mapping[str, Any]) -> str:
        kind, _, token = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        bearer = token.strip() if kind.lower() == "bearer" else ""
        given = environ.get("HTTP_X_API_KEY", "") or bearer
        if not given:
            raise Problem(
                401, "This needs a key or a token: send Authorization: Bearer.", CHALLENGE
            )
        digest = hash_key(given)
        # All are compared, so that the time taken tells nothing about which one was near.
        if sum(hmac.compare_digest(digest, key) for key in self._keys):
            return digest.hex()
        if self._issuer is not None and bearer.count(".") == 2:
            return self._issuer.subject(bearer)
        raise Problem(401, "The key is not known here.", CHALLENGE)

    def _count(self, client: str, rate: float) -> None:
        now = time.monotonic()
        room = max(1.0, rate)  # a second's worth may come at once
        with self._lock:
            left, at = self._buckets.pop(client, (room, now))
            left = min(room, left + (now - at) * rate)
            self._buckets[client] = (left - 1 if left >= 1 else left, now)
            if len(self._buckets) > CLIENTS:
                self._buckets.popitem(last=False)
        if left < 1:
            seconds = max(1, round((1 - left) / rate + 0.5))
            raise Problem(
                429,
                f"At most {rate:g} requests a second are answered for one client.",
                {"Retry-After": str(seconds)},
            )


def hash_key(key: str) -> bytes:
    """What is kept of a key: its sha256."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


class Issuer:
    """Checks tokens (RFC 7519, signed as RFC 7518 section 3.3) of one OpenID issuer."""

    def __init__(self, url: str, audience: str) -> None:
        parts = urllib.parse.urlsplit(url)
        local = parts.hostname in ("localhost", "127.0.0.1", "::1")
        if not parts.hostname or not (
            parts.scheme == "https" or (parts.scheme == "http" and local)
        ):
            raise SettingError(f"TANDEM_OIDC_ISSUER={url!r}: expected the https URL of an issuer")
        if not audience:
            raise SettingError(
                "TANDEM_OIDC_AUDIENCE is not set: expected the audience of this service's tokens"
            )
        self.url = url
        self.audience = audience
        self._keys: dict[str, tuple[int, int]] = {}
        self._asked = float("-inf")
        self._away = False
        self._lock = threading.Lock()

    def subject(self, token: str) -> str:
        """Whom the token names. Raises Problem: 401, or 503 when the issuer cannot be asked."""
        if len(token) > MAX_TOKEN:
            raise Problem(401, "The token is too long.", CHALLENGE)
        head, claims, signature = token.split(".")
        try:
            header, told = json.loads(_unbase64(head)), json.loads(_unbase64(claims))
            signed = int.from_bytes(_unbase64(signature))
            algorithm, key_id = header["alg"], header.get("kid", "")
            name, prefix = _DIGEST_INFO[algorithm]  # and never "none"
            expires, begins = float(told["exp"]), float(told.get("nbf", 0))
            critical = "crit" in header  # an extension that must be understood (RFC 7515, 4.1.11)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
            raise Problem(401, "The token is not one that can be checked.", CHALLENGE) from None
        if critical:
            raise Problem(401, "The token asks for an extension that is unknown here.", CHALLENGE)
        modulus, exponent = self._key(str(key_id))
        length = (modulus.bit_length() + 7) // 8
        digest = prefix + hashlib.new(name, f"{head}.{claims}".encode()).digest()
        # The whole padded block is compared (RFC 8017 section 8.2.2), so nothing in it is parsed.
        wanted = b"\x00\x01" + b"\xff" * (length - len(digest) - 3) + b"\x00" + digest
        found = pow(signed, exponent, modulus).to_bytes(length)
        if signed >= modulus or not hmac.compare_digest(found, wanted):
            raise Problem(401, "The token's signature is wrong.", CHALLENGE)
        audience = told.get("aud")
        if told.get("iss") != self.url:
            raise Problem(401, "The token is of another issuer.", CHALLENGE)
        if self.audience not in (audience if isinstance(audience, list) else [audience]):
            raise Problem(401, "The token is for another service.", CHALLENGE)
        if not begins - LEEWAY <= time.time() <= expires + LEEWAY:
            raise Problem(401, "The token has expired.", CHALLENGE)
        return str(told.get("sub", ""))

    def _key(self, key_id: str) -> tuple[int, int]:
        known = key_id in self._keys
        lives = KEYS_LIVE if known else KEYS_ASKED_AGAIN
        # Whoever has a key goes on while another thread asks for newer ones.
        if time.monotonic() - self._asked > lives and self._lock.acquire(blocking=not known):
            try:
                if time.monotonic() - self._asked > lives:
                    self._ask()
            finally:
                self._lock.release()
        if found := self._keys.get(key_id):
            return found
        if self._away:
            raise Problem(503, "The token's issuer cannot be asked.", {"Retry-After": "30"})
        raise Problem(401, "The token is signed with an unknown key.", CHALLENGE)

    def _ask(self) -> None:
        try:
            self._keys = self._fetch()
            self._away = False
        except (OSError, ValueError, KeyError, TypeError):
            self._away = True
        self._asked = time.monotonic()

    def _fetch(self) -> dict[str, tuple[int, int]]:
        found = _get(self.url.rstrip("/") + "/.well-known/openid-configuration")
        if found["issuer"] != self.url:
            raise ValueError("the configuration is of another issuer")
        keys = {}
        for key in _get(found["jwks_uri"])["keys"]:
            if key.get("kty") == "RSA" and key.get("use", "sig") == "sig":
                modulus = int.from_bytes(_unbase64(key["n"]))
                if modulus.bit_length() >= 2048:
                    keys[key.get("kid", "")] = (modulus, int.from_bytes(_unbase64(key["e"])))
        return keys


def _get(url: str) -> Any:
    if not url.startswith(("https://", "http://localhost", "http://127.0.0.1", "http://[::1]")):
        raise ValueError("not an https URL")
    import urllib.request

    with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - checked above
        return json.loads(answer.read(2**20))


def _unbase64(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
