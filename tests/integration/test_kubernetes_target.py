"""`k8s://`: releases on a real cluster, reached through its load balancer; failures, conflicts,
kills, and load."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import yaml
from support import cluster_image
from support.load import Astray, Load, Wrk
from support.services import require

from tandem.errors import ImageFault, SettingError, TargetError
from tandem.release.drift import compare
from tandem.release.records import AppRef, ModelRef
from tandem.service import client
from tandem.targets import DeployRequest, Live, open_target
from tandem.targets.kubernetes import rollout
from tandem.targets.kubernetes.api import Api
from tandem.targets.kubernetes.fence import Fence, Superseded
from tandem.targets.kubernetes.lease import Lease, is_dead
from tandem.targets.kubernetes.pods import pods_of
from tandem.targets.kubernetes.settings import KubernetesSettings
from tandem.targets.kubernetes.target import KubernetesTarget
from tandem.targets.local.runner import wait_until

ROOT = Path(__file__).parents[2]
# One after the other: they share an engine, and this machine has few processors.
pytestmark = pytest.mark.xdist_group("kubernetes")
QUIET = KubernetesSettings(replicas=1, drain_seconds=2, cpu="10m", memory="32Mi")
REPOSITORY = "tests/small"


def kubectl(*words: str, given: str | None = None) -> str:
    done = subprocess.run(
        ["kubectl", *words], input=given, capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.fixture(autouse=True)
def login(monkeypatch: pytest.MonkeyPatch) -> None:
    for service in ("kubernetes", "registry", "base-image"):
        require(service)
    monkeypatch.setenv("TANDEM_REGISTRY", f"{os.environ['REGISTRY']}/{REPOSITORY}")
    monkeypatch.setenv("TANDEM_REGISTRY_USERNAME", os.environ["REGISTRY_USERNAME"])
    monkeypatch.setenv("TANDEM_REGISTRY_PASSWORD", os.environ["REGISTRY_PASSWORD"])


@pytest.fixture
def namespace() -> Iterator[str]:
    require("kubernetes")
    name = f"tandem-test-{secrets.token_hex(4)}"
    kubectl("create", "namespace", name)
    yield name
    kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def target(namespace: str, tmp_path: Path) -> KubernetesTarget:
    return made(namespace, tmp_path)


def made(namespace: str, tmp_path: Path, settings: KubernetesSettings = QUIET) -> KubernetesTarget:
    host = f"{namespace}.cloudapp.test"
    changed = {name: getattr(settings, name) for name in settings.__struct_fields__}
    found = open_target(
        f"k8s:///{namespace}", state=tmp_path, app="small",
        settings=KubernetesSettings(**{**changed, "host": settings.host or host}),
    )  # fmt: skip
    assert isinstance(found, KubernetesTarget)
    return found


def deploy(
    target: KubernetesTarget, word: str, release: int, *, said: list[str] | None = None,
    digest: str = "", check: Any = None, live: Live | None = None,
) -> Live:  # fmt: skip
    digest = digest or cluster_image.small(word)
    request = DeployRequest(
        app="small", release=release, registry=cluster_image.registry(), digest=digest,
        annotations={"tandem.app.commit": "c" * 40}, deadline=60,
    )  # fmt: skip

    def answers(url: str) -> None:
        client.check_version(url, digest=digest)

    def progress(line: str) -> None:
        print(line)
        if said is not None:
            said.append(line)

    return target.deploy(request, check=check or answers, progress=progress, live=live)


def still_ending() -> list[str]:
    """The pods in namespaces that are being deleted."""

    def found(*what: str) -> Any:
        return json.loads(kubectl("get", *what, "-o", "json"))["items"]

    ending = {
        each["metadata"]["name"]
        for each in found("namespaces")
        if each["status"]["phase"] == "Terminating"
    }
    return [
        f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
        for pod in found("pods", "--all-namespaces")
        if pod["metadata"]["namespace"] in ending
    ]


def word_at(url: str) -> str:
    return client.version(url).model.digest.removeprefix("sha256:")


def test_a_release_is_reached_by_name_and_the_same_one_again_changes_nothing(
    target: KubernetesTarget, namespace: str
) -> None:
    said: list[str] = []
    live = deploy(target, "one", 1, said=said)
    assert live.url == f"http://{namespace}.cloudapp.test"
    assert word_at(live.url) == "one"
    assert live.digest == cluster_image.small("one") and live.release == 1
    assert any("PodDisruptionBudget" in line for line in said) is (QUIET.replicas > 1)
    assert [pod["ready"] for pod in live.detail["pods"]] == [True]
    assert live.detail["timeline"][-1]["what"] == "release 1 is live"
    assert target.drift() == []

    found = json.loads(kubectl("-n", namespace, "get", "deployment", "small", "-o", "json"))
    generation = found["metadata"]["generation"]
    assert found["metadata"]["annotations"]["tandem.dev/app.commit"] == "c" * 40
    target.api.requests = 0
    before = target.current()
    again = deploy(target, "one", 1, live=before)
    assert target.api.requests <= 5
    assert before and again.since == before.since == live.since
    found = json.loads(kubectl("-n", namespace, "get", "deployment", "small", "-o", "json"))
    assert found["metadata"]["generation"] == generation

    shown = target.details()
    assert shown["pods"] and shown["timeline"] and shown["events"]
    for line in target.kubectl():
        if "rollout status" in line or "get pods" in line:
            subprocess.run(line.split(), check=True, capture_output=True)


def test_the_password_of_the_registry_is_in_the_secret_and_nowhere_else(
    target: KubernetesTarget, namespace: str
) -> None:
    said: list[str] = []
    live = deploy(target, "one", 1, said=said)
    request = DeployRequest(
        app="small", release=1, registry=cluster_image.registry(), digest=live.digest
    )
    password = os.environ["REGISTRY_PASSWORD"]
    shown = [*said, target.manifests(request), str(live.detail), str(target.details())]
    kinds = "deployment,service,configmap,serviceaccount,networkpolicy,lease,replicaset,pod"
    shown.append(kubectl("-n", namespace, "get", kinds, "-o", "json"))
    assert not any(password in text for text in shown)
    secret = json.loads(kubectl("-n", namespace, "get", "secret", "small-registry", "-o", "json"))
    assert secret["type"] == "kubernetes.io/dockerconfigjson"
    # What is printed is what is applied, but for the holder's number: the server finds no
    # difference.
    printed = list(yaml.safe_load_all(target.manifests(request)))
    for one in printed:
        one["metadata"].setdefault("annotations", {})["tandem.dev/fence"] = "1"
    changed = subprocess.run(
        ["kubectl", "diff", "--server-side", "--field-manager=tandem", "-f", "-"],
        input="\n---\n".join(
            yaml.safe_dump(one)
            for one in printed
            if one["kind"] in ("Service", "NetworkPolicy", "ServiceAccount")
        ),
        capture_output=True, text=True,
    )  # fmt: skip
    assert changed.returncode == 0, changed.stdout + changed.stderr


def test_a_new_password_of_the_registry_reaches_the_secret_and_restarts_nothing(
    target: KubernetesTarget, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = deploy(target, "one", 1)
    monkeypatch.setenv("TANDEM_REGISTRY_PASSWORD", "rotated")
    said: list[str] = []
    again = deploy(target, "one", 1, said=said)
    assert "wrote the registry's new login to Secret/small-registry" in said
    secret = json.loads(kubectl("-n", namespace, "get", "secret", "small-registry", "-o", "json"))
    data = json.loads(base64.b64decode(secret["data"][".dockerconfigjson"]))
    assert [each["password"] for each in data["auths"].values()] == ["rotated"]
    assert again.since == first.since
    pods = [pod["metadata"]["name"] for pod in pods_of(target.api, target.app)]
    assert pods == [pod["name"] for pod in first.detail["pods"]]
    before = versions(namespace)
    said.clear()
    deploy(target, "one", 1, said=said)
    assert versions(namespace) == before, "not even the Lease is written when all is as it was"
    assert "rotated" not in str(said) + kubectl("-n", namespace, "get", "configmap", "-o", "json")


@pytest.mark.parametrize(
    ("word", "why"),
    [("crash", r"stops as soon as it starts(.|\n)*the model is broken"), ("missing", "not found")],
)
def test_a_release_that_cannot_start_is_undone_and_says_both(
    target: KubernetesTarget, word: str, why: str
) -> None:
    first = deploy(target, "one", 1)
    digest = "sha256:" + "0" * 64 if word == "missing" else ""
    with pytest.raises(TargetError, match=rf"release 2 did not go live: (.|\n)*{why}") as caught:
        deploy(target, word, 2, digest=digest)
    assert "release 1 is live again" in str(caught.value)
    assert isinstance(caught.value, ImageFault) is (word == "crash")
    live = target.current()
    assert live and live.digest == first.digest and live.since == first.since
    assert word_at(live.url) == "one"
    assert target.drift() == []


def test_a_release_that_answers_wrongly_is_undone(target: KubernetesTarget) -> None:
    url = deploy(target, "one", 1).url

    def check(url: str) -> None:
        raise TargetError("wrong answer")

    with pytest.raises(TargetError, match="wrong answer; release 1 is live again"):
        deploy(target, "two", 2, check=check)
    assert word_at(url) == "one"


def test_a_first_release_that_fails_leaves_nothing_running(target: KubernetesTarget) -> None:
    with pytest.raises(TargetError, match="nothing was live before, and nothing is now"):
        deploy(target, "crash", 1)
    assert target.current() is None
    assert target.api.get("Deployment", "small") is None


def test_when_the_previous_release_is_bad_too_it_says_so(
    target: KubernetesTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy(target, "one", 1)

    def check(url: str) -> None:
        monkeypatch.setattr("tandem.targets.kubernetes.answers.ANSWER_WAIT", 0.5)
        # From here on nothing answers any more, not even what was good before.
        service = {"spec": {"selector": {"app.kubernetes.io/name": "nobody"}}}
        kubectl("-n", target.namespace, "patch", "service", "small", "-p", json.dumps(service))
        monkeypatch.setattr("tandem.targets.kubernetes.apply.Applying.apply", lambda *_: None)
        raise TargetError("wrong answer")

    with pytest.raises(TargetError, match=r"wrong answer.*release 1 could not be put back"):
        deploy(target, "two", 2, check=check)


def test_a_registry_that_refuses_is_found_early(namespace: str, tmp_path: Path) -> None:
    settings = KubernetesSettings(replicas=1, pull_secret="none")
    target = made(namespace, tmp_path, settings)
    # An image that no earlier test left on the node.
    digest = cluster_image.small(f"never-pulled-{secrets.token_hex(4)}")
    with pytest.raises(TargetError, match=r"cannot be pulled: .*(basic auth|unauthorized)"):
        deploy(target, "", 1, digest=digest)


def test_a_pod_without_a_node_is_found_early(
    namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollout, "UNSCHEDULABLE", 0.5)
    monkeypatch.setattr(rollout, "LOOK", 0.5)
    target = made(namespace, tmp_path, KubernetesSettings(replicas=1, cpu="900"))
    with pytest.raises(TargetError, match=r"there is no node for pod .*Insufficient cpu"):
        deploy(target, "one", 1)


def test_what_people_changed_is_found_taken_back_and_said(
    target: KubernetesTarget, namespace: str
) -> None:
    live = deploy(target, "one", 1)
    kubectl("-n", namespace, "scale", "deployment/small", "--replicas=3")
    kubectl("-n", namespace, "set", "env", "deployment/small", "BY_HAND=1")
    kubectl("-n", namespace, "delete", "networkpolicy", "small")
    drift = "\n".join(target.drift())
    assert "NetworkPolicy/small is gone" in drift
    assert "spec.replicas: 1 is 3" in drift and "env[BY_HAND] was added" in drift
    record: Any = SimpleNamespace(
        number=1, image=live.digest,
        app=AppRef(name="small", commit="", tree=""),
        model=ModelRef(name="small", digest="sha256:one", version=1),
    )  # fmt: skip
    lines = [str(line) for line in compare(record, target, cluster_image.registry())]
    assert any("spec.replicas: 1 is 3" in line for line in lines)

    said: list[str] = []
    deploy(target, "one", 1, said=said)
    assert "changed by somebody: Deployment/small spec.replicas: 1 is 3" in said
    assert "changed by somebody: NetworkPolicy/small is gone" in said
    assert any("taking out of Deployment/small" in line for line in said)
    assert target.drift() == []
    assert compare(record, target, cluster_image.registry()) == []


def test_the_truth_names_each_side_that_differs(target: KubernetesTarget) -> None:
    live = deploy(target, "one", 1)
    other = "sha256:" + "1" * 64
    record: Any = SimpleNamespace(
        number=1, image=other, app=AppRef(name="small", commit="d" * 40, tree=""),
        model=ModelRef(name="small", digest="sha256:other", version=2),
    )  # fmt: skip
    found = [(each.where, each.found) for each in compare(record, target, cluster_image.registry())]
    registry = cluster_image.registry().url
    assert (f"{target.name}, image", live.digest) in found
    assert (registry, "no such image") in found
    assert {where.rpartition(", ")[2] for where, _ in found if "/version" in where} == {
        "image", "commit", "model", "model version",
    }  # fmt: skip
    kubectl("-n", target.namespace, "delete", "deployment", "small")
    (gone,) = compare(record, target, cluster_image.registry())
    assert gone.found == "nothing"


def test_an_autoscaler_is_never_fought(target: KubernetesTarget, namespace: str) -> None:
    deploy(target, "one", 1)
    # What this old server offers of autoscaling, and the controller's hand on the replicas.
    kubectl("-n", namespace, "autoscale", "deployment", "small", "--min=1", "--max=3")
    live = target.api.get("Deployment", "small")
    assert live
    body = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "small"},
            "spec": {"replicas": 2}}  # fmt: skip
    target.api.apply(body, manager="kube-controller-manager", force=True)
    said: list[str] = []
    deploy(target, "two", 2, said=said)
    assert any("kept 2 replicas" in line for line in said), said
    found = target.api.get("Deployment", "small")
    assert found and found["spec"]["replicas"] == 2


def test_what_a_release_no_longer_has_is_removed_and_what_is_not_ours_is_left(
    target: KubernetesTarget, namespace: str, tmp_path: Path
) -> None:
    deploy(target, "one", 1)
    kubectl("-n", namespace, "create", "configmap", "of-a-person")
    said: list[str] = []
    # The image is on the node by now, so it starts without the secret too.
    without = KubernetesSettings(replicas=1, drain_seconds=2, pull_secret="none")
    deploy(made(namespace, tmp_path, without), "one", 2, said=said)
    assert any("removed Secret/small-registry" in line for line in said)
    target.stop(progress=print)
    left = kubectl("-n", namespace, "get", "deployment,service,secret,configmap", "-o", "name")
    ours = [line for line in left.split() if "small" in line]
    assert not ours
    assert "configmap/of-a-person" in left
    assert target.current() is None
    assert target.stop(progress=print) is False


def test_an_answer_of_a_pod_that_is_on_its_way_out_is_not_held_against_the_new_release(
    namespace: str, tmp_path: Path
) -> None:
    settings = KubernetesSettings(replicas=1, drain_seconds=15, cpu="10m", memory="32Mi")
    target = made(namespace, tmp_path, settings)
    deploy(target, "one", 1)
    asked = []

    def check(url: str) -> None:
        asked.append(url)
        if len(asked) == 1:
            raise TargetError("this is release 1")

    said: list[str] = []
    live = deploy(target, "two", 2, check=check, said=said)
    assert (live.release, len(asked)) == (2, 2)
    assert any("old pod is still there: this is release 1" in line for line in said)


@pytest.mark.timeout(900)
def test_no_request_is_lost_on_rollouts_broken_images_and_killed_pods(
    namespace: str, tmp_path: Path
) -> None:
    require("wrk")
    # The drain of the defaults: on a busy machine it takes seconds until nothing is sent to a pod.
    settings = KubernetesSettings(replicas=2, cpu="10m", memory="32Mi")
    target = made(namespace, tmp_path, settings)
    words = [f"word{number}" for number in range(21)]
    # This one node gives addresses of pods out again at once: what other tests left should be gone,
    # or connections are seen refused that have nothing to do with a rollout. No more than a
    # precaution: a namespace that cannot end says nothing about rollouts either.
    if not wait_until(lambda: not still_ending(), 180):
        print("still ending:", *still_ending())
    url = deploy(target, words[0], 1).url
    with Astray(url) as astray, Load(url) as load, Wrk(url) as wrk:
        for number, word in enumerate(words[1:], 2):
            deploy(target, word, number)
            assert not load.failures, f"at release {number}"
        with pytest.raises(TargetError, match="release 21 is live again"):
            deploy(target, "crash", 99)
        pod = next(pod for pod in target.details()["pods"] if pod["ready"])
        kubectl("-n", namespace, "delete", "pod", pod["name"], "--wait=false")
        assert wait_until(
            lambda: [p["ready"] for p in target.details()["pods"] if not p["ending"]] == [True] * 2,
            60,
        )
        time.sleep(settings.drain_seconds + 2)
    assert load.failures == [] and wrk.failures == []
    assert len(astray.taken) <= (len(load.words) + wrk.requests) / 1000
    assert min(len(load.words), wrk.requests) > 1000
    assert list(dict.fromkeys(load.words))[-1] == "sha256:word20"


def test_two_deploys_at_once_never_interleave(
    namespace: str, tmp_path: Path, target: KubernetesTarget
) -> None:
    inside = threading.Semaphore(1)
    problems = []

    def run(number: int) -> None:
        mine = made(namespace, tmp_path)
        digest = cluster_image.small(f"word{number}")

        def progress(line: str) -> None:
            print(number, line)
            if line.startswith("applied"):
                problems.extend([] if inside.acquire(blocking=False) else [line])
            if line.endswith("is live"):
                inside.release()

        request = DeployRequest(
            app="small", release=number, registry=cluster_image.registry(), digest=digest
        )
        mine.deploy(request, check=lambda url: None, progress=progress)

    threads = [threading.Thread(target=run, args=(number,)) for number in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert target.current() is not None


def test_a_lease_that_nobody_renews_is_taken_over(
    target: KubernetesTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tandem.targets.kubernetes.lease.DURATION", 1)
    held = Lease(target.api, "small", print)
    held._thread = threading.Thread(target=lambda: None)  # never renews, as one that was killed
    held.me = "another-machine/1/x"
    held.__enter__()
    with Lease(target.api, "small", print) as lease:
        held._keep = None  # type: ignore[assignment,method-assign]
        lease.check()
    found = target.api.get("Lease", "small-tandem")
    assert found and not found["spec"].get("holderIdentity")


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from support import cluster_image
    from tandem.targets import DeployRequest, open_target
    from tandem.targets.kubernetes.api import Api
    from tandem.targets.kubernetes.settings import KubernetesSettings

    left = int(sys.argv[2])
    real = Api._send

    def send(*arguments, **more):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **more)

    Api._send = send
    settings = KubernetesSettings(replicas=1, drain_seconds=2, cpu="10m", memory="32Mi",
                                  host=sys.argv[1] + ".cloudapp.test")
    target = open_target("k8s:///" + sys.argv[1], state=Path("."), app="small", settings=settings)
    request = DeployRequest(app="small", release=2, registry=cluster_image.registry(),
                            digest=sys.argv[3], annotations={"tandem.app.commit": "c" * 40},
                            deadline=60)
    target.deploy(request, check=lambda url: None, progress=lambda line: None)
"""


