"""What is live, since when, from what and why, by the target and the record."""

from __future__ import annotations

from typing import Any

import msgspec

from tandem.release.project import Project
from tandem.release.records import AppRef, ModelRef, PassedOver


class ImageRef(msgspec.Struct, frozen=True):
    """The image that is live."""

    digest: str
    reference: str


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """What is live; `release` is None while it has no record.

    `problems` says what does not fit together.
    """

    release: int | None
    url: str
    since: str
    app: AppRef | None
    model: ModelRef | None
    image: ImageRef
    target: str
    trigger: str = ""
    changed: list[str] = []
    passed_over: list[PassedOver] = []
    problems: list[str] = []
    detail: dict[str, Any] = {}


def status(project: Project) -> Status | None:
    """What is live, or None. Raises `TandemError` when store or target is unreachable."""
    live = project.target.current()
    record = project.ledger.releases.latest()
    if live is None:
        return None
    problems = []
    if record is None:
        problems.append("there is no release record yet")
    elif record.image != live.digest:
        problems.append(
            f"release {record.number} recorded {record.image[:19]}, but {live.digest[:19]} is live"
        )
        record = next(
            (r for r in project.ledger.releases.newest_first() if r.image == live.digest), None
        )
    return Status(
        release=record.number if record else None,
        url=live.url,
        since=live.since,
        app=record.app if record else None,
        model=record.model if record else None,
        image=ImageRef(live.digest, live.reference),
        target=project.target.name,
        trigger=record.trigger if record else "",
        changed=record.changed if record else [],
        passed_over=record.passed_over if record else [],
        problems=problems,
        detail={**live.detail, **project.target.details()},
    )
