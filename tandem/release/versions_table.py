"""A model's published versions: how good, accepted or not, live or not."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import msgspec

from tandem.errors import TandemError
from tandem.model import acceptance
from tandem.model.repository import Version
from tandem.model.rules import Criteria
from tandem.release.judging import rule
from tandem.release.project import Project
from tandem.storage.numbered import AT_ONCE


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One version; `size` in bytes.

    `champion`: the model of the newest release, which newer ones are compared with; `live`: in the
    image that the target runs now.
    """

    version: int
    digest: str
    created: str
    publisher: str
    metrics: dict[str, float]
    runtime: str
    size: int
    verdict: str
    releases: list[int]
    champion: bool
    live: bool


class Change(msgspec.Struct, frozen=True):
    """One thing that two versions state differently; `-` where one states nothing."""

    what: str
    before: str
    after: str


def entries(project: Project, *, limit: int = 20) -> list[Entry]:
    """The newest versions, newest first. Raises `StorageError`."""
    released: dict[int, list[int]] = {}
    newest = None
    for record in project.ledger.releases.all():
        newest = newest or record
        released.setdefault(record.model.version, []).append(record.number)
    live = _live_version(project)
    versions = list(itertools.islice(project.models.versions(), limit))
    by = rule(project)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        verdicts = list(pool.map(lambda version: _verdict(project, version, by), versions))
    return [
        Entry(
            version=version.number,
            digest=version.digest,
            created=version.created,
            publisher=version.publisher,
            metrics=dict(version.manifest.metrics),
            runtime=version.manifest.runtime,
            size=sum(file.size for file in version.manifest.files),
            verdict=verdict,
            releases=sorted(released.get(version.number, [])),
            champion=newest is not None and newest.model.version == version.number,
            live=version.number == live,
        )
        for version, verdict in zip(versions, verdicts, strict=True)
    ]


def difference(project: Project, before: int, after: int) -> list[Change]:
    """What differs between two versions, the most telling first. Raises `NotFound`."""
    earlier, later = (project.models.version(number) for number in (before, after))
    rows: list[Change] = []

    def compare(name: str, left: object, right: object) -> None:
        if left != right:
            rows.append(Change(name, _text(left), _text(right)))

    old, new = earlier.manifest, later.manifest
    kinds: list[tuple[str, Mapping[str, object], Mapping[str, object]]] = [
        ("metric", old.metrics, new.metrics),
        ("parameter", old.parameters, new.parameters),
        ("library", old.libraries, new.libraries),
    ]
    for kind, left, right in kinds:
        for key in sorted({*left, *right}):
            compare(f"{kind} {key}", left.get(key), right.get(key))
    compare("task", old.task, new.task)
    compare("runtime", old.runtime, new.runtime)
    compare("labels", old.labels, new.labels)
    compare("training commit", old.training_commit, new.training_commit)
    compare("data digest", old.data_digest, new.data_digest)
    compare("features", len(old.features), len(new.features))
    for path in ("model.onnx", "model.skops"):
        compare(f"size of {path}", _size(earlier, path), _size(later, path))
    compare("publisher", earlier.publisher, later.publisher)
    compare("created", earlier.created, later.created)
    return rows


def _live_version(project: Project) -> int | None:
    try:
        live = project.target.current()
    except TandemError:
        return None  # the catalog is worth reading while the target is unreachable
    if live is None:
        return None
    image = project.ledger.image(live.digest)
    return image.model.version if image else None


def _verdict(project: Project, version: Version, by: Criteria) -> str:
    verdict = acceptance.standing_verdict(project.models, version, by)
    if verdict is None:
        return "not judged yet"
    return ("accepted" if verdict.accepted else "refused") + (
        f": {verdict.reason}" if verdict.reason else ""
    )


def _size(version: Version, path: str) -> int | None:
    return next((file.size for file in version.manifest.files if file.path == path), None)


def _text(value: object) -> str:
    return "-" if value is None else str(value)
