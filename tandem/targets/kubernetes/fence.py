"""Writes to a cluster that only the newest holder of the Lease can do.

Each holder has a number, higher than all before it, and writes it on every object. Before a write
the object is read: one with a higher number is left alone. The write names the version that was
read, so the API server refuses it when somebody was quicker. A holder that was cut off and goes on
long after the next one began can therefore change nothing that this one has written.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from tandem.errors import TargetError
from tandem.targets.kubernetes.api import Api, ApiError
from tandem.targets.kubernetes.manifests import FENCE, MANAGER, Object

TRIES = 40
PAUSE = 0.05
UNREADABLE = ("Secret",)
"""Written and never read: reading them would take a permission for nothing else."""


class Superseded(TargetError):
    """A newer deploy has begun: it is its turn, and nothing more is changed here."""


class Holder(Protocol):
    """Who holds the Lease."""

    number: int

    def verify(self) -> None:
        """Ask the cluster; raises `Superseded` when it is held no longer."""


def fence_of(live: Object | None) -> int:
    """The number of the holder that wrote the object last; 0 where none did."""
    annotations = ((live or {}).get("metadata") or {}).get("annotations") or {}
    text = annotations.get(FENCE, "")
    return int(text) if text.isdecimal() else 0


class Fence:
    """The writes of one holder. All raise `Superseded` where a newer one has written."""

    def __init__(self, api: Api, holder: Holder) -> None:
        self.api = api
        self.holder = holder

    def refuse_newer(self, kind: str, live: Object) -> None:
        """Raise `Superseded` when a newer holder wrote the object."""
        if fence_of(live) > self.holder.number:
            raise Superseded(f"{kind}/{live['metadata']['name']} was taken by a newer deploy")

    def apply(self, wanted: Object, *, manager: str = MANAGER, force: bool = False) -> Object:
        """Server-side apply.

        Raises `ApiError` with causes when others own a field, unless forced.

        Only the manager of all else owns the number: two managers would fight for it.
        """
        kind, name = wanted["kind"], wanted["metadata"]["name"]
        if manager == MANAGER:
            wanted = _with(wanted, annotations={FENCE: str(self.holder.number)})
        if kind in UNREADABLE:
            self.holder.verify()
            return self.api.apply(wanted, manager=manager, force=force)

        def attempt(live: Object | None) -> Object:
            if live is None:
                return self._adopt(self._create(wanted, manager), manager)
            live = self._adopt(live, manager)
            read = {key: live["metadata"][key] for key in ("resourceVersion", "uid")}
            return self.api.apply(_with(wanted, **read), manager=manager, force=force)

        return self._write(kind, name, attempt)

    def change(self, kind: str, name: str, make: Callable[[Object], Object | None]) -> None:
        """Replace an object by what `make` makes of it.

        Nothing happens where it does not exist, or `make` wants no change.
        """

        def attempt(live: Object | None) -> Object:
            changed = make(live) if live else None
            return self.api.replace(changed) if changed else {}

        self._write(kind, name, attempt)

    def delete(self, kind: str, name: str, *, ours: Callable[[Object], bool]) -> bool:
        """Delete an object that is `ours`; whether there was one."""
        if kind in UNREADABLE:
            self.holder.verify()
            return self.api.delete(kind, name)
        is_there = False

        def attempt(live: Object | None) -> Object:
            nonlocal is_there
            is_there = live is not None and ours(live)
            if live is not None and is_there:
                read = {key: live["metadata"][key] for key in ("resourceVersion", "uid")}
                is_there = self.api.delete(kind, name, preconditions=read)
            return {}

        self._write(kind, name, attempt)
        return is_there

    def _write(self, kind: str, name: str, attempt: Callable[[Object | None], Object]) -> Object:
        """Read, judge, write; again from the start when the object changed in between."""
        for _ in range(TRIES):
            if (live := self.api.get(kind, name)) is not None:
                self.refuse_newer(kind, live)
            try:
                return attempt(live)
            except ApiError as problem:
                if problem.status != 409 or problem.causes:
                    raise
            # A controller writes down how far it is, several times a second in a rollout.
            time.sleep(PAUSE)
        raise TargetError(f"{kind}/{name} was changed by others {TRIES} times while it was written")

    def _create(self, wanted: Object, manager: str) -> Object:
        """A new object. Applying would change one that a newer holder has made in between."""
        # What is not there carries no number: the Lease is asked instead.
        self.holder.verify()
        return self.api.create(wanted, manager=manager)

    def _adopt(self, live: Object, manager: str) -> Object:
        """Own what was created as if it had been applied.

        Else a field that is no longer applied would stay.
        """
        metadata = live["metadata"]
        fields = metadata.get("managedFields") or []
        created = {"manager": manager, "operation": "Update"}
        if not any(created.items() <= entry.items() for entry in fields):
            return live
        owned = [
            {**entry, "operation": "Apply"} if created.items() <= entry.items() else entry
            for entry in fields
        ]
        change = {"resourceVersion": metadata["resourceVersion"], "managedFields": owned}
        return self.api.merge(live, {"metadata": change})


def _with(wanted: Object, **metadata: object) -> Object:
    annotations = metadata.pop("annotations", None)
    more = dict(wanted["metadata"])
    if isinstance(annotations, dict):
        more["annotations"] = {**(more.get("annotations") or {}), **annotations}
    return {**wanted, "metadata": {**more, **metadata}}