# Before the Lease, with the Lease, in the middle of applying, while waiting, before it is written
# down, and before that is said of the Deployment.
@pytest.mark.parametrize("at", [2, 6, 14, 18, 25, 28, 32, 34])
def test_a_deploy_killed_anywhere_and_run_again_ends_as_if_it_had_not_been(
    target: KubernetesTarget, namespace: str, at: int
) -> None:
    deploy(target, "one", 1)
    killed_deploy(namespace, at)
    live = deploy(target, "two", 2)
    assert word_at(live.url) == "two"
    assert target.drift() == []
    current = target.current()
    assert current and current.release == 2 and current.since == live.since


def numbers(namespace: str) -> dict[str, str]:
    """Of each object that carries one: who wrote it last."""
    kinds = "deployment,service,configmap,serviceaccount,networkpolicy"
    found = json.loads(kubectl("-n", namespace, "get", kinds, "-o", "json"))["items"]
    return {
        f"{one['kind']}/{one['metadata']['name']}": annotations["tandem.dev/fence"]
        for one in found
        if "tandem.dev/fence" in (annotations := one["metadata"].get("annotations") or {})
    }


def versions(namespace: str) -> dict[str, str]:
    """What changes with every write to the objects that are ours."""
    kinds = "deployment,service,configmap,serviceaccount,networkpolicy,secret,lease"
    found = json.loads(kubectl("-n", namespace, "get", kinds, "-o", "json"))["items"]
    return {
        f"{one['kind']}/{one['metadata']['name']}": one["metadata"]["resourceVersion"]
        for one in found
        if one["metadata"]["name"].startswith("small")
    }


