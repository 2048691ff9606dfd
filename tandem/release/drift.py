"""Whether the release record, the target, the registry and the service itself say the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from tandem.errors import RegistryError, TargetError
from tandem.oci import Registry
from tandem.service import client
from tandem.targets import Live, Target

if TYPE_CHECKING:
    from tandem.release.records import ReleaseRecord


class Difference(msgspec.Struct, frozen=True):
    """One thing that is not as it was released; `str()` is a sentence."""

    where: str
    recorded: str
    found: str

    def __str__(self) -> str:
        return f"{self.where}: released was {self.recorded}, found is {self.found}"


def compare(record: ReleaseRecord, target: Target, registry: Registry) -> list[Difference]:
    """What differs from the release record, by hand or by accident; empty when all is true.

    While a deploy is on nothing is said: it puts another release there on purpose. Raises
    `TargetError` when the target cannot be asked at all.
    """
    live = target.current()
    if live and live.switching:
        return []
    found = _differences(record, live, target, registry)
    if not found:
        return []
    # Found true or not while a deploy came in between: only what stays so is a difference.
    again = target.current()
    if _of(again) == _of(live):
        return found
    return [] if again and again.switching else _differences(record, again, target, registry)


def _of(live: Live | None) -> tuple[object, ...]:
    return (live.digest, live.release, live.since, live.switching) if live else ()


def _differences(
    record: ReleaseRecord, live: Live | None, target: Target, registry: Registry
) -> list[Difference]:
    name = f"release {record.number}"
    if live is None:
        return [Difference(target.name, name, "nothing")]
    found = []

    def same(where: str, recorded: object, said: object) -> None:
        if recorded != said:
            found.append(Difference(where, str(recorded), str(said)))

    same(f"{target.name}, image", record.image, live.digest)
    for line in target.drift():
        found.append(Difference(target.name, name, line))
    try:
        if registry.get_manifest(record.image) is None:
            found.append(Difference(registry.url, record.image, "no such image"))
    except RegistryError as problem:
        found.append(Difference(registry.url, record.image, str(problem)))
    try:
        said = client.version(live.url)
    except TargetError as problem:
        return [*found, Difference(live.url, name, str(problem))]
    where = f"{live.url}/version"
    same(f"{where}, image", record.image, said.image.digest)
    same(f"{where}, commit", record.app.commit, said.app.commit)
    same(f"{where}, model", record.model.digest, said.model.digest)
    same(f"{where}, model version", record.model.version, said.model.version)
    return found
