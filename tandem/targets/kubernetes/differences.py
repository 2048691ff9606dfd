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


def _comparable(wanted: Object, settings: KubernetesSettings) -> Object:
    """What of an object must be as applied: not the replicas an autoscaler chooses."""
    if wanted["kind"] != "Deployment" or settings.max_replicas <= settings.replicas:
        return wanted
    spec = {key: value for key, value in wanted["spec"].items() if key != "replicas"}
    return {**wanted, "spec": spec}


def differences(wanted: Any, live: Any, where: str = "") -> list[str]:
    """Where a live object is not as it was applied, a line each.

    What the API server or others add beside is no difference, except more entries in a list: a
    container or a variable that somebody put in counts.
    """
    if isinstance(wanted, dict):
        if not isinstance(live, dict):
            return [f"{where}: {_short(wanted)} is {_short(live)}"]
        lines = []
        for key, value in wanted.items():
            lines += differences(value, live.get(key), f"{where}.{key}" if where else key)
        return lines
    if isinstance(wanted, list | tuple):
        if not isinstance(live, list):
            return [f"{where}: {_short(wanted)} is {_short(live)}"]
        return _list_differences(list(wanted), live, where)
    same = wanted == live or str(wanted) == str(live)
    return [] if same else [f"{where}: {_short(wanted)} is {_short(live)}"]


def _list_differences(wanted: list[Any], live: list[Any], where: str) -> list[str]:
    def key(item: Any, number: int) -> Any:
        return item.get("name", number) if isinstance(item, dict) else number

    lines = []
    live_items = {key(item, number): item for number, item in enumerate(live)}
    wanted_items = {key(item, number): item for number, item in enumerate(wanted)}
    for name, item in wanted_items.items():
        if name in live_items:
            lines += differences(item, live_items[name], f"{where}[{name}]")
        else:
            lines.append(f"{where}[{name}] is missing")
    lines += [f"{where}[{name}] was added" for name in live_items if name not in wanted_items]
    return lines


def _short(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 80 else text[:77] + "..."