STOPPED = """
    import os, signal, sys
    from pathlib import Path
    from support import cluster_image
    from tandem.errors import TandemError, TargetError
    from tandem.targets import DeployRequest, open_target
    from tandem.targets.kubernetes.settings import KubernetesSettings

    namespace, digest, at = sys.argv[1:]

    def progress(line):
        if line.startswith(at):
            os.kill(os.getpid(), signal.SIGSTOP)

    def check(url):
        if at == "applied":
            raise TargetError("wrong answer")

    settings = KubernetesSettings(replicas=1, drain_seconds=2, cpu="10m", memory="32Mi",
                                  host=namespace + ".cloudapp.test")
    target = open_target("k8s:///" + namespace, state=Path("."), app="small", settings=settings)
    request = DeployRequest(app="small", release=2, registry=cluster_image.registry(),
                            digest=digest, annotations={"tandem.app.commit": "c" * 40}, deadline=60)
    try:
        target.deploy(request, check=check, progress=progress)
    except TandemError as problem:
        print(problem)
"""


@contextlib.contextmanager
def stopped_at(namespace: str, word: str, at: str) -> Iterator[subprocess.Popen[str]]:
    """A deploy of release 2 that the kernel has stopped as it said that line."""
    code = textwrap.dedent(STOPPED)
    with subprocess.Popen(
        [sys.executable, "-c", code, namespace, cluster_image.small(word), at],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        stdout=subprocess.PIPE, text=True,
    ) as deploying:  # fmt: skip
        try:
            process = psutil.Process(deploying.pid)
            assert wait_until(lambda: process.status() == psutil.STATUS_STOPPED, 60)
            yield deploying
        finally:
            deploying.kill()


