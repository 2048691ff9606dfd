"""Waiting for a Deployment as kubectl does, and no longer for what cannot heal."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from tandem.errors import ImageFault, TargetError
from tandem.targets.kubernetes.api import Api
from tandem.targets.kubernetes.manifests import RELEASE, Object
from tandem.targets.kubernetes.pods import evidence, is_ready
from tandem.targets.kubernetes.timeline import Timeline

LOOK = 5.0
"""Seconds without news after which the Deployment is read: a watch may have gone silent."""
UNSCHEDULABLE = 30.0
"""Seconds a pod may wait for a node: time for an autoscaler to say that it makes one."""
KILLED = (137, 143)
"""What a container exits with after SIGKILL and SIGTERM."""
REVISION = "deployment.kubernetes.io/revision"
HASH = "pod-template-hash"
CANNOT_PULL = ("not found", "unknown", "unauthorized", "denied", "no basic auth", "authentication",
               "forbidden", "invalid reference")  # fmt: skip
CANNOT_START = {"InvalidImageName", "CreateContainerConfigError", "CreateContainerError",
                "ErrImageNeverPull", "RunContainerError"}  # fmt: skip


class RolloutStatus(msgspec.Struct, frozen=True):
    """How far a rollout is.

    `waiting_for` is empty when it is whole, `stopped` says why it cannot be.
    """

    waiting_for: str = ""
    stopped: str = ""


class Stuck(msgspec.Struct, frozen=True):
    """A pod that will not get ready by itself."""

    pod: str
    why: str
    restarted: bool = False
    fault: type[TargetError] = TargetError
    """`ImageFault` where it is the image's."""


def status_of(deployment: Object) -> RolloutStatus:
    """What `kubectl rollout status` says.

    The rule is that of k8s.io/kubectl/pkg/polymorphichelpers/rollout_status.go.
    """
    wanted = deployment["spec"].get("replicas", 1)
    status = deployment.get("status") or {}
    if status.get("observedGeneration", 0) < deployment["metadata"]["generation"]:
        return RolloutStatus("the controller to see it")
    for condition in status.get("conditions") or []:
        if condition.get("reason") == "ProgressDeadlineExceeded":
            return RolloutStatus(stopped="it made no progress within its deadline")
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            return RolloutStatus(stopped=f"pods cannot be made: {condition.get('message', '')}")
    updated, total = status.get("updatedReplicas", 0), status.get("replicas", 0)
    available = status.get("availableReplicas", 0)
    if updated < wanted:
        return RolloutStatus(f"{updated} of {wanted} new pods made")
    if total > updated:
        return RolloutStatus(f"{total - updated} old pods to go")
    if available < updated:
        return RolloutStatus(f"{available} of {updated} new pods available")
    return RolloutStatus()


def stuck(pods: Iterable[Object], ours: str) -> Stuck | None:
    """The first pod of that template hash that cannot get ready by itself, and why."""
    for pod in pods:
        if not _is_of(pod, ours) or pod["metadata"].get("deletionTimestamp"):
            continue
        name = pod["metadata"]["name"]
        for container in (pod.get("status") or {}).get("containerStatuses") or []:
            waiting = (container.get("state") or {}).get("waiting") or {}
            reason, message = waiting.get("reason", ""), waiting.get("message", "")
            if reason in ("ErrImagePull", "ImagePullBackOff"):
                if any(word in message.lower() for word in CANNOT_PULL):
                    return Stuck(name, f"the image cannot be pulled: {_pull_message(message)}")
            elif reason in CANNOT_START:
                return Stuck(name, f"the container cannot be started: {reason}: {message}")
            elif reason == "CrashLoopBackOff":
                return Stuck(
                    name,
                    f"the service stops as soon as it starts{_code(container)}",
                    restarted=True,
                    fault=_fault(container),
                )
    return None


