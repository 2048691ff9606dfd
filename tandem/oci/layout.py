"""A registry that is a folder: the OCI image layout, which skopeo reads too."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec

from tandem.errors import RegistryError, SettingError
from tandem.oci import INDEX, MANIFEST, Descriptor, Progress, Transfer, UploadSession
from tandem.oci.blobs import (
    DIGEST,
    LARGEST_CONFIG,
    BlobSource,
    blocks,
    checked_digest,
    checked_tag,
    digest_of,
)
from tandem.oci.credentials import Credentials
from tandem.oci.spool import reason, writing
from tandem.util.files import locked

NAME = "org.opencontainers.image.ref.name"
"""Annotation in index.json that holds a manifest's tag."""
GRACE = 3600.0
"""Seconds for which a blob that nothing refers to is left alone: its manifest may be on the way."""


class LayoutRegistry:
    """An OCI image layout folder, made at the first write; safe across processes."""

    host = ""

    def __init__(self, url: str) -> None:
        self.url = url
        path = url.removeprefix("oci:")
        if not path:
            raise SettingError(f"invalid registry {url!r}: expected oci:FOLDER")
        self.folder = Path(path)
        self._blobs = self.folder / "blobs" / "sha256"

    def reference(self, digest: str) -> str:
        return f"{self.url}@{digest}" if ":" in digest else f"{self.url}:{digest}"

    def path(self, digest: str) -> Path:
        """Where a blob's bytes are."""
        return self._blobs / checked_digest(digest).removeprefix("sha256:")

    def login_for_others(self) -> Credentials | None:
        return None

    def head_blob(self, digest: str) -> int | None:
        try:
            return self.path(digest).stat().st_size
        except FileNotFoundError:
            return None
        except OSError as problem:
            raise self._error("cannot be read", problem) from None

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
        how: Literal["uploaded", "present"] = "present"
        sent = 0
        if self.head_blob(descriptor.digest) != descriptor.size:
            self._prepare()
            sha256 = hashlib.sha256()
            with (
                source() as content,
                writing(self._blobs, f"{self.url}", RegistryError) as (file, name),
            ):
                for block in blocks(content):
                    sha256.update(block)
                    file.write(block)
                    sent += len(block)
                    if progress:
                        progress(len(block))
                if f"sha256:{sha256.hexdigest()}" != descriptor.digest:
                    raise RegistryError(
                        f"{self.url}: the source of {descriptor.digest} has other bytes "
                        f"(sha256:{sha256.hexdigest()}); the blob was not stored"
                    )
                name(sha256.hexdigest())
            how = "uploaded"
        return Transfer(
            digest=descriptor.digest,
            size=descriptor.size,
            how=how,
            sent=sent,
            seconds=time.perf_counter() - started,
        )

    def open_upload(self) -> UploadSession | None:
        return None

    def cancel_upload(self, session: UploadSession) -> None:
        """Nothing was opened."""

    def get_blob(self, digest: str) -> Iterator[bytes]:
        sha256 = hashlib.sha256()
        try:
            with self.path(digest).open("rb") as file:
                for block in blocks(file):
                    sha256.update(block)
                    yield block
        except FileNotFoundError:
            raise RegistryError(f"{self.url} has no blob {digest}") from None
        except OSError as problem:
            raise self._error("cannot be read", problem) from None
        if f"sha256:{sha256.hexdigest()}" != digest:
            raise RegistryError(
                f"{self.path(digest)} is damaged: its bytes are sha256:{sha256.hexdigest()}; "
                "remove it and run again"
            )

    def get_manifest(self, reference: str) -> tuple[Descriptor, bytes] | None:
        for entry in self._index():
            if reference in (entry["digest"], (entry.get("annotations") or {}).get(NAME)):
                data = b"".join(self.get_blob(entry["digest"]))
                descriptor = Descriptor(
                    media_type=entry.get("mediaType", MANIFEST),
                    digest=entry["digest"],
                    size=len(data),
                )
                return descriptor, data
        return None

    def put_manifest(self, data: bytes, media_type: str, *, tag: str | None = None) -> Descriptor:
        if tag is not None:
            checked_tag(tag)
        digest = digest_of(data)
        descriptor = Descriptor(media_type=media_type, digest=digest, size=len(data))
        self._check(msgspec.json.decode(data))
        with self._locked() as entries:
            with writing(self._blobs, self.url, RegistryError) as (file, name):
                file.write(data)
                name(digest.removeprefix("sha256:"))
            kept = [
                entry
                for entry in entries
                # A tag names one manifest; a manifest without a tag is listed once.
                if not (tag and _tag(entry) == tag)
                and not (entry["digest"] == digest and not _tag(entry))
            ]
            new: dict[str, Any] = {"mediaType": media_type, "digest": digest, "size": len(data)}
            if tag:
                new["annotations"] = {NAME: tag}
            elif any(entry["digest"] == digest for entry in kept):
                return descriptor
            # What a tag moved away from stays there by digest.
            for entry in entries:
                if entry not in kept and entry["digest"] != digest:
                    others = {other["digest"] for other in kept}
                    if entry["digest"] not in others:
                        kept.append({k: v for k, v in entry.items() if k != "annotations"})
            self._write_index([*kept, new])
        return descriptor

    def referrers(self, digest: str) -> bytes | None:
        return None

    def tags(self) -> list[str]:
        return [tag for entry in self._index() if (tag := _tag(entry))]

    def delete(self, reference: str) -> None:
        if not self._index():
            return
        with self._locked() as entries:
            if DIGEST.fullmatch(reference):
                kept = [entry for entry in entries if entry["digest"] != reference]
            else:
                kept = []
                for entry in entries:
                    if _tag(entry) != reference:
                        kept.append(entry)
                    elif sum(other["digest"] == entry["digest"] for other in entries) == 1:
                        kept.append({k: v for k, v in entry.items() if k != "annotations"})
            if kept != entries:
                self._write_index(kept)

    def collect(self, *, grace: float = GRACE) -> int:
        """Remove blobs of no manifest, older than `grace` seconds; returns their bytes."""
        freed = 0
        if not self._blobs.is_dir():
            return 0
        with self._locked() as entries:
            used: set[str] = set()
            pending = [entry["digest"] for entry in entries]
            while pending:
                digest = pending.pop()
                if digest in used:
                    continue
                used.add(digest)
                path = self.path(digest)
                if path.exists() and path.stat().st_size <= LARGEST_CONFIG:
                    with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError):
                        pending.extend(_mentioned(msgspec.json.decode(path.read_bytes())))
            limit = time.time() - grace
            for path in self._blobs.iterdir():
                status = path.stat()
                if f"sha256:{path.name}" not in used and status.st_mtime <= limit:
                    freed += status.st_size
                    path.unlink()
        return freed

    def _index(self) -> list[dict[str, Any]]:
        path = self.folder / "index.json"
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as problem:
            raise self._error("cannot be read", problem) from None
        try:
            entries = list(msgspec.json.decode(data)["manifests"])
            if not all(DIGEST.fullmatch(entry["digest"]) for entry in entries):
                raise KeyError("digest")
            return entries
        except (msgspec.MsgspecError, KeyError, TypeError):
            raise RegistryError(f"{path} is not the index of an OCI image layout") from None

    def _write_index(self, entries: list[dict[str, Any]]) -> None:
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}
        with writing(self.folder, self.url, RegistryError) as (file, name):
            file.write(msgspec.json.encode(index))
            name("index.json")

    def _check(self, manifest: Any) -> None:
        """A manifest goes in only when everything that it names is there."""
        for digest in _mentioned(manifest):
            if not self.path(digest).exists():
                raise RegistryError(f"{self.url} does not have {digest}, which the manifest names")

    def _prepare(self) -> None:
        try:
            self._blobs.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise self._error("cannot be written", problem) from None
        if not (self.folder / "oci-layout").exists():
            with writing(self.folder, self.url, RegistryError) as (file, name):
                file.write(b'{"imageLayoutVersion":"1.0.0"}')
                name("oci-layout")

    @contextlib.contextmanager
    def _locked(self) -> Iterator[list[dict[str, Any]]]:
        """The index as it is, while nobody else changes it."""
        self._prepare()
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locked(self.folder / ".lock"))
            except OSError as problem:
                raise self._error("cannot be written", problem) from None
            yield self._index()

    def _error(self, what: str, problem: OSError) -> RegistryError:
        return RegistryError(f"{self.url} {what}: {reason(problem)}")


def _tag(entry: dict[str, Any]) -> str | None:
    tag: str | None = (entry.get("annotations") or {}).get(NAME)
    return tag


def _mentioned(manifest: Any) -> list[str]:
    """The digests that a manifest or index needs; its `subject` may be absent (OCI)."""
    if not isinstance(manifest, dict):
        return []
    needed = [*(manifest.get("layers") or []), *(manifest.get("manifests") or [])]
    if isinstance(manifest.get("config"), dict):
        needed.append(manifest["config"])
    return [entry["digest"] for entry in needed if isinstance(entry, dict) and "digest" in entry]
