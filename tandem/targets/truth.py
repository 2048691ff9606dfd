"""Whether the release record, the target, the registry and the service itself say the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from tandem import ask
from tandem.errors import RegistryError, TargetError
from tandem.oci import Registry
from tandem.targets import Target

if TYPE_CHECKING:
    from tandem.release import ReleaseRecord


class Difference(msgspec.Struct, frozen=True):
    """One thing that is not as it was released; `str()` is a sentence."""

    where: str
    recorded: str
    found: str

    def __str__(self) -> str:
        return f"{self.where}: released was {self.recorded}, found is {self.found}"


def compare(record: ReleaseRecord, target: Target, registry: Registry) -> list[Difference]:
    """What differs from the release record, by hand or by accident; empty when all is true.

    Raises `TargetError` when the target cannot be asked at all.
    """
    name = f"release {record.number}"
    live = target.current()
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
        said = ask.version(live.url)
    except TargetError as problem:
        return [*found, Difference(live.url, name, str(problem))]
    where = f"{live.url}/version"
    same(f"{where}, image", record.image, said.image.digest)
    same(f"{where}, commit", record.app.commit, said.app.commit)
    same(f"{where}, model", record.model.digest, said.model.digest)
    same(f"{where}, model version", record.model.version, said.model.version)
    return found
