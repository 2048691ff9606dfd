"""When a rollout is whole, and when it cannot get there."""

from __future__ import annotations

from typing import Any

import pytest

from tandem.errors import ImageFault
from tandem.targets.kubernetes.rollout import status_of, stuck, unschedulable


def deployment(generation: int = 2, conditions: Any = (), **status: int) -> dict[str, Any]:
    whole = {
        "observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2,
    }  # fmt: skip
    return {
        "metadata": {"generation": generation},
        "spec": {"replicas": 2},
        "status": {**whole, **status, "conditions": list(conditions)},
    }


@pytest.mark.parametrize(
    ("found", "waiting_for"),
    [
        (deployment(), ""),
        (deployment(generation=3), "the controller to see it"),
        (deployment(updatedReplicas=1), "1 of 2 new pods made"),
        (deployment(replicas=3), "1 old pods to go"),
        (deployment(availableReplicas=1), "1 of 2 new pods available"),
    ],
)
def test_it_is_whole_when_kubectl_says_so(found: dict[str, Any], waiting_for: str) -> None:
    assert status_of(found).waiting_for == waiting_for
    assert not status_of(found).stopped


def test_a_passed_deadline_and_pods_that_cannot_be_made_stop_it() -> None:
    late = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}
    quota = {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota"}
    assert "deadline" in status_of(deployment(conditions=[late])).stopped
    assert "exceeded quota" in status_of(deployment(conditions=[quota])).stopped
    # Of the generation before: says nothing about this one.
    assert not status_of(deployment(generation=3, conditions=[late])).stopped


def pod(reason: str = "", message: str = "", template: str = "new", **more: Any) -> dict[str, Any]:
    waiting = {"waiting": {"reason": reason, "message": message}} if reason else {"running": {}}
    return {
        "metadata": {
            "name": "pod-1", "annotations": {"tandem.dev/release": "7"},
            "labels": {"pod-template-hash": template},
            **more.pop("metadata", {}),
        },
        "status": {"containerStatuses": [{"state": waiting, **more}], "conditions": []},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (pod("ImagePullBackOff", "manifest for x not found: manifest unknown"), "cannot be pulled"),
        (pod("ErrImagePull", "no basic auth credentials"), "no basic auth credentials"),
        (pod("InvalidImageName", "couldn't parse"), "cannot be started"),
        (pod("CreateContainerConfigError", 'secret "x" not found'), 'secret "x" not found'),
        (
            pod("CrashLoopBackOff", lastState={"terminated": {"exitCode": 1}}),
            r"stops as soon as it starts (exit code 1)",
        ),
        (
            pod("CrashLoopBackOff", lastState={"terminated": {"reason": "OOMKilled"}}),
            "out of memory",
        ),
    ],
)
def test_what_cannot_heal_is_found(found: dict[str, Any], why: str) -> None:
    said = stuck([found], "new")
    assert said and why in said.why


@pytest.mark.parametrize(
    "found",
    [
        pod(),
        pod("ContainerCreating"),
        pod("ErrImagePull", "dial tcp: i/o timeout"),
        pod("CrashLoopBackOff", template="of a try before"),
        pod("CrashLoopBackOff", metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"}),
    ],
)
def test_what_may_heal_or_is_not_of_this_release_is_waited_for(found: dict[str, Any]) -> None:
    assert stuck([found], "new") is None


@pytest.mark.parametrize(
    ("ended", "of_the_image"),
    [
        ({"exitCode": 1}, True),
        ({"exitCode": 137, "reason": "OOMKilled"}, True),
        ({"exitCode": 137, "reason": "Error"}, False),
        ({"exitCode": 143, "reason": "Error"}, False),
    ],
)
def test_only_what_ends_by_itself_is_the_image_s_fault(
    ended: dict[str, Any], of_the_image: bool
) -> None:
    said = stuck([pod("CrashLoopBackOff", lastState={"terminated": ended})], "new")
    assert said and (said.fault is ImageFault) is of_the_image


def test_a_pod_without_a_node_is_named_with_the_reason() -> None:
    found = pod()
    found["status"]["conditions"] = [{"reason": "Unschedulable", "message": "Insufficient cpu"}]
    assert unschedulable([found], "new") == ("pod-1", "Insufficient cpu")
    assert unschedulable([found], "other") is None


def test_before_the_controller_has_seen_the_template_no_pod_is_of_it() -> None:
    assert stuck([pod("CrashLoopBackOff")], "") is None
