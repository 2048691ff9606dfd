"""Records that stay: which images were proven, and which release put which of them live, from what
and why.
"""

from __future__ import annotations

import datetime
import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

import msgspec

from tandem.errors import StorageError
from tandem.storage import Store
from tandem.storage.numbered import NumberedLog


class AppRef(msgspec.Struct, frozen=True):
    """The commit that an image holds."""

    name: str
    commit: str
    tree: str
    subject: str = ""


class ModelRef(msgspec.Struct, frozen=True):
    """The model version that an image holds; `metrics` as the package's manifest tells them.

    `overruled` says who accepted it, and why, although it was not good enough.
    """

    name: str
    version: int
    digest: str
    metrics: dict[str, float] = {}
    overruled: str = ""


class PassedOver(msgspec.Struct, frozen=True):
    """Something newer that was not taken, and why."""

    what: str
    which: str
    reason: str


class Proof(msgspec.Struct, frozen=True):
    """One check's verdict on an image or a live service."""

    name: str
    passed: bool
    summary: str


class ImageRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One image that was packed and started: only one with `good` may ever go live."""

    number: int
    digest: str
    reference: str
    app: AppRef
    model: ModelRef
    tests: str
    good: bool
    proofs: list[Proof]
    passed_over: list[PassedOver] = []
    created: str
    run_id: str = ""
    mark: str = ""
    """Of its writer: no two writes have the same."""


class ReleaseRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What went live: when, why, from which pair, what was proven, and what it changed."""

    number: int
    time: str
    trigger: str
    app: AppRef
    model: ModelRef
    image: str
    image_number: int
    reference: str
    tests: str
    proofs: list[Proof]
    target: str
    url: str
    changed: list[str]
    passed_over: list[PassedOver] = []
    run_id: str = ""
    mark: str = ""
    """Of its writer: no two writes have the same."""


Record = TypeVar("Record", ImageRecord, ReleaseRecord)


class Log(Generic[Record]):
    """Numbered records of one kind, each written once and never changed."""

    def __init__(self, store: Store, prefix: str, kind: type[Record]) -> None:
        self._log = NumberedLog(store, prefix)
        self._decoder: msgspec.json.Decoder[Record] = msgspec.json.Decoder(kind)

    def append(self, make: Callable[[int], Record]) -> Record:
        """Write the next record; `make` is given its number (again, should another writer take it
        first).
        """
        mark = secrets.token_hex(8)

        def marked(number: int) -> bytes:
            return msgspec.json.encode(msgspec.structs.replace(make(number), mark=mark))

        return self._decode(*self._log.append(marked))

    def latest(self) -> Record | None:
        """The newest record, in a constant number of requests."""
        found = self._log.latest()
        return self._decode(*found) if found else None

    def read(self, number: int) -> Record:
        """One record. Raises `NotFound`."""
        return self._decode(number, self._log.read(number))

    def newest_first(self) -> Iterator[Record]:
        """All records, read as they are asked for."""
        for number, data in self._log.walk_back():
            yield self._decode(number, data)

    def all(self) -> list[Record]:
        """All records, newest first, read side by side."""
        return [self._decode(number, data) for number, data in self._log.all()]

    def _decode(self, number: int, data: bytes) -> Record:
        try:
            return self._decoder.decode(data)
        except msgspec.MsgspecError as problem:
            raise StorageError(
                f"{self._log.key(number)}: the record is cut or of another version of Tandem: "
                f"{problem}"
            ) from None


class Ledger:
    """The image records and release records of one app."""

    def __init__(self, store: Store, app: str) -> None:
        self.images = Log(store, f"apps/{app}/images", ImageRecord)
        self.releases = Log(store, f"apps/{app}/releases", ReleaseRecord)

    def newest_good_image(
        self, history: Sequence[str] | None = None
    ) -> tuple[ImageRecord | None, list[PassedOver]]:
        """The newest image that passed its checks, and the newer ones that did not.

        Of several verdicts on one digest the newest counts. With `history` (the branch's commits,
        newest first) newest is who holds the newest commit, then the newest model version; images
        of commits that are not in it come last. Without it the order is that of the records.
        """
        passed_over: list[PassedOver] = []
        refused = set()
        for record in self._in_order(history):
            if record.good and record.digest not in refused:
                return record, passed_over
            if record.digest in refused:
                continue
            refused.add(record.digest)
            reason = "; ".join(p.summary for p in record.proofs if not p.passed)
            passed_over.append(PassedOver("image", record.digest, reason))
        return None, passed_over

    def _in_order(self, history: Sequence[str] | None) -> Iterator[ImageRecord]:
        if history is None:
            yield from self.images.newest_first()
            return
        verdicts: dict[str, ImageRecord] = {}
        for record in self.images.all():
            verdicts.setdefault(record.digest, record)
        position = {sha: at for at, sha in enumerate(history)}
        yield from sorted(
            verdicts.values(),
            key=lambda one: (
                position.get(one.app.commit, len(position)),
                -one.model.version,
                -one.number,
            ),
        )

    def image_of(self, tree: str, commit: str, model_digest: str) -> ImageRecord | None:
        """The newest image record when it is of just this pair, else None.

        Only the newest counts: after a branch was rewound, the pair must become the newest image
        again.
        """
        newest = self.images.latest()
        pair = (tree, commit, model_digest)
        if newest and (newest.app.tree, newest.app.commit, newest.model.digest) == pair:
            return newest
        return None


def changes(before: ReleaseRecord | None, app: AppRef, model: ModelRef) -> list[str]:
    """What a release of this pair changes, one sentence each."""
    if before is None:
        return [f"first release: commit {app.commit[:10]} with model {model.name} v{model.version}"]
    out = []
    if before.app.commit != app.commit:
        out.append(f"commit {before.app.commit[:10]} → {app.commit[:10]} ({app.subject})")
    if before.model.digest != model.digest:
        out.append(
            f"model v{before.model.version} → v{model.version}{_metric_change(before.model, model)}"
        )
    return out or ["the same pair, put live again"]


def now() -> str:
    """This moment, RFC 3339, UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _metric_change(before: ModelRef, after: ModelRef) -> str:
    for name in ("accuracy", "r2"):
        if name in before.metrics and name in after.metrics:
            return f" ({name} {before.metrics[name]:.4f} → {after.metrics[name]:.4f})"
    return ""
