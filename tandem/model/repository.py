"""The model repository: numbered, whole, verified versions of one model in an object store;
publish, find, fetch.

    models/NAME/blobs/sha256/HEX       files, named by their content, so nothing is uploaded twice
    models/NAME/versions/000017.json   a version: its manifest and number, created last and only if
                     absent
    models/NAME/versions.latest        the newest version again (see storage/numbered.py)
    models/NAME/digests/HEX.json       package digest → version number, so a package is found again

A version is there, and then whole, or it is not. Whoever takes number N+1 has seen to it that
version N is in the index before: so every version but the newest is found by its digest, whoever
was killed when.
"""

from __future__ import annotations

import datetime
import fcntl
import hashlib
import os
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import msgspec

from tandem.errors import Conflict, NotFound, PackageError, StorageError
from tandem.model import package as packages
from tandem.model import writing
from tandem.model.package import File, Manifest, Package, Picture
from tandem.storage import Progress, Store, open_store
from tandem.storage.numbered import NumberedLog

SMALL = 2**20
"""Bytes up to which a file is sent without asking first whether it is there."""


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """One published version: `digest` names its content, `created` and `publisher` its
    publishing.
    """

    number: int
    digest: str
    created: str
    publisher: str
    manifest: Manifest

    def __repr__(self) -> str:
        # What a notebook shows of `publish(…)`; the manifest is some pages long.
        return f"<{self.manifest.name} v{self.number}, {self.digest[:19]}, by {self.publisher}>"


