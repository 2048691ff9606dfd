"""Pods for people: which are ready, what they logged, what was noted of them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from tandem.errors import TargetError
from tandem.targets.kubernetes.api import Api
from tandem.targets.kubernetes.manifests import RELEASE, Object

LOG_LINES = 12


def pods_of(api: Api, app: str) -> list[Object]:
    """All pods of the app, those too that are on their way out."""
    pods: list[Object] = api.list("Pod", label=f"app.kubernetes.io/instance={app}")["items"]
    return pods


def image_of(spec: Object) -> str:
    """The image of the service in a pod's specification."""
    image: str = next(c["image"] for c in spec["containers"] if c["name"] == "service")
    return image


def is_ready(pod: Object) -> bool:
    """Whether it may be asked, and is not on its way out."""
    conditions = (pod.get("status") or {}).get("conditions") or []
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
    return ready and not pod["metadata"].get("deletionTimestamp")


def evidence(api: Api, pod: str, restarted: bool) -> str:
    """The pod's last log lines and its warnings, to end an error with."""
    log = api.log(pod, lines=LOG_LINES, previous=restarted) or (
        api.log(pod, lines=LOG_LINES, previous=False) if restarted else ""
    )
    warnings = [line for line in events(api, pod) if line.startswith("Warning")]
    text = f"; pod {pod}"
    if log:
        text += f" logged last:\n{log}"
    if warnings:
        text += ("\n" if log else " ") + "events:\n" + "\n".join(warnings[-5:])
    return text


def events(api: Api, name: str) -> list[str]:
    """What the cluster noted about one object, oldest first.

    Empty where that may not be read.
    """
    try:
        noted = api.list("Event", field=f"involvedObject.name={name}")["items"]
    except TargetError:
        return []
    noted.sort(key=lambda event: event.get("lastTimestamp") or event.get("eventTime") or "")
    return [_line(event) for event in noted]


def _line(event: Object) -> str:
    message = " ".join((event.get("message") or "").split())
    times = f" (x{event['count']})" if event.get("count", 1) > 1 else ""
    return f"{event.get('type', '')} {event.get('reason', '')}: {message}{times}"


def describe(pod: Object) -> dict[str, Any]:
    """A pod for a table: age in seconds."""
    status = pod.get("status") or {}
    containers = status.get("containerStatuses") or [{}]
    created = datetime.fromisoformat(pod["metadata"]["creationTimestamp"].replace("Z", "+00:00"))
    annotations = pod["metadata"].get("annotations") or {}
    return {
        "name": pod["metadata"]["name"],
        "release": int(annotations.get(RELEASE) or 0),
        "ready": is_ready(pod),
        "restarts": containers[0].get("restartCount", 0),
        "age": int((datetime.now(UTC) - created).total_seconds()),
        "node": pod["spec"].get("nodeName", ""),
        "ending": bool(pod["metadata"].get("deletionTimestamp")),
    }
