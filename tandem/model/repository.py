"""The model repository: numbered, whole, verified versions of one model in an object store.

    models/NAME/blobs/sha256/HEX       files, named by their content, so nothing is uploaded twice
    models/NAME/versions/000017.json   a version: its manifest and number, created last and only if
                     absent
    models/NAME/versions.latest        the newest version again (see storage/numbered.py)
    models/NAME/digests/HEX.json       package digest → version number, so a package is found again

A version is there, and then whole, or it is not. Version N is indexed before N+1 is created, so
only the newest can be missing from the index, even after a crash.
"""

from __future__ import annotations

import secrets
import shutil
import tempfile
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from tandem.errors import Conflict, NotFound, PackageError, StorageError
from tandem.model import package as packages
from tandem.model.blobs import Blobs
from tandem.model.package import File, Manifest, Package
from tandem.storage import Progress, Store
from tandem.storage.numbered import NumberedLog
from tandem.util.clock import now
from tandem.util.files import locked


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """One published version: `digest` names its content, the rest its publishing."""

    number: int
    digest: str
    created: str
    publisher: str
    manifest: Manifest

    def __repr__(self) -> str:
        # What a notebook shows of `publish(…)`; the manifest is some pages long.
        return f"<{self.manifest.name} v{self.number}, {self.digest[:19]}, by {self.publisher}>"


class PrunedVersions(msgspec.Struct, frozen=True):
    """What `prune` removed: version numbers, and how many files nobody shares."""

    versions: list[int]
    blobs: int


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    number: int
    digest: str
    created: str
    publisher: str
    # Whose try this is: after a lost answer it tells one's own record from another's.
    mark: str = ""
    # As it was written: a newer Tandem may tell more in it, and all of it counts for the digest.
    manifest: msgspec.Raw