# Before it finds its release bad and would put the old one back; before it writes down that it is
# good.
@pytest.mark.parametrize("at", ["applied", "release 2 is live"])
def test_a_deploy_that_was_stopped_for_long_changes_nothing_of_the_next_one(
    target: KubernetesTarget, namespace: str, at: str
) -> None:
    deploy(target, "one", 1)
    with stopped_at(namespace, "two", at) as first:
        said: list[str] = []
        # The same number: its record was never written.
        live = deploy(target, "three", 2, said=said)
        assert any(f"waiting for another deploy, by process {first.pid} of" in s for s in said)
        assert set(numbers(namespace).values()) == {"3"}
        before = versions(namespace)
        first.send_signal(signal.SIGCONT)
        told, _ = first.communicate(timeout=60)
    assert "was taken by a newer deploy" in told or "another deploy is on" in told, told
    assert versions(namespace) == before
    assert word_at(live.url) == "three"
    assert target.drift() == []


def test_while_a_release_is_rolled_out_nothing_differs(
    target: KubernetesTarget, namespace: str, tmp_path: Path
) -> None:
    live = deploy(target, "one", 1)
    record: Any = SimpleNamespace(
        number=1, image=live.digest, app=AppRef(name="small", commit="", tree=""),
        model=ModelRef(name="small", digest="sha256:one", version=1),
    )  # fmt: skip
    looking = made(namespace, tmp_path)
    seen = []

    def check(url: str) -> None:
        current = looking.current()
        assert current and current.switching
        seen.extend(compare(record, looking, cluster_image.registry()))

    second = deploy(target, "two", 2, check=check)
    assert seen == [] and not second.switching
    current = looking.current()
    assert current and not current.switching
    assert compare(record, looking, cluster_image.registry()) != []


