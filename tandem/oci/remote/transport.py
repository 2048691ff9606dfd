"""One HTTP request to a registry: connections, logins, redirects, errors."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Collection, Iterable, Mapping
from typing import Any
from urllib.parse import urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

import msgspec
import urllib3
from urllib3.exceptions import (
    HTTPError,
    NameResolutionError,
    NewConnectionError,
    ProtocolError,
    SSLError,
    TimeoutError,
)
from urllib3.response import BaseHTTPResponse

from tandem.errors import RegistryError
from tandem.oci.blobs import CHUNK
from tandem.oci.remote.login import Login
from tandem.oci.remote.reference import Address
from tandem.oci.remote.retry import Retry, Unavailable
from tandem.storage.transfer import retry_after

RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
LARGEST_BODY = 32 << 20
Body = bytes | Iterable[bytes] | None


class Response(msgspec.Struct):
    """What came back. `data` is the whole body, unless it is streamed from `raw`."""

    status: int
    headers: Mapping[str, str]
    data: bytes
    raw: BaseHTTPResponse


class Connection:
    """A pool of connections to one host; safe for several threads."""

    def __init__(self, root: str) -> None:
        self._pool = _pool(root)
        self._counter = threading.Lock()
        self.requests = 0

    def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: Body,
        *,
        stream: bool = False,
    ) -> Response:
        """One request as it is. Raises `Unavailable` when no answer comes back."""
        with self._counter:
            self.requests += 1
        try:
            raw = self._pool.request(
                method,
                url,
                headers={"User-Agent": "tandem", "Accept-Encoding": "identity", **headers},
                body=body,
                redirect=False,
                retries=False,
                preload_content=False,
            )
            data = b"" if stream else _whole_body(raw)
            return Response(raw.status, raw.headers, data, raw)
        except (HTTPError, OSError) as problem:
            raise unreachable(problem) from None


class Transport:
    """Requests to one repository, with a login where asked; nothing is repeated."""

    def __init__(self, address: Address, connection: Connection, login: Login) -> None:
        self.address = address
        self._connection = connection
        self._login = login

    def request(
        self,
        method: str,
        url: str,
        *,
        accept: Collection[int],
        headers: Mapping[str, str] | None = None,
        body: Body = None,
        scope: str | None = None,
        stream: bool = False,
    ) -> Response:
        """One answer whose status is in `accept`, after login and redirects.

        Raises `Unavailable` when a later try may succeed, `RegistryError` for a refusal.
        """
        address = self.address
        scope = scope or address.scope(method)
        for _ in range(3):
            at_registry = _origin(url) == _origin(address.root)
            # The login is for the registry alone, not for the storage that it sends readers to.
            token = self._login.header(scope) if at_registry else None
            sent = {**(headers or {}), **({"Authorization": token} if token else {})}
            response = self._connection.send(method, url, sent, body, stream=stream)
            if response.status == 401 and at_registry:
                challenge = response.headers.get("WWW-Authenticate", "")
                if challenge or 401 not in accept:
                    self._login.challenged(challenge, scope, token)
                    if stream:
                        response.raw.close()
                    if body is not None and not isinstance(body, bytes):
                        raise Unavailable("the login ran out")
                    continue
            if response.status in (301, 302, 303, 307, 308) and method in ("GET", "HEAD"):
                response.raw.close()
                url = urljoin(url, response.headers.get("Location", ""))
                if not address.plain and not url.startswith("https:"):
                    raise RegistryError(f"{address.host} redirects to an address without https")
                continue
            if stream and response.status not in accept:
                response.data = _whole_body(response.raw)
            if response.status in RETRIED and response.status not in accept:
                after = retry_after(response.headers.get("Retry-After"))
                raise Unavailable(f"it answers {refusal(response)}", after)
            if response.status not in accept:
                raise RegistryError(f"{address.url}: {method} {_path(url)}: {refusal(response)}")
            return response
        raise RegistryError(
            f"{address.host} refuses the login that it asked for, or redirects for ever"
        )


class LoginRequests:
    """How a login sends its own requests: as they are, repeated while that can help."""

    def __init__(self, connection: Connection, retry: Retry) -> None:
        self._connection = connection
        self._retry = retry

    def send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None
    ) -> tuple[int, bytes]:
        """Status and body of the token server's answer."""

        def attempt() -> tuple[int, bytes]:
            response = self._connection.send(method, url, headers, body)
            if response.status in RETRIED:
                after = retry_after(response.headers.get("Retry-After"))
                raise Unavailable(f"its token server answers {response.status}", after)
            return response.status, response.data

        return self._retry.call(attempt, "login")


def refusal(response: Response) -> str:
    """Status and the registry's own words, on one line."""
    words = ""
    try:
        first = msgspec.json.decode(response.data)["errors"][0]
        words = f" {first.get('code', '')}: {first.get('message', '')}"
    except (msgspec.MsgspecError, KeyError, IndexError, TypeError, AttributeError):
        pass
    return " ".join(f"{response.status}{words}".split())[:300]


def unreachable(problem: Exception) -> Unavailable:
    """Why no answer came back, and whether that can change by itself."""
    permanent = isinstance(problem, SSLError)
    if isinstance(problem, NameResolutionError):
        reason = "its name cannot be resolved"
        permanent = f"[Errno {socket.EAI_AGAIN}]" not in str(problem)
    elif isinstance(problem, NewConnectionError):
        reason = "it cannot be reached"
    elif isinstance(problem, SSLError):
        words = " ".join(str(problem).split())
        hint = "; for plain http set TANDEM_REGISTRY_INSECURE=1" if "WRONG_VERSION" in words else ""
        reason = f"its TLS is not accepted ({words[:200]}){hint}"
    elif isinstance(problem, TimeoutError):
        reason = "it did not answer in time"
    elif isinstance(problem, ProtocolError):
        reason = "the connection broke"
    else:
        reason = " ".join(str(problem).split())[:200] or type(problem).__name__
    return Unavailable(reason, permanent=permanent)


def _whole_body(raw: BaseHTTPResponse) -> bytes:
    data = b""
    while block := raw.read(CHUNK, decode_content=False):
        data += block
        if len(data) > LARGEST_BODY:
            raw.close()
            raise RegistryError(f"an answer of more than {LARGEST_BODY >> 20} MB: refused")
    return data


def _path(url: str) -> str:
    """The path of a URL, without the query, which may hold a signature."""
    return urlsplit(url).path


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


def _pool(root: str) -> urllib3.PoolManager:
    parts = urlsplit(root)
    settings: dict[str, Any] = {
        "maxsize": 16,
        "timeout": urllib3.Timeout(connect=10, read=60),
        "blocksize": 256 << 10,
    }
    if parts.scheme == "https":
        settings["ssl_context"] = ssl.create_default_context()
    proxy = getproxies().get(parts.scheme)
    if proxy and not proxy_bypass(parts.netloc):
        return urllib3.ProxyManager(proxy, **settings)
    return urllib3.PoolManager(**settings)
