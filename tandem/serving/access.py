"""Who may ask, and how often: API keys, OIDC tokens; by default everybody may."""

from __future__ import annotations

import collections
import hmac
import json
import threading
import time
import urllib.parse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tandem.errors import SettingError
from tandem.serving.problems import Problem
from tandem.serving.settings import hash_key

if TYPE_CHECKING:
    from ipaddress import IPv4Network, IPv6Network

    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

CHALLENGE = {"WWW-Authenticate": "Bearer"}
LEEWAY = 60.0
"""Seconds that the issuer's clock may differ from ours (RFC 7519 section 4.1.4)."""
KEYS_LIVE = 3600.0
KEYS_ASKED_AGAIN = 30.0
MAX_TOKEN = 16_384
CLIENTS = 10_000
ALGORITHMS = ["RS256", "RS384", "RS512"]
LAST_DATE = 2**40
"""Seconds since 1970, some 35,000 years from now: a later expiry means never."""


class Access:
    """Decides on requests that cost something. Raises Problem: 401 or 429.

    A client is a key, the subject of a token, or where neither is asked for an address. How often
    it came is known to this process alone: each of several workers and replicas counts what it gets
    itself, and `rate` is what this one lets through.
    """

    def __init__(
        self,
        keys: tuple[bytes, ...] = (),
        issuer: Issuer | None = None,
        rate: float | None = None,
        proxies: tuple[IPv4Network | IPv6Network, ...] = (),
    ) -> None:
        self._keys = keys
        self._issuer = issuer
        self._rate = rate
        self._proxies = proxies
        self._buckets: collections.OrderedDict[str, tuple[float, float]] = collections.OrderedDict()
        self._lock = threading.Lock()
        self.open = not keys and issuer is None
        self.free = self.open and rate is None

    def admit(self, environ: Mapping[str, Any]) -> None:
        """Let the request pass, or raise."""
        client = self.address(environ) if self.open else self.authenticate(environ)
        if self._rate is not None:
            self._count(client, self._rate)

    def address(self, environ: Mapping[str, Any]) -> str:
        """Where the request comes from: past proxies that are trusted, and past no others.

        Each proxy adds whom it got the request from to the end of X-Forwarded-For, so that the last
        address that is not a trusted proxy's is the client's; what is before it anybody can write.
        """
        address: str = environ.get("REMOTE_ADDR", "")
        if not self._proxies or not self._trusts(address):
            return address
        for hop in reversed(environ.get("HTTP_X_FORWARDED_FOR", "").split(",")):
            forwarded = _without_port(hop.strip())
            trusted = self._trusts(forwarded)
            if trusted is None:
                break
            address = forwarded
            if not trusted:
                break
        return address

    def _trusts(self, address: str) -> bool | None:
        """Whether it is a trusted proxy's; None where it is no address."""
        import ipaddress

        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return None
        if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
            parsed = parsed.ipv4_mapped  # as a socket for both versions has it
        return any(parsed in network for network in self._proxies)

    def authenticate(self, environ: Mapping[str, Any]) -> str:
        """Who asks, by key or token. Raises Problem (401)."""
        # X_API_Key is the same to WSGI, and of two spellings the one sent last counts (granian has
        # the names as they were sent in RSGI alone). It still takes a right key. But a proxy that
        # sets the key itself, or X-Forwarded-For, must drop names with underscores, as nginx does
        # by default and Envoy with headers_with_underscores_action.
        kind, _, token = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        bearer = token.strip() if kind.lower() == "bearer" else ""
        given = environ.get("HTTP_X_API_KEY", "") or bearer
        if not given:
            raise Problem(
                401,
                "A key or token is needed: send Authorization: Bearer … or X-API-Key: ….",
                CHALLENGE,
            )
        digest = hash_key(given)
        # All are compared, so that the time taken tells nothing about which one was near.
        if sum(hmac.compare_digest(digest, key) for key in self._keys):
            return digest.hex()
        if self._issuer is not None and bearer.count(".") == 2:
            return self._issuer.subject(bearer)
        raise Problem(401, "The key is unknown.", CHALLENGE)

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
                f"At most {rate:g} requests a second are answered for one client here.",
                {"Retry-After": str(seconds)},
            )


