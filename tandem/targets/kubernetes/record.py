"""What is remembered in the cluster of the last good release."""

from __future__ import annotations

import hashlib
import json

import msgspec

from tandem.contract import READY_PATH
from tandem.targets.kubernetes.api import Api
from tandem.targets.kubernetes.fence import Fence
from tandem.targets.kubernetes.manifests import MANAGER, PREFIX, RELEASE, Object
from tandem.targets.kubernetes.timeline import Moment

LIVE = PREFIX + "live"
"""On the Deployment: what was last known good, put there by a field manager of its own."""
LIVE_MANAGER = f"{MANAGER}-live"


class LastGood(msgspec.Struct, frozen=True, kw_only=True):
    """The release that was last known good here."""

    release: int
    digest: str
    reference: str
    since: str
    applied: str
    """The hash of its manifests, before any were left out."""
    health: str = READY_PATH
    names_its_image: bool = True
    left_out: list[str] = []
    """The objects whose API the cluster does not offer."""


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the last good release applied; holds no secret."""

    objects: list[Object] = []
    names: list[str] = []
    """Of every object that a deploy made here, also of one that was cut off."""
    timeline: list[Moment] = []
    good: LastGood | None = None
    login: str = ""
    """Tells the registry's login from another one, see `pull_secret.login_mark`."""


def record_name(app: str) -> str:
    """The ConfigMap that holds the record."""
    return f"{app}-{MANAGER}"


def read_record(api: Api, app: str) -> Record:
    """The record of the app; an empty one where there is none that can be read."""
    config_map = api.get("ConfigMap", record_name(app)) or {}
    text = (config_map.get("data") or {}).get("record", "")
    try:
        return msgspec.json.decode(text, type=Record)
    except msgspec.MsgspecError:
        return Record()


def write_record(fence: Fence, app: str, namespace: str, record: Record) -> None:
    """Remember `record`."""
    metadata = {
        "name": record_name(app),
        "namespace": namespace,
        "labels": {"app.kubernetes.io/managed-by": MANAGER},
    }
    data = {"record": msgspec.json.encode(record).decode()}
    config_map = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}
    fence.apply(config_map, force=True)


def mark_good(fence: Fence, app: str, good: LastGood) -> Object:
    """Write on the Deployment that it is good; returns it."""
    text = msgspec.json.encode(good).decode()
    metadata = {"name": app, "annotations": {LIVE: text}}
    deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata}
    return fence.apply(deployment, manager=LIVE_MANAGER, force=True)


def last_good(deployment: Object | None) -> LastGood | None:
    """The mark on the Deployment; None where there is none that can be read."""
    text = (((deployment or {}).get("metadata") or {}).get("annotations") or {}).get(LIVE, "")
    try:
        return msgspec.json.decode(text, type=LastGood)
    except msgspec.MsgspecError:
        return None


def release_of(deployment: Object | None) -> int:
    """The number of the release that was applied; 0 where none was."""
    metadata = (deployment or {}).get("spec", {}).get("template", {}).get("metadata", {})
    return int((metadata.get("annotations") or {}).get(RELEASE) or 0)


def hash_of(objects: list[Object]) -> str:
    """What tells these manifests from others."""
    return hashlib.sha256(json.dumps(objects, sort_keys=True).encode()).hexdigest()[:16]