def unschedulable(pods: Iterable[Object], ours: str) -> tuple[str, str] | None:
    """A pod of that template hash without a node, and what the scheduler says."""
    for pod in pods:
        for condition in (pod.get("status") or {}).get("conditions") or []:
            if condition.get("reason") == "Unschedulable" and _is_of(pod, ours):
                return pod["metadata"]["name"], condition.get("message", "")
    return None


class Revisions:
    """Which pods are of a Deployment's newest template.

    A release number does not tell: a try that failed and the next one share it.
    """

    def __init__(self, api: Api, app: str) -> None:
        self.api = api
        self.app = app
        self._known: tuple[tuple[str, int, str], str] | None = None

    def hash_of(self, deployment: Object) -> str:
        """The `pod-template-hash` of its pods; empty until the controller has seen it.

        Its ReplicaSet of the same revision has it; asked once for each revision.
        """
        metadata = deployment["metadata"]
        observed = (deployment.get("status") or {}).get("observedGeneration", 0)
        revision = (metadata.get("annotations") or {}).get(REVISION, "")
        if not revision or observed < metadata["generation"]:
            return ""
        key = (metadata["uid"], metadata["generation"], revision)
        if self._known is None or self._known[0] != key:
            listed = self.api.list("ReplicaSet", label=f"app.kubernetes.io/instance={self.app}")
            hashes = [
                replica_set["metadata"]["labels"][HASH]
                for replica_set in listed["items"]
                if _owns(key, replica_set)
            ]
            if not hashes:
                return ""
            self._known = (key, hashes[0])
        return self._known[1]


def _owns(key: tuple[str, int, str], replica_set: Object) -> bool:
    uid, _, revision = key
    metadata = replica_set["metadata"]
    owners = [owner["uid"] for owner in metadata.get("ownerReferences") or []]
    annotations = metadata.get("annotations") or {}
    return uid in owners and annotations.get(REVISION) == revision


def _is_of(pod: Object, ours: str) -> bool:
    labels = pod["metadata"].get("labels") or {}
    return bool(ours) and labels.get(HASH) == ours


def _pull_message(message: str) -> str:
    # The kubelet wraps the registry's words in its own, several times.
    return message.removeprefix("rpc error: code = Unknown desc = ").strip()


def _fault(container: Object) -> type[TargetError]:
    """Whose fault it is that a container ended: its own, or of what killed it."""
    last = (container.get("lastState") or {}).get("terminated") or {}
    killed = last.get("exitCode") in KILLED and last.get("reason") != "OOMKilled"
    return TargetError if killed else ImageFault


def _code(container: Object) -> str:
    last = (container.get("lastState") or {}).get("terminated") or {}
    if last.get("reason") == "OOMKilled":
        return " (out of memory)"
    return f" (exit code {last['exitCode']})" if "exitCode" in last else ""


def wait(
    api: Api,
    app: str,
    release: int,
    *,
    deadline: float,
    timeline: Timeline,
    still_ours: Callable[[Object], None],
) -> list[Object]:
    """Wait until the Deployment is whole with pods of that release; gives its pods.

    `still_ours` sees each state of the Deployment, and raises when it is not. Raises
    `TargetError` with the pod's last log lines and warnings when it stops, or cannot.
    """
    news: queue.Queue[tuple[str, Any]] = queue.Queue()
    ended = threading.Event()
    selectors = {"Deployment": {"field": f"metadata.name={app}"},
                 "Pod": {"label": f"app.kubernetes.io/instance={app}"}}  # fmt: skip
    threads = [
        threading.Thread(target=_follow, args=(api, kind, chosen, news, ended), daemon=True)
        for kind, chosen in selectors.items()
    ]
    for thread in threads:
        thread.start()
    try:
        return _watch(api, app, release, deadline, timeline, news, still_ours)
    finally:
        ended.set()
        api.hang_up()
        for thread in threads:
            thread.join(timeout=2)