def test_the_number_of_a_holder_never_goes_back(target: KubernetesTarget, namespace: str) -> None:
    for number in (1, 2):
        with Lease(target.api, "small", print) as lease:
            assert lease.number == number
    deploy(target, "one", 1)
    assert set(numbers(namespace).values()) == {"3"}
    target.stop(progress=print)
    with Lease(target.api, "small", print) as lease:
        assert lease.number == 5
    deploy(target, "one", 1)
    # A person may remove what seems to be left over.
    kubectl("-n", namespace, "delete", "lease", "small-tandem")
    with Lease(target.api, "small", print) as lease:
        assert lease.number == 7
    # An earlier edition writes the Lease without a number.
    lease_now = target.api.get("Lease", "small-tandem")
    assert lease_now and lease_now["spec"].pop("leaseTransitions") == 7
    target.api.replace(lease_now)
    with Lease(target.api, "small", print) as lease:
        assert lease.number == 7, "above all that was written"


class Number:
    """A holder, whether it still holds the Lease or not."""

    def __init__(self, number: int) -> None:
        self.number = number

    def verify(self) -> None:
        pass


def a_config_map(word: str, **metadata: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1", "kind": "ConfigMap", "data": {word: word},
        "metadata": {"name": "small", "labels": {"mine": "yes"}, **metadata},
    }  # fmt: skip


