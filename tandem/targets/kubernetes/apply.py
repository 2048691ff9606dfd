"""Applying a release's objects: what others changed is taken back, and reported."""

from __future__ import annotations

import re

from tandem.targets.kubernetes.api import Api, ApiError
from tandem.targets.kubernetes.differences import differences
from tandem.targets.kubernetes.fence import Fence
from tandem.targets.kubernetes.manifests import MANAGER, Object, name_of
from tandem.targets.kubernetes.settings import KubernetesSettings
from tandem.targets.kubernetes.timeline import Timeline


def offered(api: Api, objects: list[Object]) -> tuple[list[Object], list[str]]:
    """The objects whose API this server has, and a note for each one that is left out."""
    groups = api.groups()
    known = [candidate for candidate in objects if candidate["apiVersion"] in groups]
    notes = [
        f"left out {name_of(candidate)}: this cluster does not offer {candidate['apiVersion']}"
        for candidate in objects
        if candidate not in known
    ]
    return known, notes


def with_replicas(
    objects: list[Object], settings: KubernetesSettings, live: Object | None
) -> list[Object]:
    """With as many replicas as an autoscaler wants now: it is never fought."""
    if not any(candidate["kind"] == "HorizontalPodAutoscaler" for candidate in objects):
        return objects
    count = ((live or {}).get("spec") or {}).get("replicas") or settings.replicas
    count = min(max(count, settings.replicas), settings.max_replicas)
    return [_replicated(candidate, count) for candidate in objects]


def delete(fence: Fence, name: str) -> bool:
    """Delete `Kind/name`, unless a person made it; whether there was one."""
    kind, _, what = name.partition("/")
    return fence.delete(kind, what, ours=_is_ours)


def prune(fence: Fence, timeline: Timeline, names: list[str], kept: list[Object]) -> None:
    """Delete what an earlier release had and this one has not."""
    for name in names:
        if name not in set(map(name_of, kept)) and delete(fence, name):
            timeline.say(f"removed {name}, which this release no longer has")


class Applying:
    """The writes of one deploy of one app."""

    def __init__(self, api: Api, app: str, timeline: Timeline, fence: Fence) -> None:
        self.api = api
        self.app = app
        self.timeline = timeline
        self.fence = fence

    def apply(self, objects: list[Object]) -> None:
        """Apply all, taking back fields that others changed, and saying so."""
        for wanted in objects:
            if wanted["kind"] == "Deployment":
                self._take_out(wanted)
            try:
                self.fence.apply(wanted)
            except ApiError as problem:
                if problem.status != 409 or not problem.causes:
                    raise
                self.fence.apply(self._settle(wanted, problem), force=True)
        self.timeline.say(f"applied {', '.join(map(name_of, objects))}")

    def _take_out(self, wanted: Object) -> None:
        """Replace the pods' template where others added to it: applying would leave it."""

        def without(live: Object) -> Object | None:
            lines = differences(wanted["spec"]["template"], live["spec"]["template"])
            added = [line for line in lines if line.endswith(" was added")]
            if not added:
                return None
            self.timeline.say(f"taking out of {name_of(wanted)}: {'; '.join(added)}")
            return {**live, "spec": {**live["spec"], "template": wanted["spec"]["template"]}}

        self.fence.change("Deployment", self.app, without)

    def _settle(self, wanted: Object, problem: ApiError) -> Object:
        """Decide a conflict: an autoscaler keeps its replicas, all else is taken back."""
        settled = wanted
        for cause in problem.causes:
            field, message = cause.get("field", ""), cause.get("message", "")
            by = (re.search(r'conflict with "([^"]+)"', message) or ["", "somebody"])[1]
            if by.startswith(MANAGER):
                continue
            if field == ".spec.replicas" and self._is_autoscaled(by):
                live = self.api.get("Deployment", self.app) or settled
                settled = _replicated(settled, live["spec"]["replicas"])
                self.timeline.say(f"kept {live['spec']['replicas']} replicas, as {by} wants")
            else:
                self.timeline.say(f"took back {field} of {name_of(settled)} from {by}")
        return settled

    def _is_autoscaled(self, manager: str) -> bool:
        if manager == "kube-controller-manager":
            return True
        try:
            autoscalers = self.api.list("HorizontalPodAutoscaler")["items"]
        except ApiError:
            return False
        return any(
            (autoscaler["spec"].get("scaleTargetRef") or {}).get("name") == self.app
            for autoscaler in autoscalers
        )


def _replicated(candidate: Object, count: int) -> Object:
    if candidate["kind"] != "Deployment":
        return candidate
    return {**candidate, "spec": {**candidate["spec"], "replicas": count}}


def _is_ours(live: Object) -> bool:
    """A person may have an object of that name."""
    labels = live["metadata"].get("labels") or {}
    return bool(labels.get("app.kubernetes.io/managed-by") == MANAGER)
