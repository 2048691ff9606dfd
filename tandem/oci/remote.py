"""A repository of any registry that speaks the OCI distribution protocol.

Written on urllib3, because the clients there are did not pass the faults in tests/faulty_proxy.py.
python-dxf 12.1.1 gives up at the first 503 and sends no password by http, not even on loopback.
oras 0.2.43 gives up at a 503 too, does not renew a token that ran out, sends each blob twice where
a login is wanted, and held all 300 MB of a 300 MB blob in memory. Neither goes on with an upload
that broke. What is used: urllib3 for connections, docker-py for Docker's logins, azure-identity for
Azure's.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import logging
import os
import random
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, BinaryIO, TypeVar
from urllib.parse import urlencode, urljoin, urlsplit
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

from tandem.errors import RegistryError, SettingError
from tandem.oci import INDEX, MANIFEST, Descriptor, Progress, Transfer
from tandem.oci.image import ACCEPTED, digest_of
from tandem.oci.layer import CHUNK
from tandem.oci.layout import DIGEST, TAG
from tandem.oci.login import Credentials, Login
from tandem.storage.transfer import retry_after

REPOSITORY = re.compile(
    r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*"
)
HOST = re.compile(
    r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:\d{1,5})?|\[[0-9a-fA-F:]+\](:\d{1,5})?"
)

WHOLE = 64 << 20
"""Bytes up to which a blob goes up in one request; a larger one in pieces that can be resumed."""
PIECE = 32 << 20
PATIENCE = 45.0
"""Seconds without any progress after which a failing registry is given up."""
LONGEST_WAIT = 5.0
LONGEST_ASKED = 60.0
"""Seconds of a Retry-After that are honoured; more is an error that says so."""
RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})

LARGEST_ANSWER = 32 << 20

Open = Callable[[], AbstractContextManager[BinaryIO]]
T = TypeVar("T")
log = logging.getLogger("tandem.oci")


class _Answer(msgspec.Struct):
    """What came back. `data` is the whole body, unless the answer is streamed from `raw`."""

    status: int
    headers: Mapping[str, str]
    data: bytes
    raw: BaseHTTPResponse


class Session(msgspec.Struct, frozen=True):
    """An upload that was opened: where it goes on, and the least bytes of a piece."""

    location: str
    least: int = 0


class _Tags(msgspec.Struct):
    """A page of `GET /v2/NAME/tags/list`."""

    tags: list[str] | None = None


class _Again(Exception):
    """The registry cannot now: wait and try again. `after` is what it asked for, in seconds."""

    def __init__(self, why: str, after: float | None = None, *, hopeless: bool = False) -> None:
        super().__init__(why)
        self.after = after
        self.hopeless = hopeless
        self.moved = False


class _Lost(Exception):
    """The upload session is gone: start the upload anew."""


class RemoteRegistry:
    """`HOST/REPOSITORY`; nothing is contacted before the first call. Safe for several threads."""

    def __init__(
        self,
        url: str,
        *,
        credentials: Credentials | None = None,
        azure_credential: Any = None,
        patience: float = PATIENCE,
        piece: int = PIECE,
        whole: int = WHOLE,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        host, slash, repository = url.partition("/")
        if not slash or not HOST.fullmatch(host) or not REPOSITORY.fullmatch(repository):
            raise SettingError(
                f"{_safe(url)!r} names no registry: HOST/REPOSITORY (small letters) or oci:FOLDER "
                "would be right"
            )
        self.url = url
        self.host = host
        self.repository = repository
        plain = is_plain(host)
        self._root = f"{'http' if plain else 'https'}://{_api_host(host)}"
        self._pool = _pool(self._root)
        self._patience = patience
        self._piece = piece
        self._whole = whole
        self._clock = clock
        self._sleep = sleep
        self._login = Login(
            _api_host(host),
            self._send_login,
            plain=plain,
            credentials=credentials,
            azure_credential=azure_credential,
            clock=clock,
        )
        self._lists_referrers = True
        self._counter = threading.Lock()
        self.requests = 0
        """How many requests were sent, for whoever wants to know what a push cost."""

    # --- the protocol of tandem.oci.Registry ------------------------------------------------------

    def reference(self, digest: str) -> str:
        return f"{self.url}@{digest}" if ":" in digest else f"{self.url}:{digest}"

    def head_blob(self, digest: str) -> int | None:
        answer = self._ask("HEAD", f"blobs/{_checked(digest)}", good=(200, 404))
        if answer.status == 404:
            return None
        return int(answer.headers.get("Content-Length") or 0)

    def put_blob(
        self,
        descriptor: Descriptor,
        open: Open,
        *,
        mount_from: str | None = None,
        absent: bool = False,
        session: Session | None = None,
        progress: Progress | None = None,
    ) -> Transfer:
        started = time.perf_counter()

        def done(how: str, sent: int = 0) -> Transfer:
            return Transfer(
                digest=descriptor.digest,
                size=descriptor.size,
                how=how,  # type: ignore[arg-type]
                sent=sent,
                seconds=time.perf_counter() - started,
            )

        if not absent and self.head_blob(descriptor.digest) is not None:
            return done("present")
        if mount_from and mount_from != self.repository and self._mount(descriptor, mount_from):
            return done("mounted")
        upload = _Upload(self, descriptor, open, progress, session)
        self._patiently(upload.run, f"upload of {descriptor.digest}")
        return done("uploaded", upload.sent)

    def get_blob(self, digest: str) -> Iterator[bytes]:
        _checked(digest)
        found = hashlib.sha256()
        read = 0
        trouble = _Trouble(self)
        while True:
            answer = self._ask(
                "GET",
                f"blobs/{digest}",
                good=(200, 206, 404),
                headers={"Range": f"bytes={read}-"} if read else {},
                stream=True,
            )
            if answer.status == 404:
                answer.raw.close()
                raise RegistryError(f"{self.url} has no blob {digest}")
            # A server that does not know ranges starts at the beginning again.
            skip = read if answer.status == 200 else 0
            try:
                for block in answer.raw.stream(CHUNK, decode_content=False):
                    fresh = block[skip:]
                    skip -= len(block) - len(fresh)
                    if fresh:
                        found.update(fresh)
                        read += len(fresh)
                        trouble.over()
                        yield fresh
                break
            except (HTTPError, OSError) as problem:
                trouble.wait(_Again(_why(problem)), f"download of {digest}")
            finally:
                answer.raw.close()
        if f"sha256:{found.hexdigest()}" != digest:
            raise RegistryError(
                f"{self.url} gave other bytes than those of {digest} (sha256:{found.hexdigest()})"
            )

    def get_manifest(self, reference: str) -> tuple[Descriptor, bytes] | None:
        if not DIGEST.fullmatch(reference) and not TAG.fullmatch(reference):
            raise RegistryError(f"{reference!r} is neither a tag nor a digest")
        answer = self._ask(
            "GET",
            f"manifests/{reference}",
            good=(200, 404),
            headers={"Accept": ", ".join(ACCEPTED)},
        )
        if answer.status == 404:
            return None
        data = answer.data
        digest = digest_of(data)
        said = reference if ":" in reference else answer.headers.get("Docker-Content-Digest")
        if said and said.startswith("sha256:") and said != digest:
            raise RegistryError(f"{self.url} gave other bytes than those of {said} ({digest})")
        media_type = (answer.headers.get("Content-Type") or MANIFEST).partition(";")[0].strip()
        return Descriptor(media_type=media_type, digest=digest, size=len(data)), data

    def put_manifest(self, data: bytes, media_type: str, *, tag: str | None = None) -> Descriptor:
        if tag is not None and not TAG.fullmatch(tag):
            raise RegistryError(f"{tag!r} is not a tag: letters, digits, . _ - would be right")
        digest = digest_of(data)
        answer = self._ask(
            "PUT",
            f"manifests/{tag or digest}",
            good=(201, 202),
            headers={"Content-Type": media_type},
            body=data,
        )
        said = answer.headers.get("Docker-Content-Digest", digest)
        if said != digest:
            raise RegistryError(
                f"{self.url} says that it stored {said}, but {digest} was sent: do not use it"
            )
        return Descriptor(media_type=media_type, digest=digest, size=len(data))

    def tags(self) -> list[str]:
        found: list[str] = []
        where = "tags/list?n=1000"
        while True:
            answer = self._ask("GET", where, good=(200, 404))
            if answer.status == 404:
                return found
            try:
                found += msgspec.json.decode(answer.data, type=_Tags).tags or []
            except msgspec.MsgspecError:
                raise RegistryError(
                    f"{self.host} gave something else than a list of tags"
                ) from None
            more = re.match(r'\s*<([^>]*)>\s*;\s*rel="?next', answer.headers.get("Link", ""))
            if not more:
                return found
            where = urljoin(self._api("tags/list"), more[1])

    def delete(self, reference: str) -> None:
        """Remove a tag or a manifest. Where tags cannot be deleted alone, it moves away first."""
        digest = bool(DIGEST.fullmatch(reference))
        good = (200, 202, 404) if digest else (200, 202, 400, 404, 405)
        answer = self._ask("DELETE", f"manifests/{reference}", good=(*good, 405))
        if answer.status == 405 and digest:
            raise RegistryError(
                f"{self.host} does not allow deleting: have its storage.delete enabled"
            )
        if answer.status in (400, 405):
            # Distribution 2.x knows deletion by digest only, and takes every tag of that manifest
            # along: so the tag is first moved to a manifest of its own.
            if self.get_manifest(reference) is None:
                return
            own = self._placeholder(reference)
            self.delete(own)

    def _placeholder(self, tag: str) -> str:
        config = msgspec.json.encode({"tandem.deleted": tag})
        descriptor = Descriptor(
            media_type="application/vnd.oci.image.config.v1+json",
            digest=digest_of(config),
            size=len(config),
        )
        from tandem.oci.image import bytes_source

        self.put_blob(descriptor, bytes_source(config))
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": msgspec.to_builtins(descriptor),
            "layers": [],
        }
        return self.put_manifest(msgspec.json.encode(manifest), MANIFEST, tag=tag).digest

    def referrers(self, digest: str) -> bytes | None:
        """The index of what refers to a digest; None where the registry has no such API."""
        _checked(digest)
        if not self._lists_referrers:
            return None
        path = f"{self._root}/v2/{self.repository}/referrers/{digest}"
        answer = self._ask("GET", path, good=(200, 400, 404, 405), headers={"Accept": INDEX})
        kind = (answer.headers.get("Content-Type") or "").partition(";")[0].strip()
        if answer.status == 200 and kind == INDEX:
            return answer.data
        self._lists_referrers = False
        return None

    def docker_login(self) -> Credentials | None:
        """What another program (the engine, a kubelet) logs in with; None when nothing is known."""
        return self._login.for_others()

    # --- uploads ----------------------------------------------------------------------------------

    def open_upload(self) -> Session:
        """Open an upload before it is known of what, for `put_blob` or `cancel_upload`."""
        answer = self._ask("POST", "blobs/uploads/", good=(202,), body=b"")
        least = answer.headers.get("OCI-Chunk-Min-Length", "")
        return Session(self._onward(answer), int(least) if least.isdigit() else 0)

    def cancel_upload(self, session: Session) -> None:
        """Close an upload that is not needed. A registry that cannot forgets it by itself."""
        with contextlib.suppress(RegistryError):
            self._ask("DELETE", session.location, good=range(200, 500))

    def _onward(self, answer: _Answer) -> str:
        """Where an upload goes on."""
        where = answer.headers.get("Location")
        if not where:
            raise RegistryError(f"{self.host} opened an upload without saying where")
        there = urlsplit(urljoin(self._api("blobs/uploads/"), where))
        root = urlsplit(self._root)
        if there.hostname == root.hostname and there.scheme != root.scheme:
            # A registry behind a proxy that ends TLS may not know that it is spoken to by https.
            there = there._replace(scheme=root.scheme, netloc=root.netloc)
        if root.scheme == "https" and there.scheme != "https":
            raise RegistryError(f"{self.host} sends uploads to an address without https")
        return there.geturl()

    def _mount(self, descriptor: Descriptor, repository: str) -> bool:
        """Whether the registry took the blob over from another of its repositories."""
        query = urlencode({"mount": descriptor.digest, "from": repository})
        scope = f"{self._scope('POST')} repository:{repository}:pull"
        # A refusal is no error: the blob is uploaded instead.
        good = (201, 202, 400, 401, 403, 404, 405)
        try:
            answer = self._ask("POST", f"blobs/uploads/?{query}", good=good, scope=scope, body=b"")
        except RegistryError:
            return False
        if answer.status == 202 and (where := answer.headers.get("Location")):
            # An upload was opened instead; it is not needed.
            self._ask("DELETE", urljoin(self._api("blobs/"), where), good=range(200, 500))
        return answer.status == 201

    # --- requests ---------------------------------------------------------------------------------

    def _api(self, path: str) -> str:
        return f"{self._root}/v2/{self.repository}/{path}"

    def _scope(self, method: str) -> str:
        actions = {"GET": "pull", "HEAD": "pull", "DELETE": "pull,push,delete"}
        return f"repository:{self.repository}:{actions.get(method, 'pull,push')}"

    def _ask(
        self,
        method: str,
        path: str,
        *,
        good: Iterable[int],
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        scope: str | None = None,
        stream: bool = False,
    ) -> _Answer:
        """One request, repeated while that can help; the answer has one of the `good` statuses."""
        url = path if path.startswith(("http://", "https://")) else self._api(path)
        what = f"{method} {path.partition('?')[0]}"

        def once() -> _Answer:
            return self._once(method, url, good, headers or {}, body, scope, stream=stream)

        return self._patiently(once, what)

    def _once(
        self,
        method: str,
        url: str,
        good: Iterable[int],
        headers: Mapping[str, str],
        body: bytes | Iterable[bytes] | None,
        scope: str | None = None,
        *,
        stream: bool = False,
    ) -> _Answer:
        """One try, with a login and redirections as they are asked for. Raises `_Again`."""
        scope = scope or self._scope(method)
        for _ in range(3):
            home = _origin(url) == _origin(self._root)
            # The login is for the registry alone, not for the storage that it sends readers to.
            token = self._login.header(scope) if home else None
            every = {**headers, **({"Authorization": token} if token else {})}
            answer = self._send(method, url, every, body, stream=stream)
            if answer.status == 401 and home:
                challenge = answer.headers.get("WWW-Authenticate", "")
                if challenge or 401 not in good:
                    self._login.challenged(challenge, scope, token)
                    if stream:
                        answer.raw.close()
                    if body is not None and not isinstance(body, bytes):
                        raise _Again("the login ran out")
                    continue
            if answer.status in (301, 302, 303, 307, 308) and method in ("GET", "HEAD"):
                answer.raw.close()
                url = urljoin(url, answer.headers.get("Location", ""))
                if not self._root.startswith("http:") and not url.startswith("https:"):
                    raise RegistryError(f"{self.host} sends readers to an address without https")
                continue
            if stream and answer.status not in good:
                answer.data = _whole_body(answer.raw)
            if answer.status in RETRIED and answer.status not in good:
                after = retry_after(answer.headers.get("Retry-After"))
                raise _Again(f"it answers {_refusal(answer)}", after)
            if answer.status not in good:
                raise RegistryError(f"{self.url}: {method} {_place(url)}: {_refusal(answer)}")
            return answer
        raise RegistryError(
            f"{self.host} refuses the login that it asked for, or redirects for ever"
        )

    def _send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | Iterable[bytes] | None,
        *,
        stream: bool = False,
    ) -> _Answer:
        with self._counter:
            self.requests += 1
        try:
            answer = self._pool.request(
                method,
                url,
                headers={"User-Agent": "tandem", "Accept-Encoding": "identity", **headers},
                body=body,
                redirect=False,
                retries=False,
                preload_content=False,
            )
            data = b"" if stream else _whole_body(answer)
            return _Answer(answer.status, answer.headers, data, answer)
        except (HTTPError, OSError) as problem:
            raise _Again(_why(problem), hopeless=_is_hopeless(problem)) from None

    def _send_login(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None
    ) -> tuple[int, bytes]:
        def once() -> tuple[int, bytes]:
            answer = self._send(method, url, headers, body)
            if answer.status in RETRIED:
                after = retry_after(answer.headers.get("Retry-After"))
                raise _Again(f"its token server answers {answer.status}", after)
            return answer.status, answer.data

        return self._patiently(once, "login")

    def _patiently(self, once: Callable[[], T], what: str) -> T:
        """What `once` gives, tried again after each `_Again` for as long as there is patience."""
        trouble = _Trouble(self)
        while True:
            try:
                return once()
            except _Again as problem:
                if problem.moved:
                    trouble.over()
                trouble.wait(problem, what)


class _Trouble:
    """How long something has been failing, and how long to wait before the next try."""

    def __init__(self, registry: RemoteRegistry) -> None:
        self._registry = registry
        self._since: float | None = None
        self._tries = 0

    def over(self) -> None:
        """Something moved: patience starts anew."""
        self._since, self._tries = None, 0

    def wait(self, problem: _Again, what: str) -> None:
        """Wait with growing, jittered pauses; raises `RegistryError` when patience ends."""
        registry = self._registry
        now = registry._clock()
        self._since = now if self._since is None else self._since
        given_up = ""
        if now - self._since > registry._patience:
            given_up = f"; given up after {self._tries + 1} tries in {now - self._since:.0f} s"
        elif problem.after and problem.after > LONGEST_ASKED:
            given_up = f"; it asks to come back in {problem.after:.0f} s: run again then"
        if given_up or problem.hopeless:
            raise RegistryError(f"registry {registry.host}: {what}: {problem}{given_up}") from None
        pause = min(LONGEST_WAIT, 0.1 * 2**self._tries) * random.uniform(0.5, 1.0)  # noqa: S311
        if problem.after:
            # Not all who were told the same time come back in the same moment.
            pause = problem.after * random.uniform(1.0, 1.1)  # noqa: S311
        self._tries += 1
        log.warning("registry %s: %s: %s; trying again", registry.host, what, problem)
        registry._sleep(pause)


class _Upload:
    """One blob on its way up; a second `run` goes on where the first stopped."""

    def __init__(
        self,
        registry: RemoteRegistry,
        descriptor: Descriptor,
        open: Open,
        progress: Progress | None,
        session: Session | None = None,
    ) -> None:
        self._registry = registry
        self._descriptor = descriptor
        self._open = open
        self._progress = progress
        self._opened = session
        self._location: str | None = None
        self._offset = 0
        self._least = 0
        self._shown = 0
        self._tried = False
        self.sent = 0

    def run(self) -> None:
        """Upload, or go on with it. Raises `_Again` when the registry cannot now."""
        # An answer may have been lost on its way back: perhaps the blob is there already.
        if self._tried and self._registry.head_blob(self._descriptor.digest) is not None:
            return
        self._tried = True
        before = self._offset
        try:
            if self._descriptor.size <= self._registry._whole:
                self._start()
                self._finish(self._descriptor.size)
            else:
                self._in_pieces()
        except _Lost:
            self._location, self._offset = None, 0
            raise _Again("it forgot the upload") from None
        except _Again as problem:
            problem.moved = self._offset > before
            raise

    def _start(self) -> None:
        session, self._opened = self._opened or self._registry.open_upload(), None
        self._location, self._least = session.location, session.least
        self._offset = 0

    def _in_pieces(self) -> None:
        size = self._descriptor.size
        if self._location is None:
            self._start()
        else:
            self._ask_where()
        piece = max(self._registry._piece, self._least)
        with self._reading(self._offset) as file:
            while self._offset < size:
                start = self._offset
                length = min(piece, size - start)
                headers = {
                    "Content-Range": f"{start}-{start + length - 1}",
                    "Content-Length": str(length),
                    "Content-Type": "application/octet-stream",
                }
                answer = self._put("PATCH", headers, self._chunks(file, start, length))
                self._location = self._registry._onward(answer)
                # Who says nothing took it all.
                said = "Range" in answer.headers
                self._offset = _received(answer) if said else start + length
                if self._offset != start + length:
                    raise _Again("it took a part of what was sent")
        self._finish(0)

    def _ask_where(self) -> None:
        answer = self._registry._ask(
            "GET", self._location or "", good=(200, 204, 400, 404, 416), stream=False
        )
        if answer.status not in (200, 204):
            raise _Lost
        self._location = self._registry._onward(answer)
        self._offset = _received(answer)

    def _finish(self, length: int) -> None:
        digest = self._descriptor.digest
        headers = {"Content-Length": str(length), "Content-Type": "application/octet-stream"}
        where = self._location or ""
        self._location = f"{where}{'&' if '?' in where else '?'}{urlencode({'digest': digest})}"
        if length:
            with self._reading(0) as file:
                answer = self._put("PUT", headers, self._chunks(file, 0, length))
        else:
            answer = self._put("PUT", headers, b"")
        said = answer.headers.get("Docker-Content-Digest", digest)
        if said != digest:
            raise RegistryError(
                f"{self._registry.url} says that it stored {said}, but {digest} was sent"
            )

    def _put(
        self, method: str, headers: Mapping[str, str], body: bytes | Iterable[bytes]
    ) -> _Answer:
        answer = self._registry._once(
            method, self._location or "", (201, 202, 204, 400, 404, 416), headers, body
        )
        if answer.status in (404, 416) or (
            answer.status == 400 and b"BLOB_UPLOAD_INVALID" in answer.data
        ):
            raise _Lost
        if answer.status == 400:
            raise RegistryError(
                f"{self._registry.url} does not take {self._descriptor.digest}: "
                f"{_refusal(answer)}; "
                "if the file changed since it was packed, run again"
            )
        return answer

    @contextlib.contextmanager
    def _reading(self, offset: int) -> Iterator[BinaryIO]:
        with self._open() as file:
            if offset and file.seekable():
                file.seek(offset)
                offset = 0
            while offset:
                skipped = file.read(min(CHUNK, offset))
                if not skipped:
                    raise self._changed()
                offset -= len(skipped)
            yield file

    def _chunks(self, file: BinaryIO, start: int, length: int) -> Iterator[bytes]:
        left = length
        while left:
            try:
                block = file.read(min(CHUNK, left))
            except OSError as problem:
                raise RegistryError(f"reading {self._descriptor.digest}: {problem}") from None
            if not block:
                raise self._changed()
            yield block
            left -= len(block)
            self.sent += len(block)
            position = start + length - left
            if self._progress and position > self._shown:
                self._progress(position - self._shown)
                self._shown = position

    def _changed(self) -> RegistryError:
        return RegistryError(
            f"what is at hand for {self._descriptor.digest} is shorter than it should be: "
            "it changed since it was packed; run again"
        )


def _received(answer: _Answer) -> int:
    """How many bytes of an upload the registry has: `Range: 0-LAST` (it says 0-0 for none, too)."""
    match = re.fullmatch(r"(?:bytes=)?0-(\d+)", answer.headers.get("Range", "0-0").strip())
    if not match:
        raise _Lost
    return int(match[1]) + 1 if int(match[1]) else 0


def _whole_body(answer: BaseHTTPResponse) -> bytes:
    data = b""
    while block := answer.read(CHUNK, decode_content=False):
        data += block
        if len(data) > LARGEST_ANSWER:
            answer.close()
            raise RegistryError(f"an answer of more than {LARGEST_ANSWER >> 20} MB: refused")
    return data


def _refusal(answer: _Answer) -> str:
    """Status and the registry's own words, on one line."""
    words = ""
    try:
        first = msgspec.json.decode(answer.data)["errors"][0]
        words = f" {first.get('code', '')}: {first.get('message', '')}"
    except (msgspec.MsgspecError, KeyError, IndexError, TypeError, AttributeError):
        pass
    return " ".join(f"{answer.status}{words}".split())[:300]