def test_an_older_holder_neither_applies_nor_replaces_nor_deletes(
    target: KubernetesTarget,
) -> None:
    older, newer = (Fence(target.api, Number(number)) for number in (1, 2))
    older.apply(a_config_map("one"))
    newer.apply(a_config_map("two"))
    for write in (
        lambda: older.apply(a_config_map("one"), force=True),
        lambda: older.change("ConfigMap", "small", lambda found: {**found, "data": {}}),
        lambda: older.delete("ConfigMap", "small", ours=lambda found: True),
    ):
        with pytest.raises(Superseded, match="ConfigMap/small was taken by a newer deploy"):
            write()
    found = target.api.get("ConfigMap", "small")
    # What the first one made is gone from it too: it was made as if it had been applied.
    assert found and found["data"] == {"two": "two"}
    assert newer.delete("ConfigMap", "small", ours=lambda found: False) is False
    assert newer.delete("ConfigMap", "small", ours=lambda found: True) is True


def test_what_a_killed_deploy_had_made_is_owned_by_the_next_one(target: KubernetesTarget) -> None:
    # Killed between the two requests of which making a new object consists.
    target.api.create(a_config_map("one"), manager="tandem")
    found = Fence(target.api, Number(1)).apply(a_config_map("two"))
    assert found["data"] == {"two": "two"}


def test_a_write_that_was_begun_before_the_newer_one_is_refused(
    target: KubernetesTarget,
) -> None:
    older, newer = (Fence(target.api, Number(number)) for number in (1, 2))
    older.apply(a_config_map("one"))

    def overtaken(found: dict[str, Any]) -> dict[str, Any]:
        # Between what the older one read and what it writes.
        newer.apply(a_config_map("two"))
        return {**found, "data": {"one": "one"}}

    with pytest.raises(Superseded):
        older.change("ConfigMap", "small", overtaken)
    found = target.api.get("ConfigMap", "small")
    assert found and found["data"] == {"two": "two"}