def _without_port(hop: str) -> str:
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop


class Issuer:
    """Checks tokens of one OpenID issuer (RFC 7519, RFC 7518 section 3.3), by PyJWT.

    Its keys are fetched here and not by PyJWKClient, which lets every caller wait while one asks
    the issuer, asks anew for each token while it is unreachable, and takes http from anywhere.
    """

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
        import jwt.algorithms  # noqa: F401 - now, so that no caller waits for it

        self.url = url
        self.audience = audience
        self._keys: dict[str, RSAPublicKey] = {}
        self._asked = float("-inf")
        self._unreachable = False
        self._lock = threading.Lock()

    def subject(self, token: str) -> str:
        """The token's subject. Raises Problem: 401, or 503 if the issuer is unreachable."""
        import jwt

        if len(token) > MAX_TOKEN:
            raise Problem(401, "The token is too long.", CHALLENGE)
        try:
            header = jwt.get_unverified_header(token)
            if header.get("alg") not in ALGORITHMS:  # and the issuer is asked for no key of such
                raise jwt.InvalidAlgorithmError
            claims = jwt.decode(
                token,
                self._key(header.get("kid", "")),
                ALGORITHMS,
                {"require": ["exp", "iss", "aud"], "enforce_minimum_key_length": True},
                audience=self.audience,
                issuer=self.url,
                leeway=LEEWAY,
            )
            # PyJWT takes the text "1e9" for a date, too, and any number however large.
            dates = [claims[name] for name in ("exp", "nbf", "iat") if name in claims]
            if not all(type(date) in (int, float) and date <= LAST_DATE for date in dates):
                raise jwt.DecodeError
        except jwt.InvalidSignatureError:
            detail = "The token's signature is wrong."
        except jwt.InvalidIssuerError:
            detail = "The token is of another issuer."
        except jwt.InvalidAudienceError:
            detail = "The token is for another service."
        except jwt.ExpiredSignatureError:
            detail = "The token has expired."
        except jwt.ImmatureSignatureError:
            detail = "The token is not valid yet."
        except (jwt.PyJWTError, ValueError):
            detail = "The token cannot be checked."
        else:
            return str(claims.get("sub", ""))
        raise Problem(401, detail, CHALLENGE)

    def _key(self, key_id: str) -> RSAPublicKey:
        known = key_id in self._keys
        lives = KEYS_LIVE if known else KEYS_ASKED_AGAIN
        # Whoever has a key goes on while another thread asks for newer ones.
        if time.monotonic() - self._asked > lives and self._lock.acquire(blocking=not known):
            try:
                if time.monotonic() - self._asked > lives:
                    self._ask()
            finally:
                self._lock.release()
        if key := self._keys.get(key_id):
            return key
        if self._unreachable:
            raise Problem(503, "The token's issuer is unreachable.", {"Retry-After": "30"})
        raise Problem(401, "The token is signed with an unknown key.", CHALLENGE)

    def _ask(self) -> None:
        from jwt import InvalidKeyError

        try:
            self._keys = self._fetch()
            self._unreachable = False
        except (OSError, ValueError, KeyError, TypeError, InvalidKeyError):
            self._unreachable = True
        self._asked = time.monotonic()

    def _fetch(self) -> dict[str, RSAPublicKey]:
        from jwt.algorithms import RSAAlgorithm

        configuration = _get(self.url.rstrip("/") + "/.well-known/openid-configuration")
        if configuration["issuer"] != self.url:
            raise ValueError("the configuration is of another issuer")
        keys: dict[str, RSAPublicKey] = {}
        for key in _get(configuration["jwks_uri"])["keys"]:
            if key.get("kty") == "RSA" and key.get("use", "sig") == "sig":
                # These members alone make a public key, whatever else there is.
                public: Any = RSAAlgorithm.from_jwk({name: key[name] for name in ("kty", "n", "e")})
                if public.key_size >= 2048:
                    keys[key.get("kid", "")] = public
        return keys


def _get(url: str) -> Any:
    if not url.startswith(("https://", "http://localhost", "http://127.0.0.1", "http://[::1]")):
        raise ValueError("not an https URL")
    import urllib.request

    with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - checked above
        return json.loads(answer.read(2**20))