def _why(problem: Exception) -> str:
    if isinstance(problem, NameResolutionError):
        return "its name is unknown here"
    if isinstance(problem, NewConnectionError):
        return "it cannot be reached"
    if isinstance(problem, SSLError):
        words = " ".join(str(problem).split())
        hint = "; for plain http set TANDEM_REGISTRY_INSECURE=1" if "WRONG_VERSION" in words else ""
        return f"its TLS is not accepted ({words[:200]}){hint}"
    if isinstance(problem, TimeoutError):
        return "it did not answer in time"
    if isinstance(problem, ProtocolError):
        return "the connection broke"
    return " ".join(str(problem).split())[:200] or type(problem).__name__


def _is_hopeless(problem: Exception) -> bool:
    """Whether trying again cannot help: a wrong certificate, a name that does not exist."""
    if isinstance(problem, NameResolutionError):
        return f"[Errno {socket.EAI_AGAIN}]" not in str(problem)
    return isinstance(problem, SSLError)


def _place(url: str) -> str:
    """The path of a URL, without the query, which may hold a signature."""
    return urlsplit(url).path


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


def _checked(digest: str) -> str:
    if not DIGEST.fullmatch(digest):
        raise RegistryError(f"{digest!r} is not a digest: sha256: and 64 hex digits would be right")
    return digest


