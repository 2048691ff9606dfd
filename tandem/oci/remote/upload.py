"""Uploads of blobs: mounted, whole or in pieces, resumed after a break."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO
from urllib.parse import urlencode, urljoin, urlsplit

from tandem.errors import RegistryError
from tandem.oci import Descriptor, Progress, UploadSession
from tandem.oci.blobs import CHUNK, BlobSource
from tandem.oci.remote.retry import Retry, Unavailable
from tandem.oci.remote.transport import Response, Transport, refusal

WHOLE = 64 << 20
"""Bytes up to which a blob goes up in one request; a larger one in pieces that can be resumed."""
PIECE = 32 << 20


class _SessionLost(Exception):
    """The upload session is gone: start the upload anew."""


class Uploads:
    """The upload half of one repository. `exists` tells whether it has a blob."""

    def __init__(
        self,
        transport: Transport,
        retry: Retry,
        *,
        exists: Callable[[str], bool],
        whole: int = WHOLE,
        piece: int = PIECE,
    ) -> None:
        self.address = transport.address
        self.transport = transport
        self.exists = exists
        self.whole = whole
        self.piece = piece
        self._retry = retry

    def open(self) -> UploadSession:
        """Open an upload before it is known of what."""
        url = self.address.api("blobs/uploads/")
        response = self._retry.call(
            lambda: self.transport.request("POST", url, accept=(202,), body=b""),
            "POST blobs/uploads/",
        )
        smallest = response.headers.get("OCI-Chunk-Min-Length", "")
        return UploadSession(
            location=self.next_location(response),
            smallest_piece=int(smallest) if smallest.isdigit() else 0,
        )

    def cancel(self, session: UploadSession) -> None:
        """Close an upload that is not needed. A registry that cannot forgets it by itself."""
        with contextlib.suppress(RegistryError):
            self._close(session.location)

    def mount(self, descriptor: Descriptor, repository: str) -> bool:
        """Whether the registry took the blob over from another of its repositories."""
        query = urlencode({"mount": descriptor.digest, "from": repository})
        url = self.address.api(f"blobs/uploads/?{query}")
        scope = f"{self.address.scope('POST')} repository:{repository}:pull"
        # A refusal is no error: the blob is uploaded instead.
        accept = (201, 202, 400, 401, 403, 404, 405)
        try:
            response = self._retry.call(
                lambda: self.transport.request("POST", url, accept=accept, scope=scope, body=b""),
                "POST blobs/uploads/",
            )
        except RegistryError:
            return False
        if response.status == 202 and (location := response.headers.get("Location")):
            # An upload was opened instead; it is not needed.
            self._close(urljoin(self.address.api("blobs/"), location))
        return response.status == 201

    def send(
        self,
        descriptor: Descriptor,
        source: BlobSource,
        *,
        session: UploadSession | None = None,
        progress: Progress | None = None,
    ) -> int:
        """Upload a blob, resumed while that can help; returns the bytes sent."""
        upload = _BlobUpload(self, descriptor, source, progress, session)
        self._retry.call(upload.run, f"upload of {descriptor.digest}")
        return upload.sent

    def next_location(self, response: Response) -> str:
        """The URL at which an upload goes on."""
        location = response.headers.get("Location")
        if not location:
            raise RegistryError(f"{self.address.host} opened an upload without a Location")
        parts = urlsplit(urljoin(self.address.api("blobs/uploads/"), location))
        root = urlsplit(self.address.root)
        if parts.hostname == root.hostname and parts.scheme != root.scheme:
            # A registry behind a proxy that ends TLS may not know that it is asked by https.
            parts = parts._replace(scheme=root.scheme, netloc=root.netloc)
        if root.scheme == "https" and parts.scheme != "https":
            raise RegistryError(f"{self.address.host} sends uploads to an address without https")
        return parts.geturl()

    def received(self, location: str) -> Response:
        """The state of an upload, as the registry reports it."""
        return self._retry.call(
            lambda: self.transport.request("GET", location, accept=(200, 204, 400, 404, 416)),
            "GET of an upload",
        )

    def _close(self, location: str) -> None:
        self._retry.call(
            lambda: self.transport.request("DELETE", location, accept=range(200, 500)),
            "DELETE of an upload",
        )


class _BlobUpload:
    """One blob on its way up; a second `run` goes on where the first stopped."""

    def __init__(
        self,
        uploads: Uploads,
        descriptor: Descriptor,
        source: BlobSource,
        progress: Progress | None,
        session: UploadSession | None,
    ) -> None:
        self._uploads = uploads
        self._descriptor = descriptor
        self._source = source
        self._progress = progress
        self._session = session
        self._location: str | None = None
        self._offset = 0
        self._smallest = 0
        self._shown = 0
        self._tried = False
        self.sent = 0

    def run(self) -> None:
        """Upload, or go on with it. Raises `Unavailable` when the registry cannot now."""
        # An answer may have been lost on its way back: perhaps the blob arrived.
        if self._tried and self._uploads.exists(self._descriptor.digest):
            return
        self._tried = True
        before = self._offset
        try:
            if self._descriptor.size <= self._uploads.whole:
                self._start()
                self._finish(self._descriptor.size)
            else:
                self._in_pieces()
        except _SessionLost:
            self._location, self._offset = None, 0
            raise Unavailable("it forgot the upload") from None
        except Unavailable as problem:
            problem.progressed = self._offset > before
            raise

    def _start(self) -> None:
        session, self._session = self._session or self._uploads.open(), None
        self._location, self._smallest = session.location, session.smallest_piece
        self._offset = 0

    def _in_pieces(self) -> None:
        size = self._descriptor.size
        if self._location is None:
            self._start()
        else:
            self._resume()
        piece = max(self._uploads.piece, self._smallest)
        with self._reading(self._offset) as file:
            while self._offset < size:
                start = self._offset
                length = min(piece, size - start)
                headers = {
                    "Content-Range": f"{start}-{start + length - 1}",
                    "Content-Length": str(length),
                    "Content-Type": "application/octet-stream",
                }
                response = self._put("PATCH", headers, self._chunks(file, start, length))
                self._location = self._uploads.next_location(response)
                # An answer without a Range took it all.
                ranged = "Range" in response.headers
                self._offset = _received(response) if ranged else start + length
                if self._offset != start + length:
                    raise Unavailable("it took a part of what was sent")
        self._finish(0)

    def _resume(self) -> None:
        response = self._uploads.received(self._location or "")
        if response.status not in (200, 204):
            raise _SessionLost
        self._location = self._uploads.next_location(response)
        self._offset = _received(response)

    def _finish(self, length: int) -> None:
        digest = self._descriptor.digest
        headers = {"Content-Length": str(length), "Content-Type": "application/octet-stream"}
        location = self._location or ""
        separator = "&" if "?" in location else "?"
        self._location = f"{location}{separator}{urlencode({'digest': digest})}"
        if length:
            with self._reading(0) as file:
                response = self._put("PUT", headers, self._chunks(file, 0, length))
        else:
            response = self._put("PUT", headers, b"")
        stored = response.headers.get("Docker-Content-Digest", digest)
        if stored != digest:
            raise RegistryError(
                f"{self._uploads.address.url} reports that it stored {stored}, but {digest} was "
                "sent: check the registry"
            )

    def _put(self, method: str, headers: dict[str, str], body: bytes | Iterable[bytes]) -> Response:
        response = self._uploads.transport.request(
            method,
            self._location or "",
            accept=(201, 202, 204, 400, 404, 416),
            headers=headers,
            body=body,
        )
        if response.status in (404, 416) or (
            response.status == 400 and b"BLOB_UPLOAD_INVALID" in response.data
        ):
            raise _SessionLost
        if response.status == 400:
            raise RegistryError(
                f"{self._uploads.address.url} does not take {self._descriptor.digest}: "
                f"{refusal(response)}; if the file changed since it was packed, run again"
            )
        return response

    @contextlib.contextmanager
    def _reading(self, offset: int) -> Iterator[BinaryIO]:
        with self._source() as file:
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
            f"the source of {self._descriptor.digest} is too short: it changed since it was "
            "packed; run again"
        )


def _received(response: Response) -> int:
    """How many bytes the registry has: `Range: 0-LAST`; 0-0 also means none."""
    match = re.fullmatch(r"(?:bytes=)?0-(\d+)", response.headers.get("Range", "0-0").strip())
    if not match:
        raise _SessionLost
    return int(match[1]) + 1 if int(match[1]) else 0
