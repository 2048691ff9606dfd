"""Whether release record, target, registry and the service itself agree."""

from __future__ import annotations

import datetime

import msgspec

from tandem.errors import RegistryError, TargetError
from tandem.oci import Registry
from tandem.release.project import Project
from tandem.release.records import ReleaseRecord
from tandem.service import client
from tandem.service.probe import CONTRACT, Asked, ask_health
from tandem.targets import Live, Target


class Difference(msgspec.Struct, frozen=True):
    """One thing that is not as it was released; `str()` is a sentence."""

    where: str
    recorded: str
    found: str

    def __str__(self) -> str:
        return f"{self.where}: expected {self.recorded}, found {self.found}"


def compare(
    record: ReleaseRecord, target: Target, registry: Registry, asked: Asked = CONTRACT
) -> list[Difference]:
    """What differs from the release record, by hand or by accident.

    Nothing while a deploy is in progress: it puts another release there on purpose. Raises
    `TargetError` when the target cannot be asked at all.
    """
    live = target.current()
    if live and live.switching:
        return []
    differences = _differences(record, live, target, registry, asked)
    if not differences:
        return []
    # A deploy may have come in between: only what stays so is a difference.
    again = target.current()
    if _of(again) == _of(live):
        return differences
    return [] if again and again.switching else _differences(record, again, target, registry, asked)


def _of(live: Live | None) -> tuple[object, ...]:
    return (live.digest, live.release, live.since, live.switching) if live else ()


def _differences(
    record: ReleaseRecord,
    live: Live | None,
    target: Target,
    registry: Registry,
    asked: Asked,
) -> list[Difference]:
    name = f"release {record.number}"
    if live is None:
        return [Difference(target.name, name, "nothing")]
    differences = []

    def same(where: str, recorded: object, actual: object) -> None:
        if recorded != actual:
            differences.append(Difference(where, str(recorded), str(actual)))

    same(f"{target.name}, image", record.image, live.digest)
    for line in target.drift():
        differences.append(Difference(target.name, name, line))
    try:
        if registry.get_manifest(record.image) is None:
            differences.append(Difference(registry.url, record.image, "no such image"))
    except RegistryError as problem:
        differences.append(Difference(registry.url, record.image, str(problem)))
    if not asked.contract:
        # What it is, the target alone knows; whether it is well, it says.
        try:
            ask_health(live.url, asked.health)
        except TargetError as problem:
            differences.append(Difference(live.url, name, str(problem)))
        return differences
    try:
        version = client.version(live.url)
    except TargetError as problem:
        return [*differences, Difference(live.url, name, str(problem))]
    where = f"{live.url}/version"
    same(f"{where}, image", record.image, version.image.digest)
    same(f"{where}, commit", record.app.commit, version.app.commit)
    if record.model.is_none:
        return differences
    if version.model is None:
        return [*differences, Difference(f"{where}, model", record.model.digest, "none")]
    same(f"{where}, model", record.model.digest, version.model.digest)
    same(f"{where}, model version", record.model.version, version.model.version)
    return differences


def drift(project: Project) -> list[str]:
    """What is otherwise than the newest release recorded it, a sentence each.

    Compares the record, what the target runs, the registry, and what the service says of itself.
    Raises `TargetError` when the target cannot be asked.
    """
    record = project.ledger.releases.latest()
    if record is None:
        return []
    build = project.builds.of(record.app.tree)
    asked = build.asked if build else CONTRACT
    differences = compare(record, project.target, project.registry, asked)
    # Asked afterwards: a release may have gone live while all was compared.
    if differences and _is_being_recorded(project, record):
        return []
    return [str(difference) for difference in differences]


RECORDING_SECONDS = 600.0
"""How long after going live a release may be without its record before that is a difference."""


def _is_being_recorded(project: Project, last: ReleaseRecord) -> bool:
    """Whether what is live is a newer proven image that a release has just put there."""
    live = project.target.current()
    if live is None or live.digest == last.image:
        return False
    age = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(live.since)
    if age.total_seconds() > RECORDING_SECONDS:
        return False
    image = project.ledger.image(live.digest)
    return image is not None and image.good and image.number > last.image_number