def _safe(url: str) -> str:
    return re.sub(r"://[^/@]*@", "://", url)


def _api_host(host: str) -> str:
    return "registry-1.docker.io" if host in ("docker.io", "index.docker.io") else host


def is_plain(host: str) -> bool:
    """Whether a registry is spoken to by http: on loopback, or where TANDEM_REGISTRY_INSECURE says.

    The variable holds `1` (any registry), `0` (none, not even on loopback), or host names.
    """
    said = os.environ.get("TANDEM_REGISTRY_INSECURE", "").strip()
    if said in ("0", "1"):
        return said == "1"
    if host in (one.strip() for one in said.split(",")):
        return True
    name = host.rpartition(":")[0] if re.search(r":\d+$", host) else host
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return name == "localhost"


def _pool(root: str) -> urllib3.PoolManager:
    parts = urlsplit(root)
    settings: dict[str, Any] = {
        "maxsize": 8,
        "timeout": urllib3.Timeout(connect=10, read=60),
        "blocksize": 256 << 10,
    }
    if parts.scheme == "https":
        settings["ssl_context"] = ssl.create_default_context()
    proxy = getproxies().get(parts.scheme)
    if proxy and not proxy_bypass(parts.netloc):
        return urllib3.ProxyManager(proxy, **settings)
    return urllib3.PoolManager(**settings)


def open_reference(text: str) -> tuple[RemoteRegistry, str]:
    """The registry and the tag or digest that an image reference names, as Docker reads it.

    `python:3.11-slim` is `docker.io/library/python:3.11-slim`. Raises `SettingError`.
    """
    name, at, digest = text.partition("@")
    tag = ""
    if not at and re.search(r":[^/:]+$", name):
        name, _, tag = name.rpartition(":")
    first, slash, _ = name.partition("/")
    if not slash:
        name = f"docker.io/library/{name}"
    elif not ("." in first or ":" in first or first == "localhost"):
        name = f"docker.io/{name}"
    reference = digest or tag or "latest"
    if not (DIGEST.fullmatch(reference) or TAG.fullmatch(reference)):
        raise SettingError(f"{_safe(text)!r} names no image: HOST/REPOSITORY:TAG would be right")
    return RemoteRegistry(name), reference