def test_an_object_that_a_newer_holder_made_first_is_not_made_again(
    target: KubernetesTarget,
) -> None:
    newer = Fence(target.api, Number(2))

    class Overtaken(Number):
        def verify(self) -> None:
            if target.api.get("ConfigMap", "small") is None:
                newer.apply(a_config_map("two"))

    with pytest.raises(Superseded):
        Fence(target.api, Overtaken(1)).apply(a_config_map("one"))
    found = target.api.get("ConfigMap", "small")
    assert found and found["data"] == {"two": "two"}


def test_a_holder_without_its_lease_makes_nothing_new(target: KubernetesTarget) -> None:
    first, second = (Lease(target.api, "small", print) for _ in range(2))
    assert first._take(None)
    assert second._take(None) is False, "two of one process"
    spec = first._held["spec"]
    assert second._take(f"{spec['holderIdentity']} {spec['renewTime']}") is True
    second.verify()
    with pytest.raises(Superseded, match="Lease/small-tandem was taken by"):
        Fence(target.api, first).apply(a_config_map("one"))
    assert target.api.get("ConfigMap", "small") is None


def test_a_live_holder_in_another_pid_namespace_is_waited_for(target: KubernetesTarget) -> None:
    apart = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]
    if subprocess.run([*apart, "true"], capture_output=True).returncode:
        pytest.skip("this machine makes no PID namespaces")
    code = (
        "from tandem.targets.kubernetes.lease import Lease; print(Lease(None, 'small', print).me)"
    )
    here, there = (
        subprocess.run(
            [*words, sys.executable, "-c", code], capture_output=True, text=True, check=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        ).stdout.strip()
        for words in ([], apart)
    )  # fmt: skip
    assert here.split()[0] == there.split()[0], "the same host name"
    # Both have ended; only of its own namespace does a process know it.
    assert is_dead(here) and not is_dead(there)
    assert not is_dead("an-older-edition/12345/abcd")
    held = Lease(target.api, "small", print)
    held.me = there
    assert held._take(None)
    mine = Lease(target.api, "small", print)
    assert mine._take(None) is False
    held.me = here
    held._held = target.api.replace(held._body(here, held._held, held.number))
    assert mine._take(None) is True


def test_a_failed_try_does_not_fail_the_next_one_of_the_same_number(
    target: KubernetesTarget, namespace: str
) -> None:
    deploy(target, "one", 1)
    with stopped_at(namespace, "crash", "applied") as first:
        first.kill()
    # Its pods are still there, with the number of the next one.
    assert wait_until(lambda: "CrashLoopBackOff" in json.dumps(pods_of(target.api, target.app)), 60)
    live = deploy(target, "two", 2)
    assert word_at(live.url) == "two"
    assert target.drift() == []


def killed_deploy(namespace: str, at: int) -> None:
    """A deploy of release 2 that is killed before the request of that number."""
    environ = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    code, digest = textwrap.dedent(KILLED), cluster_image.small("two")
    done = subprocess.run([sys.executable, "-c", code, namespace, str(at), digest], env=environ)
    assert done.returncode == -signal.SIGKILL


# A new object takes two requests: to make it, and to own it as if it had been applied.
@pytest.mark.parametrize("at", [5, 11, 25, 30])
def test_a_first_deploy_killed_anywhere_and_run_again_ends_as_if_it_had_not_been(
    target: KubernetesTarget, namespace: str, at: int
) -> None:
    killed_deploy(namespace, at)
    live = deploy(target, "two", 2)
    assert word_at(live.url) == "two"
    assert target.drift() == []
    kinds = "deployment,service,configmap,serviceaccount,networkpolicy"
    for one in json.loads(kubectl("-n", namespace, "get", kinds, "-o", "json"))["items"]:
        entries = one["metadata"].get("managedFields", [])
        how = {entry["operation"] for entry in entries if entry["manager"] == "tandem"}
        assert how <= {"Apply"}, one["metadata"]["name"]


class Cuttable:
    """The API server behind a wire that can be cut."""

    def __init__(self, server: str) -> None:
        host, _, port = server.removeprefix("https://").partition(":")
        self.to = (host, int(port))
        self.cut = threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.pairs: list[tuple[socket.socket, socket.socket]] = []
        self.threads = [threading.Thread(target=self.accept, daemon=True)]
        self.threads[0].start()
        self.url = f"https://127.0.0.1:{self.listener.getsockname()[1]}"

    def accept(self) -> None:
        while not self.cut.is_set():
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            pair = (client, socket.create_connection(self.to))
            self.pairs.append(pair)
            for one, other in (pair, pair[::-1]):
                self.threads.append(threading.Thread(target=self.pass_on, args=(one, other)))
                self.threads[-1].start()

    def pass_on(self, one: socket.socket, other: socket.socket) -> None:
        try:
            while data := one.recv(65536):
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def close(self) -> None:
        self.cut.set()
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for pair in self.pairs:
            for one in pair:
                try:
                    one.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
                one.close()
        for thread in self.threads:
            thread.join(5)


