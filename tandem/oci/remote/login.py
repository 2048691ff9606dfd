"""Logins to a registry, as it challenges: basic, bearer tokens, Azure accounts."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode, urlsplit

import msgspec

from tandem.errors import RegistryError
from tandem.oci.credentials import Credentials, find_credentials

AZURE_DOMAINS = (".azurecr.io", ".azurecr.cn", ".azurecr.us")
AZURE_AUDIENCE = "https://containerregistry.azure.net/.default"
AZURE_NOBODY = "00000000-0000-0000-0000-000000000000"
"""The user name that goes with a registry refresh token as its password."""
SHORTEST_TOKEN = 60
"""Seconds that a token lives when its server does not say (the distribution specification)."""

Send = Callable[[str, str, Mapping[str, str], bytes | None], tuple[int, bytes]]
"""Sends (method, URL, headers, body) and gives back status and body."""


class _Token(msgspec.Struct):
    value: str
    good_until: float


class Login:
    """The login that goes with each request; safe to use from several threads."""

    def __init__(
        self,
        host: str,
        send: Send,
        *,
        plain: bool = False,
        credentials: Credentials | None = None,
        azure_credential: Any = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.host = host
        self._send = send
        self._plain = plain
        self._known: Credentials | None = credentials
        self._looked = credentials is not None
        self._azure_credential = azure_credential
        self._azure_refresh: _Token | None = None
        self._clock = clock
        self._lock = threading.RLock()
        self._basic: str | None = None
        self._bearer: dict[str, str] | None = None
        self._tokens: dict[str, _Token] = {}

    def header(self, scope: str) -> str | None:
        """The Authorization header for a `scope`; None before any challenge."""
        with self._lock:
            if self._basic:
                return self._basic
            if self._bearer is None:
                return None
            token = self._tokens.get(scope)
            if token is None or token.good_until <= self._clock():
                token = self._tokens[scope] = self._fetch(scope)
            return f"Bearer {token.value}"

    def challenged(self, challenge: str, scope: str, refused: str | None) -> None:
        """Take in the WWW-Authenticate header of a 401 to a request with `refused`.

        Raises `RegistryError` when there is nothing more to try.
        """
        kind, _, rest = challenge.partition(" ")
        with self._lock:
            if kind.lower() == "basic":
                credentials = self._credentials()
                if credentials is None or not credentials.username:
                    raise RegistryError(self._login_required())
                if refused == credentials.basic:
                    raise RegistryError(f"{self.host} refuses the login of {credentials.username}")
                self._basic = credentials.basic
                return
            if kind.lower() != "bearer":
                raise RegistryError(
                    f"{self.host} asks for a login by {kind or 'no method'}, which is not "
                    "supported: expected basic or bearer"
                )
            fields = dict(re.findall(r'(\w+)="([^"]*)"', rest))
            realm = urlsplit(fields.get("realm", ""))
            if realm.scheme != "https" and not (self._plain and realm.scheme == "http"):
                raise RegistryError(
                    f"{self.host} sends logins to {realm.scheme}://: expected https"
                )
            self._bearer = fields
            token = self._tokens.get(scope)
            # Another thread may have fetched a new one while this request was on its way.
            if token is not None and refused == f"Bearer {token.value}":
                del self._tokens[scope]

    def for_others(self) -> Credentials | None:
        """What another program can log in with; for Azure, valid for three hours."""
        with self._lock:
            credentials = self._credentials()
            if credentials is None and self.host.endswith(AZURE_DOMAINS):
                return Credentials(AZURE_NOBODY, self._azure_token())
            return credentials

    def _login_required(self) -> str:
        return (
            f"{self.host} requires a login: set TANDEM_REGISTRY_USERNAME and "
            f"TANDEM_REGISTRY_PASSWORD, or run `docker login {self.host}`"
        )

    def _credentials(self) -> Credentials | None:
        if not self._looked:
            self._known = find_credentials(self.host)
            self._looked = True
        return self._known

    def _fetch(self, scope: str) -> _Token:
        """A token for a scope, as the registry's token server gives it."""
        assert self._bearer is not None  # noqa: S101
        realm = self._bearer["realm"]
        fields = {"service": self._bearer.get("service", ""), "scope": scope}
        credentials = self._credentials()
        refresh = credentials.refresh_token if credentials else ""
        if credentials is None and self.host.endswith(AZURE_DOMAINS):
            refresh = self._azure_token()
        headers: dict[str, str] = {}
        if refresh:
            form = {**fields, "grant_type": "refresh_token", "refresh_token": refresh}
            form["client_id"] = "tandem"
            status, body = self._post(realm, form)
        else:
            if credentials:
                headers["Authorization"] = credentials.basic
            join = "&" if "?" in realm else "?"
            # One `scope` for each repository; a registry may want several.
            query = [("service", fields["service"]), *(("scope", part) for part in scope.split())]
            status, body = self._send("GET", realm + join + urlencode(query), headers, None)
        if status in (401, 403):
            who = (credentials.username if credentials else "") or "this account"
            raise RegistryError(
                f"{self.host} refuses the login of {who} for {scope}"
                if credentials or refresh
                else self._login_required()
            )
        answer = self._answer(status, body)
        token = answer.get("token") or answer.get("access_token")
        if not isinstance(token, str) or not token:
            raise RegistryError(f"the token server of {self.host} gave no token")
        lives = answer.get("expires_in")
        seconds = lives if isinstance(lives, int) and lives > 0 else SHORTEST_TOKEN
        # A little early, so that a request never sets out with a token about to run out.
        return _Token(token, self._clock() + seconds * 0.8)

    def _azure_token(self) -> str:
        """A registry refresh token for an Azure account, through `POST /oauth2/exchange`."""
        if self._azure_refresh and self._azure_refresh.good_until > self._clock():
            return self._azure_refresh.value
        from azure.core.exceptions import ClientAuthenticationError

        credential = self._azure_credential
        if credential is None:
            from azure.identity import DefaultAzureCredential

            credential = self._azure_credential = DefaultAzureCredential()
        try:
            account = credential.get_token(AZURE_AUDIENCE).token
        except ClientAuthenticationError as problem:
            first = str(problem.message).splitlines()[0]
            raise RegistryError(
                f"no Azure account for {self.host} ({first}): run `az login`, give this machine an "
                "identity with the role AcrPush, or set TANDEM_REGISTRY_USERNAME and _PASSWORD"
            ) from None
        form = {"grant_type": "access_token", "service": self.host, "access_token": account}
        status, body = self._post(f"https://{self.host}/oauth2/exchange", form)
        if status in (401, 403):
            raise RegistryError(
                f"{self.host} refuses this Azure account: it needs the role AcrPush "
                "(AcrPull for reading)"
            )
        token = self._answer(status, body).get("refresh_token")
        if not isinstance(token, str) or not token:
            raise RegistryError(f"{self.host} gave no token for this Azure account")
        # Azure's tokens are good for three hours; asked again after one.
        self._azure_refresh = _Token(token, self._clock() + 3600)
        return token

    def _post(self, url: str, form: Mapping[str, str]) -> tuple[int, bytes]:
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        return self._send("POST", url, headers, urlencode(form).encode())

    def _answer(self, status: int, body: bytes) -> dict[str, Any]:
        try:
            answer = msgspec.json.decode(body)
        except msgspec.MsgspecError:
            answer = None
        if status != 200 or not isinstance(answer, dict):
            raise RegistryError(f"the token server of {self.host} answers {status}")
        return answer