class Pruned(msgspec.Struct, frozen=True):
    """What `prune` removed: version numbers, and how many files no other version shares."""

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

    def url(self, number: int) -> str:
        """Where the version is, for people."""
        return f"{self.store.url.rstrip('/')}/{self._log.key(number)}"

    # --- publishing ---

    def publish(
        self, package: Package, *, publisher: str = "", progress: Progress | None = None
    ) -> tuple[Version, bool]:
        """Make the package the next version; returns it, and False where it was there already.

        What the store has is not uploaded again. Raises `StorageError`, or `PackageError` when the
        package is of another model or its files changed since it was read.
        """
        manifest = package.manifest
        if manifest.name != self.name:
            raise PackageError(f"the package is of model {manifest.name!r}, not {self.name!r}")
        files = self._files(manifest, package.folder)
        known = self._indexed(package.digest)
        if known is not None and (existing := self._existing(known)):
            self._upload(package.folder, files, progress, look=True)
            return existing, False
        found_there = self._upload(package.folder, files, progress)
        who = publisher or manifest.publisher
        mark = secrets.token_hex(8)

        def make(number: int) -> bytes:
            record = _Record(
                number=number,
                digest=package.digest,
                created=_now(),
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
        self._upload(package.folder, found_there, None, look=True)
        return version, _decode(data, self._log.key(number)).mark == mark

    def _files(self, manifest: Manifest, folder: Path) -> list[File]:
        evaluation = manifest.evaluation.file if manifest.evaluation else None
        beside = [evaluation] if evaluation and (folder / evaluation.path).exists() else []
        return [*manifest.files, *beside]

    def _upload(
        self, folder: Path, files: Sequence[File], progress: Progress | None, look: bool = False
    ) -> list[File]:
        """Upload what is missing; returns the files that were there already.

        With `look`, nothing is sent before the store was asked whether it has it; without, a small
        file is simply sent, create-only: one request instead of two.
        """
        lock = threading.Lock()

        def moved(count: int) -> None:
            if progress:
                with lock:
                    progress(count)

        # The small ones go along with the large ones, which go one by one: each of those takes as
        # much memory as a transfer may.
        with ThreadPoolExecutor(max_workers=1) as pool:
            small = [file for file in files if file.size <= SMALL]
            beside = pool.map(lambda file: self._upload_one(folder, file, moved, look), small)
            large = [file for file in files if file.size > SMALL]
            done = [self._upload_one(folder, file, moved, look) for file in large]
            return [file for file in (*done, *beside) if file is not None]

    def _upload_one(self, folder: Path, file: File, progress: Progress, look: bool) -> File | None:
        """Upload a file unless it is there; then it is returned."""
        key = self._blob(file.sha256)
        if (look or file.size > SMALL) and self.store.head(key) is not None:
            return file
        try:
            with (folder / file.path).open("rb") as stream:
                if file.size <= SMALL:
                    self._send(key, file, stream.read(), progress)
                else:
                    self._stream(key, file, stream, progress)
        except Conflict:
            return file
        return None

    def _send(self, key: str, file: File, content: bytes, progress: Progress | None) -> None:
        if hashlib.sha256(content).hexdigest() != file.sha256:
            raise PackageError(f"{file.path}: changed while it was being published")
        self.store.put(key, content, if_absent=True, progress=progress)

    def _stream(self, key: str, file: File, stream: BinaryIO, progress: Progress | None) -> None:
        # Hashed as it is sent: what changed since it was read must not keep this name.
        counted = _Hashed(stream)
        conflict: Conflict | None = None
        try:
            self.store.put(key, cast(BinaryIO, counted), if_absent=True, progress=progress)
        except Conflict as problem:
            conflict = problem
            if not counted.used:
                raise
        if counted.hexdigest() != file.sha256:
            # After a lost answer the conflict may be with our own write; another's is right.
            if conflict is None or not self._is_whole(key, file.sha256):
                self.store.delete(key)
            raise PackageError(f"{file.path}: changed while it was being published")
        if conflict is not None:
            raise conflict

    def _is_whole(self, key: str, sha256: str) -> bool:
        """Whether the store has just that content; read in chunks."""
        found = hashlib.sha256()
        try:
            for chunk in self.store.get(key):
                found.update(chunk)
        except NotFound:
            return True
        return found.hexdigest() == sha256

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
        """Version `number` as a verified package in folder `into`, which appears whole or not at
        all.

        A folder that holds the whole version is verified again and taken as it is; anything else
        there is replaced only if a fetch left it. Raises `NotFound`, `PackageError`,
        `StorageError`.
        """
        version = self.version(number)
        into = Path(into)
        into.parent.mkdir(parents=True, exist_ok=True)
        with _only_one(into):
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
                list(pool.map(lambda file: self._download(file, staging / file.path, moved), files))
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

    def _download(self, file: File, path: Path, progress: Callable[[int], None]) -> None:
        sha256, size = hashlib.sha256(), 0
        try:
            with path.open("xb") as target:
                for chunk in self.store.get(self._blob(file.sha256)):
                    size += len(chunk)
                    if size > file.size:
                        break
                    sha256.update(chunk)
                    target.write(chunk)
                    progress(len(chunk))
        except NotFound:
            raise PackageError(
                f"{file.path}: its content is missing in {self.store.url}; publish it again"
            ) from None
        if size != file.size or sha256.hexdigest() != file.sha256:
            raise PackageError(f"{file.path}: changed in {self.store.url}: it has another sha256")

    # --- pruning ---

    def prune(
        self,
        keep: Iterable[int],
        *,
        newest: int = 10,
        grace: float = 24 * 3600.0,
        dry_run: bool = False,
    ) -> Pruned:
        """Remove old versions, but those in `keep` (releases that can be rolled back to) and the
        `newest`.

        The version goes first. Its files go once no version has named them for `grace` seconds:
        somebody may just be publishing them again. Killed in between, the next prune goes on.
        """
        numbers = list(self._log.numbers())
        wanted = {*keep, *numbers[-max(newest, 1) :]}
        if dry_run:
            return Pruned([number for number in numbers if number not in wanted], 0)
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
        return Pruned(removed, self._sweep(grace))

    def _sweep(self, grace: float) -> int:
        stored = {
            stat.key.rsplit("/", 1)[1] for stat in self.store.list(f"{self.prefix}/blobs/sha256/")
        }
        # Versions are listed after the files: one published meanwhile names files that we know.
        for number in self._log.numbers():
            version = self.version(number)
            named = [*version.manifest.files, *filter(None, [_kept(version)])]
            stored.difference_update(file.sha256 for file in named)
        marks_key = f"{self.prefix}/unused.json"
        try:
            marks = msgspec.json.decode(self.store.read(marks_key)[0], type=dict[str, float])
        except (NotFound, msgspec.MsgspecError):
            marks = {}
        # By the store's clock, which all who prune share: one's own may be wrong.
        self.store.put(marks_key, msgspec.json.encode(marks))
        told = self.store.head(marks_key)
        now = told.modified if told and told.modified is not None else time.time()
        marks = {sha256: marks.get(sha256, now) for sha256 in sorted(stored)}
        due = [sha256 for sha256, since in marks.items() if now - since >= grace]
        for sha256 in due:
            self.store.delete(self._blob(sha256))
            del marks[sha256]
        self.store.put(marks_key, msgspec.json.encode(marks))
        return len(due)

    # --- keys ---

    def _blob(self, sha256: str) -> str:
        return f"{self.prefix}/blobs/sha256/{sha256}"

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


def publish(
    estimator: Any,
    *,
    name: str,
    sample: Any = None,
    labels: Sequence[str] | None = None,
    metrics: Mapping[str, float] | None = None,
    parameters: Mapping[str, Any] | None = None,
    held_out: tuple[Any, Any] | None = None,
    training: Any = None,
    feature_names: Sequence[str] | None = None,
    image: Picture | None = None,
    task: packages.Task | None = None,
    training_commit: str | None = None,
    data_digest: str | None = None,
    publisher: str = "",
    store: str | Store | None = None,
    progress: Progress | bool = True,
) -> Version:
    """Publish a fitted estimator (or an ONNX file, or a package folder, by its path) as the next
    version.

    `sample`: some rows like those to be asked; `held_out`: (rows, truth) that training never saw,
    with which a gate compares the model with the live one. `store` is a URL or a store (default:
    the environment's TANDEM_STORE). Publishing the same again uploads nothing and returns the same
    version.
    """
    if store is None or isinstance(store, str):
        store = open_store(
            store or os.environ.get("TANDEM_STORE", "").strip() or "file:.tandem/store"
        )
    repository = Repository(store, name)
    who = publisher or _user()
    with tempfile.TemporaryDirectory(prefix="tandem-") as folder:
        if isinstance(estimator, str | Path) and Path(estimator).is_dir():
            package = packages.read(estimator)
            package.golden()  # what contradicts itself is no version
        else:
            package = writing.write(
                Path(folder) / "package",
                estimator,
                name=name,
                sample=sample,
                labels=labels,
                metrics=metrics,
                parameters=parameters,
                held_out=held_out,
                training=training,
                feature_names=feature_names,
                image=image,
                task=task,
                training_commit=training_commit,
                data_digest=data_digest,
                publisher=who,
            )
        with progress_bar(package.size, f"{name} → {store.url}", progress) as moved:
            version, _ = repository.publish(package, publisher=who, progress=moved)
    return version


@contextmanager
def progress_bar(
    size: int, title: str, wanted: Progress | bool = True
) -> Iterator[Progress | None]:
    """A bar on a terminal's standard error, moved by calling what this gives; nothing elsewhere."""
    if not isinstance(wanted, bool):
        yield wanted
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    if not wanted or not console.is_terminal:
        yield None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    with Bar(*columns, console=console) as bar:
        task = bar.add_task(title, total=size)
        yield lambda count: bar.advance(task, count)


class _Hashed:
    """A stream that is hashed as it is read, once and in order."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._sha256 = hashlib.sha256()
        self.used = False

    def read(self, size: int = -1) -> bytes:
        self.used = True
        data = self._stream.read(size)
        self._sha256.update(data)
        return data

    def hexdigest(self) -> str:
        return self._sha256.hexdigest()


@contextmanager
def _only_one(into: Path) -> Iterator[None]:
    """Two fetches into one folder take turns; the second finds it there."""
    with (into.parent / f".{into.name}.lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


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
        raise PackageError(f"{key}: its manifest has another digest than it says")
    return Version(
        number=record.number,
        digest=digest,
        created=record.created,
        publisher=record.publisher,
        manifest=manifest,
    )


def _user() -> str:
    import getpass
    import socket

    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (OSError, KeyError, ImportError):
        return ""


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