class Repository:
    """The versions of model `name` in `store`; safe to use from several threads."""

    def __init__(self, store: Store, name: str) -> None:
        self.store = store
        self.name = packages.check_name(name)
        self.prefix = f"models/{name}"
        self._log = NumberedLog(store, f"{self.prefix}/versions")
        self._blobs = Blobs(store, self.prefix)

    def url(self, number: int) -> str:
        """Where the version is, for people."""
        return f"{self.store.url.rstrip('/')}/{self._log.key(number)}"

    # --- publishing ---

    def publish(
        self, package: Package, *, publisher: str = "", progress: Progress | None = None
    ) -> tuple[Version, bool]:
        """Make the package the next version; False where it was there already.

        What the store has is not uploaded again. Raises `StorageError`, or `PackageError` when the
        package is of another model or its files changed since it was read.
        """
        manifest = package.manifest
        if manifest.name != self.name:
            raise PackageError(f"the package is of model {manifest.name!r}, not {self.name!r}")
        files = self._files(manifest, package.folder)
        known = self._indexed(package.digest)
        if known is not None and (existing := self._existing(known)):
            self._blobs.upload(package.folder, files, progress, look=True)
            return existing, False
        found_there = self._blobs.upload(package.folder, files, progress)
        who = publisher or manifest.publisher
        mark = secrets.token_hex(8)

        def make(number: int) -> bytes:
            record = _Record(
                number=number,
                digest=package.digest,
                created=now(),
                publisher=who,
                mark=mark,
                manifest=msgspec.Raw((package.folder / packages.MANIFEST).read_bytes()),
            )
            return msgspec.json.encode(record)

        def same(newest: tuple[int, bytes] | None) -> tuple[int, bytes] | None:
            if newest is None:
                return None
            record = _decode(newest[1], self._log.key(newest[0]))
            if record.digest == package.digest:
                return newest
            self._index(record.digest, record.number)
            number = self._indexed(package.digest)
            return None if number is None else (number, self._log.read(number))

        number, data = self._log.append(make, same=same)
        version = _version(data, self._log.key(number))
        self._index(version.digest, number)
        # A prune at the same moment may have taken a shared file between our look and our record.
        self._blobs.upload(package.folder, found_there, None, look=True)
        return version, _decode(data, self._log.key(number)).mark == mark

    def _files(self, manifest: Manifest, folder: Path) -> list[File]:
        evaluation = manifest.evaluation.file if manifest.evaluation else None
        beside = [evaluation] if evaluation and (folder / evaluation.path).exists() else []
        return [*manifest.files, *beside]

    # --- finding ---

    def latest(self) -> Version | None:
        """The newest version, in two requests however many there are."""
        found = self._log.latest()
        return _version(found[1], self._log.key(found[0])) if found else None

    def version(self, number: int) -> Version:
        """Version `number`; raises `NotFound`."""
        try:
            return _version(self._log.read(number), self._log.key(number))
        except NotFound:
            raise NotFound(f"{self.store.url}: no version {number} of model {self.name}") from None

    def versions(self) -> Iterator[Version]:
        """All versions, newest first, each read when asked for."""
        for number, data in self._log.walk_back():
            yield _version(data, self._log.key(number))

    def find(self, digest: str) -> Version | None:
        """The version with that package digest."""
        number = self._indexed(digest)
        if number is not None:
            return self._existing(number)
        newest = self.latest()
        return newest if newest and newest.digest == digest else None

    def _existing(self, number: int) -> Version | None:
        try:
            return self.version(number)
        except NotFound:
            return None

    # --- fetching ---

    def fetch(
        self,
        number: int,
        into: Path,
        *,
        progress: Progress | None = None,
        with_evaluation: bool = False,
    ) -> Package:
        """Version `number` as a verified package in folder `into`.

        The folder appears whole or not at all. One that holds the whole version is verified again
        and taken as it is; anything else there is replaced only if a fetch left it. Raises
        `NotFound`, `PackageError`, `StorageError`.
        """
        version = self.version(number)
        into = Path(into)
        into.parent.mkdir(parents=True, exist_ok=True)
        # Two fetches into one folder take turns; the second finds it there.
        with locked(into.parent / f".{into.name}.lock"):
            if (into / packages.MANIFEST).exists():
                try:
                    package = packages.read(into)
                    complete = not with_evaluation or package.held_out() or not _kept(version)
                    if package.digest == version.digest and complete:
                        if not with_evaluation:
                            # Held-out rows are for gates, and never get into an image.
                            (into / packages.EVALUATION).unlink(missing_ok=True)
                        return package
                except PackageError:
                    pass
                shutil.rmtree(into)
            elif into.exists() and any(into.iterdir()):
                raise PackageError(f"{into}: not empty, and not a model package")
            return self._fetch(version, into, progress, with_evaluation)

    def _fetch(
        self, version: Version, into: Path, progress: Progress | None, with_evaluation: bool
    ) -> Package:
        record = _decode(self._log.read(version.number), self._log.key(version.number))
        files = list(version.manifest.files)
        if with_evaluation and (kept := _kept(version)):
            files.append(kept)
        staging = Path(tempfile.mkdtemp(prefix=f".{into.name}.", suffix=".tmp", dir=into.parent))
        try:
            lock = threading.Lock()

            def moved(count: int) -> None:
                if progress:
                    with lock:
                        progress(count)

            with ThreadPoolExecutor(max_workers=2) as pool:
                list(
                    pool.map(
                        lambda file: self._blobs.download(file, staging / file.path, moved), files
                    )
                )
            manifest = msgspec.json.format(bytes(record.manifest), indent=1) + b"\n"
            (staging / packages.MANIFEST).write_bytes(manifest)
            if into.exists():
                into.rmdir()
            staging.rename(into)
        except OSError as problem:
            raise StorageError(f"{into}: {problem.strerror or problem}") from None
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        # Each file was hashed while it came: reading all of it again would tell nothing new.
        return Package(into, version.manifest, version.digest)

    # --- pruning ---

    def prune(
        self,
        keep: Iterable[int],
        *,
        newest: int = 10,
        grace: float = 24 * 3600.0,
        dry_run: bool = False,
    ) -> PrunedVersions:
        """Remove old versions, but those in `keep` and the `newest`.

        `keep`: releases that can be rolled back to. The version goes first. Its files go once no
        version has named them for `grace` seconds: somebody may just be publishing them again.
        Killed in between, the next prune goes on.
        """
        numbers = list(self._log.numbers())
        wanted = {*keep, *numbers[-max(newest, 1) :]}
        if dry_run:
            return PrunedVersions([number for number in numbers if number not in wanted], 0)
        removed = []
        for number in numbers:
            if number in wanted:
                continue
            record = _decode(self._log.read(number), self._log.key(number))
            if self._indexed(record.digest) == number:
                self.store.delete(self._index_key(record.digest))
            self._log.delete(number)
            self.store.delete(f"{self.prefix}/verdicts/{number:06}.json")
            removed.append(number)
        return PrunedVersions(removed, self._blobs.sweep(grace, self._named))

    def _named(self) -> Iterator[str]:
        for number in self._log.numbers():
            version = self.version(number)
            for file in (*version.manifest.files, *filter(None, [_kept(version)])):
                yield file.sha256

    # --- keys ---

    def _index_key(self, digest: str) -> str:
        return f"{self.prefix}/digests/{digest.removeprefix('sha256:')}.json"

    def _indexed(self, digest: str) -> int | None:
        try:
            return int(msgspec.json.decode(self.store.read(self._index_key(digest))[0], type=int))
        except (NotFound, msgspec.MsgspecError):
            return None

    def _index(self, digest: str, number: int) -> None:
        try:
            self.store.put(self._index_key(digest), msgspec.json.encode(number), if_absent=True)
        except Conflict:
            pass


def _kept(version: Version) -> File | None:
    return version.manifest.evaluation.file if version.manifest.evaluation else None


def _decode(data: bytes, key: str) -> _Record:
    try:
        return msgspec.json.decode(data, type=_Record)
    except msgspec.MsgspecError as problem:
        raise PackageError(f"{key}: not a version record: {problem}") from None


def _version(data: bytes, key: str) -> Version:
    record = _decode(data, key)
    try:
        manifest, digest = packages.decode_manifest(bytes(record.manifest))
    except PackageError as problem:
        raise PackageError(f"{key}: {problem}") from None
    if digest != record.digest:
        raise PackageError(f"{key}: its manifest has another digest than it states")
    return Version(
        number=record.number,
        digest=digest,
        created=record.created,
        publisher=record.publisher,
        manifest=manifest,
    )
