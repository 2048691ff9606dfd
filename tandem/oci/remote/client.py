"""A repository of any registry that answers the OCI distribution protocol.

Written on urllib3, because no existing client survived the faults in tests/support/faulty_proxy.py.
python-dxf 12.1.1 gives up at the first 503 and sends no password by http, not even on loopback.
oras 0.2.43 gives up at a 503 too, does not renew a token that ran out, sends each blob twice where
a login is wanted, and held all 300 MB of a 300 MB blob in memory. Neither resumes an upload that
broke. What is used: urllib3 for connections, docker-py for Docker's logins, azure-identity for
Azure's.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Literal
from urllib.parse import urljoin

import msgspec
from urllib3.exceptions import HTTPError

from tandem.errors import RegistryError
from tandem.oci import (
    ACCEPTED,
    CONFIG,
    INDEX,
    MANIFEST,
    Descriptor,
    Progress,
    Transfer,
    UploadSession,
)
from tandem.oci.blobs import (
    CHUNK,
    DIGEST,
    TAG,
    BlobSource,
    bytes_source,
    checked_digest,
    checked_tag,
    digest_of,
)
from tandem.oci.credentials import Credentials
from tandem.oci.remote.login import Login
from tandem.oci.remote.reference import Address, parse_address, parse_reference
from tandem.oci.remote.retry import PATIENCE, Backoff, Retry
from tandem.oci.remote.transport import Connection, LoginRequests, Response, Transport, unreachable
from tandem.oci.remote.upload import PIECE, WHOLE, Uploads


class _TagList(msgspec.Struct):
    """A page of `GET /v2/NAME/tags/list`."""

    tags: list[str] | None = None


class RemoteRegistry:
    """`HOST/REPOSITORY`, contacted at the first call; safe for several threads."""

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
        self._address: Address = parse_address(url)
        self.url = url
        self.host = self._address.host
        self.repository = self._address.repository
        self._connection = Connection(self._address.root)
        self._retry = Retry(self.host, patience=patience, clock=clock, sleep=sleep)
        self._login = Login(
            self._address.api_host,
            LoginRequests(self._connection, self._retry).send,
            plain=self._address.plain,
            credentials=credentials,
            azure_credential=azure_credential,
            clock=clock,
        )
        self._transport = Transport(self._address, self._connection, self._login)
        self._uploads = Uploads(
            self._transport,
            self._retry,
            exists=lambda digest: self.head_blob(digest) is not None,
            whole=whole,
            piece=piece,
        )
        self._lists_referrers = True

    @property
    def requests(self) -> int:
        """How many requests were sent, for whoever wants to know what a push cost."""
        return self._connection.requests

    def reference(self, digest: str) -> str:
        return f"{self.url}@{digest}" if ":" in digest else f"{self.url}:{digest}"

    def login_for_others(self) -> Credentials | None:
        return self._login.for_others()

    # --- blobs ------------------------------------------------------------------------------------

    def head_blob(self, digest: str) -> int | None:
        response = self._ask("HEAD", f"blobs/{checked_digest(digest)}", accept=(200, 404))
        if response.status == 404:
            return None
        return int(response.headers.get("Content-Length") or 0)

    def put_blob(
        self,
        descriptor: Descriptor,
        source: BlobSource,
        *,
        mount_from: str | None = None,
        absent: bool = False,
        session: UploadSession | None = None,
        progress: Progress | None = None,
    ) -> Transfer:
        started = time.perf_counter()

        def transfer(how: Literal["uploaded", "mounted", "present"], sent: int = 0) -> Transfer:
            return Transfer(
                digest=descriptor.digest,
                size=descriptor.size,
                how=how,
                sent=sent,
                seconds=time.perf_counter() - started,
            )

        if not absent and self.head_blob(descriptor.digest) is not None:
            return transfer("present")
        if (
            mount_from
            and mount_from != self.repository
            and self._uploads.mount(descriptor, mount_from)
        ):
            return transfer("mounted")
        sent = self._uploads.send(descriptor, source, session=session, progress=progress)
        return transfer("uploaded", sent)

    def open_upload(self) -> UploadSession:
        return self._uploads.open()

    def cancel_upload(self, session: UploadSession) -> None:
        self._uploads.cancel(session)

    def get_blob(self, digest: str) -> Iterator[bytes]:
        checked_digest(digest)
        sha256 = hashlib.sha256()
        read = 0
        backoff = Backoff(self._retry, f"download of {digest}")
        while True:
            response = self._ask(
                "GET",
                f"blobs/{digest}",
                accept=(200, 206, 404),
                headers={"Range": f"bytes={read}-"} if read else {},
                stream=True,
            )
            if response.status == 404:
                response.raw.close()
                raise RegistryError(f"{self.url} has no blob {digest}")
            # A server that does not know ranges starts at the beginning again.
            skip = read if response.status == 200 else 0
            try:
                for block in response.raw.stream(CHUNK, decode_content=False):
                    fresh = block[skip:]
                    skip -= len(block) - len(fresh)
                    if fresh:
                        sha256.update(fresh)
                        read += len(fresh)
                        backoff.reset()
                        yield fresh
                break
            except (HTTPError, OSError) as problem:
                reason = unreachable(problem)
                reason.permanent = False  # the connection stood a moment ago
                backoff.wait(reason)
            finally:
                response.raw.close()
        if f"sha256:{sha256.hexdigest()}" != digest:
            raise RegistryError(
                f"{self.url} gave other bytes than those of {digest} (sha256:{sha256.hexdigest()})"
            )

    # --- manifests --------------------------------------------------------------------------------

    def get_manifest(self, reference: str) -> tuple[Descriptor, bytes] | None:
        if not DIGEST.fullmatch(reference) and not TAG.fullmatch(reference):
            raise RegistryError(f"invalid reference {reference!r}: expected a tag or a digest")
        response = self._ask(
            "GET",
            f"manifests/{reference}",
            accept=(200, 404),
            headers={"Accept": ", ".join(ACCEPTED)},
        )
        if response.status == 404:
            return None
        data = response.data
        digest = digest_of(data)
        named = reference if ":" in reference else response.headers.get("Docker-Content-Digest")
        if named and named.startswith("sha256:") and named != digest:
            raise RegistryError(f"{self.url} gave other bytes than those of {named} ({digest})")
        media_type = (response.headers.get("Content-Type") or MANIFEST).partition(";")[0].strip()
        return Descriptor(media_type=media_type, digest=digest, size=len(data)), data

    def put_manifest(self, data: bytes, media_type: str, *, tag: str | None = None) -> Descriptor:
        digest = digest_of(data)
        response = self._ask(
            "PUT",
            f"manifests/{digest if tag is None else checked_tag(tag)}",
            accept=(201, 202),
            headers={"Content-Type": media_type},
            body=data,
        )
        stored = response.headers.get("Docker-Content-Digest", digest)
        if stored != digest:
            raise RegistryError(
                f"{self.url} reports that it stored {stored}, but {digest} was sent: do not use it"
            )
        return Descriptor(media_type=media_type, digest=digest, size=len(data))

    def referrers(self, digest: str) -> bytes | None:
        checked_digest(digest)
        if not self._lists_referrers:
            return None
        response = self._ask(
            "GET", f"referrers/{digest}", accept=(200, 400, 404, 405), headers={"Accept": INDEX}
        )
        media_type = (response.headers.get("Content-Type") or "").partition(";")[0].strip()
        if response.status == 200 and media_type == INDEX:
            return response.data
        self._lists_referrers = False
        return None

    def tags(self) -> list[str]:
        names: list[str] = []
        page = self._address.api("tags/list?n=1000")
        while True:
            response = self._ask("GET", page, accept=(200, 404))
            if response.status == 404:
                return names
            try:
                names += msgspec.json.decode(response.data, type=_TagList).tags or []
            except msgspec.MsgspecError:
                raise RegistryError(f"{self.host} answered with no list of tags") from None
            link = response.headers.get("Link", "")
            next_page = re.match(r'\s*<([^>]*)>\s*;\s*rel="?next', link)
            if not next_page:
                return names
            page = urljoin(self._address.api("tags/list"), next_page[1])

    def delete(self, reference: str) -> None:
        """Remove a tag or a manifest; a tag is moved away first where it must be."""
        by_digest = bool(DIGEST.fullmatch(reference))
        accept = (200, 202, 404, 405) if by_digest else (200, 202, 400, 404, 405)
        response = self._ask("DELETE", f"manifests/{reference}", accept=accept)
        if by_digest and response.status == 405:
            raise RegistryError(
                f"{self.host} does not allow deleting: have its storage.delete enabled"
            )
        if response.status in (400, 405):
            # Distribution 2.x knows deletion by digest only, and takes every tag of that manifest
            # along: so the tag is first moved to a manifest of its own.
            if self.get_manifest(reference) is None:
                return
            self.delete(self._placeholder(reference))

    def collect(self) -> int:
        return 0

    def _placeholder(self, tag: str) -> str:
        config = msgspec.json.encode({"tandem.deleted": tag})
        descriptor = Descriptor(media_type=CONFIG, digest=digest_of(config), size=len(config))
        self.put_blob(descriptor, bytes_source(config))
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": msgspec.to_builtins(descriptor),
            "layers": [],
        }
        return self.put_manifest(msgspec.json.encode(manifest), MANIFEST, tag=tag).digest

    def _ask(
        self,
        method: str,
        path: str,
        *,
        accept: Collection[int],
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        stream: bool = False,
    ) -> Response:
        """One request, repeated while that can help; the answer has one of these statuses."""
        url = path if path.startswith(("http://", "https://")) else self._address.api(path)
        return self._retry.call(
            lambda: self._transport.request(
                method, url, accept=accept, headers=headers, body=body, stream=stream
            ),
            f"{method} {path.partition('?')[0]}",
        )


def open_reference(text: str) -> tuple[RemoteRegistry, str]:
    """The registry and the tag or digest of an image reference, as Docker reads it.

    `python:3.11-slim` is `docker.io/library/python:3.11-slim`. Raises `SettingError`.
    """
    address, version = parse_reference(text)
    return RemoteRegistry(address.url), version