def test_an_api_that_goes_away_in_the_middle_is_said_and_the_next_run_converges(
    target: KubernetesTarget, namespace: str, tmp_path: Path
) -> None:
    deploy(target, "one", 1)
    cut_off = made(namespace, tmp_path)
    real = cut_off.api
    wire = Cuttable(real.cluster.server)
    real.cluster.server = wire.url
    cut_off._api = Api(real.cluster, namespace, patience=1.0)

    request = DeployRequest(
        app="small", release=2, registry=cluster_image.registry(),
        digest=cluster_image.small("two"), annotations={"tandem.app.commit": "c" * 40},
    )  # fmt: skip

    def progress(line: str) -> None:
        if line.startswith("applied") and not wire.cut.is_set():
            wire.close()

    with pytest.raises(TargetError, match=r"what is live now is not known, because .*does not ans"):
        cut_off.deploy(request, check=lambda url: None, progress=progress)
    live = deploy(target, "two", 2)
    assert word_at(live.url) == "two"


def role(namespace: str, change: Any = None) -> str:
    """Apply the Role of deploy/ (changed) with its account; returns the account's token."""
    found = yaml.safe_load((ROOT / "deploy/kubernetes/role.yaml").read_text())
    if change:
        change(found)
    kubectl("-n", namespace, "apply", "-f", "-", given=yaml.safe_dump(found))
    kubectl("-n", namespace, "apply", "-f", str(ROOT / "deploy/kubernetes/role-binding.yaml"))
    token = ""

    def there() -> bool:
        nonlocal token
        secrets_there = json.loads(kubectl("-n", namespace, "get", "secrets", "-o", "json"))
        for secret in secrets_there["items"]:
            if secret["metadata"]["name"].startswith("tandem-token"):
                token = base64.b64decode(secret["data"]["token"]).decode()
        return bool(token)

    assert wait_until(there, 20)
    return token


def as_account(
    namespace: str, tmp_path: Path, token: str, monkeypatch: pytest.MonkeyPatch
) -> KubernetesTarget:
    """The target as a pod with that account's token would open it."""
    config = yaml.safe_load(Path(os.environ["KUBECONFIG"]).read_text())
    cluster = config["clusters"][0]["cluster"]

    account = tmp_path / "account"
    account.mkdir()
    (account / "token").write_text(token)
    (account / "ca.crt").write_bytes(base64.b64decode(cluster["certificate-authority-data"]))
    host, _, port = cluster["server"].removeprefix("https://").partition(":")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)
    monkeypatch.setenv("TANDEM_SERVICE_ACCOUNT", str(account))
    found = open_target(
        f"k8s://in-cluster/{namespace}", state=tmp_path, app="small",
        settings=KubernetesSettings(
            replicas=1, drain_seconds=2, host=f"{namespace}.cloudapp.test", cpu="10m"
        ),
    )  # fmt: skip
    assert isinstance(found, KubernetesTarget)
    return found


def test_the_role_in_deploy_is_enough_for_all_of_it(
    namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = as_account(namespace, tmp_path, role(namespace), monkeypatch)
    deploy(target, "one", 1)
    kubectl("-n", namespace, "set", "env", "deployment/small", "BY_HAND=1")
    deploy(target, "one", 1)
    with pytest.raises(TargetError, match="release 1 is live again"):
        deploy(target, "crash", 2)
    assert target.details()["events"]
    assert target.drift() == []
    assert target.stop(progress=print) is True


def test_a_missing_permission_is_one_line(
    namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_services(found: Any) -> None:
        found["rules"][0]["resources"].remove("services")

    target = as_account(namespace, tmp_path, role(namespace, without_services), monkeypatch)
    with pytest.raises(TargetError) as caught:
        deploy(target, "one", 1)
    assert f"missing permission: get services in namespace {namespace}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_layout_folder_is_no_registry_for_a_cluster(
    target: KubernetesTarget, tmp_path: Path
) -> None:
    from tandem.oci import open_registry

    request = DeployRequest(
        app="small", release=1, registry=open_registry(f"oci:{tmp_path}"), digest="sha256:x"
    )
    with pytest.raises(SettingError, match="TANDEM_REGISTRY"):
        target.deploy(request, check=lambda url: None, progress=print)