def _follow(
    api: Api, kind: str, chosen: dict[str, str], news: queue.Queue[Any], ended: threading.Event
) -> None:
    """List, then watch, until ended.

    Each list replaces what was known, each event one object.
    """
    while not ended.is_set():
        try:
            listed = api.list(kind, **chosen)
            news.put((f"all {kind}", listed["items"]))
            for event in api.watch(kind, listed["metadata"]["resourceVersion"], ended, **chosen):
                news.put((f"{event['type']} {kind}", event["object"]))
        except TargetError as problem:
            news.put(("error", problem))
            return


def _watch(
    api: Api, app: str, release: int, deadline: float, timeline: Timeline, news: queue.Queue[Any],
    still_ours: Callable[[Object], None],
) -> list[Object]:  # fmt: skip
    revisions = Revisions(api, app)
    pods: dict[str, Object] = {}
    deployment: Object | None = None
    no_node_since = 0.0
    # The Deployment's own deadline comes first, with a better reason.
    end = time.monotonic() + deadline + 15
    while True:
        try:
            what, seen = news.get(timeout=LOOK)
        except queue.Empty:
            what, seen = "MODIFIED Deployment", api.get("Deployment", app)
            if seen is None:
                what = "DELETED Deployment"
        if what == "error":
            raise seen
        if what == "DELETED Deployment":
            raise TargetError(f"Deployment/{app} was deleted by somebody")
        if what == "all Pod":
            pods = {pod["metadata"]["name"]: pod for pod in seen}
        elif what == "DELETED Pod":
            pods.pop(seen["metadata"]["name"], None)
        elif what.endswith("Pod"):
            pods[seen["metadata"]["name"]] = seen
        elif what == "all Deployment":
            deployment = seen[0] if seen else deployment
        else:
            deployment = seen
        if deployment is None:
            continue
        still_ours(deployment)
        template = deployment["spec"]["template"]["metadata"].get("annotations") or {}
        if template.get(RELEASE) != str(release):
            raise TargetError(f"Deployment/{app} was changed by somebody during the rollout")
        status = status_of(deployment)
        ours = revisions.hash_of(deployment)
        if not status.waiting_for and not status.stopped:
            mine = [pod for pod in pods.values() if _is_of(pod, ours) and is_ready(pod)]
            if len(mine) >= deployment["spec"].get("replicas", 1):
                return mine
            status = RolloutStatus("the pods to be seen ready")
        if found_stuck := stuck(pods.values(), ours):
            raise found_stuck.fault(
                f"{found_stuck.why}{evidence(api, found_stuck.pod, found_stuck.restarted)}"
            )
        if status.stopped:
            unready = next((n for n, p in pods.items() if _is_of(p, ours) and not is_ready(p)), "")
            raise TargetError(f"{status.stopped}{evidence(api, unready, False) if unready else ''}")
        if no_node := unschedulable(pods.values(), ours):
            no_node_since = no_node_since or time.monotonic()
            if time.monotonic() - no_node_since > UNSCHEDULABLE:
                raise TargetError(f"there is no node for pod {no_node[0]}: {no_node[1]}")
            timeline.say(f"waiting for a node for {no_node[0]}: {no_node[1]}")
        else:
            no_node_since = 0.0
            timeline.say(f"waiting for {status.waiting_for}{_phases(pods.values(), ours)}")
        if time.monotonic() > end:
            raise TargetError(f"still waiting for {status.waiting_for} after {deadline:.0f} s")


def _phases(pods: Iterable[Object], ours: str) -> str:
    """What the new pods that are not ready are at."""
    at = []
    for pod in pods:
        if _is_of(pod, ours) and not is_ready(pod) and not pod["metadata"].get("deletionTimestamp"):
            containers = (pod.get("status") or {}).get("containerStatuses") or [{}]
            waiting = (containers[0].get("state") or {}).get("waiting") or {}
            running = (containers[0].get("state") or {}).get("running")
            at.append(
                waiting.get("reason") or ("running, not ready yet" if running else "scheduling")
            )
    return f" ({', '.join(sorted(set(at)))})" if at else ""
