"""Where the cluster's objects are not as they were applied."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from tandem.targets.kubernetes.api import Api
from tandem.targets.kubernetes.manifests import Object, name_of
from tandem.targets.kubernetes.settings import KubernetesSettings


def changed(
    api: Api, settings: KubernetesSettings, objects: list[Object], known: Mapping[str, Object]
) -> list[str]:
    """Where the cluster's objects differ from these, a line each.

    `known` are those that were read already.
    """
    lines = []
    for wanted in objects:
        name = name_of(wanted)
        live = known.get(name) or api.get(wanted["kind"], wanted["metadata"]["name"])
        if live is None:
            lines.append(f"{name} is gone")
            continue
        for line in differences(_comparable(wanted, settings), live):
            lines.append(f"{name} {line}")
    return lines


def _comparable(one: Object, settings: KubernetesSettings) -> Object:
    """What of an object must be as applied: not the replicas an autoscaler chooses."""
    if one["kind"] != "Deployment" or settings.max_replicas <= settings.replicas:
        return one
    spec = {key: value for key, value in one["spec"].items() if key != "replicas"}
    return {**one, "spec": spec}


def differences(wanted: Any, found: Any, where: str = "") -> list[str]:
    """Where a live object is not as it was applied, a line each.

    What the API server or others add beside is no difference, except more entries in a list: a
    container or a variable that somebody put in counts.
    """
    if isinstance(wanted, dict):
        if not isinstance(found, dict):
            return [f"{where}: {_short(wanted)} is {_short(found)}"]
        lines = []
        for key, value in wanted.items():
            lines += differences(value, found.get(key), f"{where}.{key}" if where else key)
        return lines
    if isinstance(wanted, list | tuple):
        if not isinstance(found, list):
            return [f"{where}: {_short(wanted)} is {_short(found)}"]
        return _list_differences(list(wanted), found, where)
    same = wanted == found or str(wanted) == str(found)
    return [] if same else [f"{where}: {_short(wanted)} is {_short(found)}"]


def _list_differences(wanted: list[Any], found: list[Any], where: str) -> list[str]:
    def key(item: Any, number: int) -> Any:
        return item.get("name", number) if isinstance(item, dict) else number

    lines = []
    there = {key(item, number): item for number, item in enumerate(found)}
    asked = {key(item, number): item for number, item in enumerate(wanted)}
    for name, item in asked.items():
        if name in there:
            lines += differences(item, there[name], f"{where}[{name}]")
        else:
            lines.append(f"{where}[{name}] is missing")
    lines += [f"{where}[{name}] was added" for name in there if name not in asked]
    return lines


def _short(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 80 else text[:77] + "..."
