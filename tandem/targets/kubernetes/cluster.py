"""Where an API server is, whom it trusts, and who is asking it."""

from __future__ import annotations

import ssl
import tempfile
import time
from collections.abc import Callable

import msgspec

from tandem.errors import SettingError

TOKEN_LIFE = 300.0
"""Seconds after which a credential whose end is not known is asked for again."""
MARGIN = 60.0
"""Seconds before its end in which a credential is renewed."""


class Credential(msgspec.Struct, frozen=True, kw_only=True):
    """What a request is allowed by: a token, a client certificate, or both."""

    token: str = ""
    certificate: str = ""
    """In PEM, with its `key`."""
    key: str = ""
    until: float = 0.0
    """The second (since 1970) at which it ends; 0 where that is not known."""


class Cluster:
    """One API server as a pool of connections needs it; credentials renew themselves."""

    def __init__(
        self,
        where: str,
        server: str,
        tls: ssl.SSLContext,
        credential: Callable[[], Credential] | None = None,
        *,
        proxy: str = "",
        server_name: str = "",
    ) -> None:
        self.where = where
        self.server = server.rstrip("/")
        self.tls = tls
        self.proxy = proxy
        """The URL of an HTTP proxy that leads there; empty for none."""
        self.server_name = server_name
        """What its certificate is checked for, where that is not the host of `server`."""
        self._credential = credential
        self._held = Credential()
        self._until = 0.0

    def headers(self) -> dict[str, str]:
        """The `Authorization` header, where a token is used at all.

        A client certificate is loaded for the connections that are opened from here on.
        """
        if self._credential is None:
            return {}
        if time.time() > self._until - MARGIN:
            held = self._credential()
            if held.certificate and held.certificate != self._held.certificate:
                load_pair(self.tls, held.certificate, held.key)
            self._held = held
            self._until = held.until or time.time() + TOKEN_LIFE
        return {"Authorization": f"Bearer {self._held.token}"} if self._held.token else {}

    def forget(self) -> None:
        """Ask for a new credential next time: the server refused the one at hand."""
        self._until = 0.0


def load_pair(tls: ssl.SSLContext, certificate: str, key: str) -> None:
    """Let `tls` show this client certificate. Raises `SettingError` when it is none."""
    # OpenSSL reads them from a file only; it is ours alone and gone before anything is sent.
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
        file.write(f"{certificate}\n{key}")
        file.flush()
        try:
            tls.load_cert_chain(file.name)
        except ssl.SSLError as problem:
            raise SettingError(
                f"KUBECONFIG: the client certificate is not usable: {problem}"
            ) from None
