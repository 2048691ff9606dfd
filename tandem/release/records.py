"""Records that stay: which images were proven, and which release put which live."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
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
    """The model version that an image holds.

    `metrics` are those of the package's manifest; `overruled` says who accepted it, and why,
    although it was not good enough.
    """

    name: str
    version: int
    digest: str
    metrics: dict[str, float] = {}
    overruled: str = ""

    @property
    def is_none(self) -> bool:
        """Whether the image holds the code alone."""
        return self.version == 0

    def __str__(self) -> str:
        return "no model" if self.is_none else f"model {self.name} v{self.version}"


NO_MODEL = ModelRef(name="", version=0, digest="")
"""Of an app that is released as code alone."""


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
    """What went live: when, why, from which pair, with which proofs and changes."""

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


LOOK_BACK = 16
"""Images among which the newest is sought by commit and model: older ones were passed long ago."""


class Log(Generic[Record]):
    """Numbered records of one kind, each written once and never changed."""

    def __init__(self, store: Store, prefix: str, kind: type[Record]) -> None:
        self._log = NumberedLog(store, prefix)
        self._decoder: msgspec.json.Decoder[Record] = msgspec.json.Decoder(kind)

    def append(self, make: Callable[[int], Record]) -> Record:
        """Write the next record, which `make` makes of its number.

        It is called again where another writer has taken the number.
        """
        mark = secrets.token_hex(8)

        def marked(number: int) -> bytes:
            return msgspec.json.encode(msgspec.structs.replace(make(number), mark=mark))

        return self._decode(*self._log.append(marked))

    def latest(self) -> Record | None:
        """The newest record, in a constant number of requests."""
        newest = self._log.latest()
        return self._decode(*newest) if newest else None

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

    def image(self, digest: str) -> ImageRecord | None:
        """The newest record of that image, or None."""
        records = self.images.newest_first()
        return next((record for record in records if record.digest == digest), None)

    def newest_good_image(
        self,
        history: Sequence[str] = (),
        newest_model: int | None = None,
        *,
        ask: Callable[[], Sequence[str]] | None = None,
    ) -> tuple[ImageRecord | None, list[PassedOver]]:
        """The newest image that passed its checks, and the newer ones that did not.

        Newest is who holds the newest commit (of `history`, the branch's commits, newest first),
        then the newest model version (`newest_model` is the newest there is, where it is known);
        which proof was written last matters only among the last `LOOK_BACK`. Of several verdicts
        on one digest the newest counts. `ask` gives the history anew: it is called once where an
        image's commit is not in `history`.
        """
        records = self.images.newest_first()
        position = {sha: at for at, sha in enumerate(history)}
        seen: dict[str, ImageRecord] = {}
        for record in records:
            seen.setdefault(record.digest, record)
            first = (
                newest_model is not None
                and record.model.version >= newest_model
                and position.get(record.app.commit) == 0
            )
            if record.good and seen[record.digest] is record and (first or not position):
                break
            if len(seen) >= LOOK_BACK and any(record.good for record in seen.values()):
                break
        if ask and any(record.app.commit not in position for record in seen.values()):
            return self.newest_good_image(ask(), newest_model)
        passed_over: list[PassedOver] = []
        for record in sorted(seen.values(), key=lambda image: _place(image, position)):
            if record.good:
                return record, passed_over
            reason = "; ".join(p.summary for p in record.proofs if not p.passed)
            passed_over.append(PassedOver("image", record.digest, reason))
        return None, passed_over


def _place(record: ImageRecord, position: Mapping[str, int]) -> tuple[int, int, int]:
    """Where an image stands: one of a commit that is not in the branch comes last."""
    if not position:
        return 0, 0, -record.number
    at = position.get(record.app.commit, len(position))
    return at, -record.model.version, -record.number


def changes(before: ReleaseRecord | None, app: AppRef, model: ModelRef) -> list[str]:
    """What a release of this pair changes, one sentence each."""
    if before is None:
        return [f"first release: commit {app.commit[:10]} with {model}"]
    out = []
    if before.app.commit != app.commit:
        out.append(f"commit {before.app.commit[:10]} → {app.commit[:10]} ({app.subject})")
    if before.model.digest != model.digest:
        old, new = (str(ref).removeprefix(f"model {ref.name} ") for ref in (before.model, model))
        out.append(f"model {old} → {new}{_metric_change(before.model, model)}")
    return out or ["the same pair, put live again"]


def _metric_change(before: ModelRef, after: ModelRef) -> str:
    for name in ("accuracy", "r2"):
        if name in before.metrics and name in after.metrics:
            return f" ({name} {before.metrics[name]:.4f} → {after.metrics[name]:.4f})"
    return ""
