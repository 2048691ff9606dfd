"""The criteria of the last release, kept beside the versions: a notebook judges by the same.

    models/NAME/criteria.json    what versions were judged by last; overwritten when that changes

Only what the release reads itself decides. The application's own held-out rows are not in it: who
could read them could train on them.
"""

from __future__ import annotations

import msgspec

from tandem.errors import Conflict, NotFound
from tandem.model.interface import Takes
from tandem.model.repository import Repository
from tandem.model.rules import AcceptanceRule, Criteria


class KeptCriteria(msgspec.Struct, frozen=True, kw_only=True):
    """The criteria without the application's rows; `own_rows` says that it has some."""

    rule: AcceptanceRule
    own_rows: bool = False
    takes: Takes | None = None
    lock: dict[str, str] | None = None
    champion: int | None = None
    trust: list[str] = []

    def criteria(self) -> Criteria:
        """What a notebook judges by."""
        return Criteria(
            rule=self.rule,
            takes=self.takes,
            lock=self.lock,
            champion=self.champion,
            trust=tuple(self.trust),
        )


def keep(repository: Repository, criteria: Criteria) -> None:
    """Keep what versions are judged by now, unless it is the same as before."""
    kept = KeptCriteria(
        rule=msgspec.structs.replace(criteria.rule, held_out=""),
        own_rows=bool(criteria.rule.held_out),
        takes=criteria.takes,
        lock=dict(criteria.lock) if criteria.lock is not None else None,
        champion=criteria.champion,
        trust=sorted(criteria.trust),
    )
    if kept_criteria(repository) == kept:
        return
    try:
        repository.store.put(_key(repository), msgspec.json.encode(kept))
    except Conflict:
        pass  # another release keeps its own, which is as new


def kept_criteria(repository: Repository) -> KeptCriteria | None:
    """What the last release judged by; None before the first one."""
    try:
        data, _ = repository.store.read(_key(repository))
        return msgspec.json.decode(data, type=KeptCriteria)
    except (NotFound, msgspec.MsgspecError):
        return None


def _key(repository: Repository) -> str:
    return f"{repository.prefix}/criteria.json"
