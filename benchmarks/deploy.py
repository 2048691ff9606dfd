"""A deployment to Kubernetes against kubectl with the same manifests by hand, and a new model's
whole way.

Needs the cluster, its registry and the base image (KUBECONFIG, REGISTRY, REGISTRY_USERNAME,
REGISTRY_PASSWORD, BASE_IMAGE). `--quick` leaves the new model's way out.
"""

from __future__ import annotations

import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measure import Figures, seconds

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
ROUNDS = 5


def main() -> int:
    """Measure in namespaces of its own."""
    missing = [name for name in ("KUBECONFIG", "REGISTRY", "BASE_IMAGE") if name not in os.environ]
    if missing:
        print(f"benchmarks/deploy.py needs {', '.join(missing)}: skipped")
        return 0
    os.environ |= {
        "TANDEM_REGISTRY": f"{os.environ['REGISTRY']}/tests/bench-{secrets.token_hex(3)}",
        "TANDEM_REGISTRY_USERNAME": os.environ["REGISTRY_USERNAME"],
        "TANDEM_REGISTRY_PASSWORD": os.environ["REGISTRY_PASSWORD"],
    }
    figures = Figures("deployment to Kubernetes: ratios within this run, medians")
    spaces = [f"tandem-bench-{secrets.token_hex(3)}" for _ in range(3)]
    try:
        for space in spaces:
            kubectl("create", "namespace", space)
        _against_kubectl(figures, *spaces[:2])
        if "--quick" not in sys.argv:
            _new_model(figures, spaces[2])
    finally:
        for space in spaces:
            kubectl("delete", "namespace", space, "--wait=false")
    return figures.show()


def kubectl(*words: str, given: str | None = None) -> str:
    done = subprocess.run(["kubectl", *words], input=given, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"kubectl {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def _against_kubectl(figures: Figures, by_hand: str, ours: str) -> None:
    """The same images, in turn, in two namespaces, each once the other has come to rest."""
    from support import cluster_image

    from tandem.targets import DeployRequest
    from tandem.targets.kubernetes import manifests
    from tandem.targets.kubernetes.settings import KubernetesSettings
    from tandem.targets.kubernetes.target import kubernetes_target

    settings = KubernetesSettings(replicas=2, cpu="10m", drain_seconds=1)
    repository = os.environ["TANDEM_REGISTRY"].partition("/")[2]
    registry = cluster_image.registry(repository)
    digests = [cluster_image.small(word, repository=repository) for word in ("one", "two")]
    target, hand = (
        kubernetes_target(f"k8s:///{space}", "", space, app="bench", settings=settings)
        for space in (ours, by_hand)
    )
    # The same registry login for both; it is no part of what is compared.
    secret = hand.pull_secret(registry)
    kubectl("-n", by_hand, "apply", "-f", "-", given=json.dumps(secret))
    offered = target.api.groups()

    def request(number: int) -> Any:
        return DeployRequest(
            app="bench", release=number, registry=registry, digest=digests[number % 2]
        )

    def with_kubectl(number: int) -> None:
        import yaml

        found = yaml.safe_load_all(hand.manifests(request(number)))
        text = manifests.render([one for one in found if one["apiVersion"] in offered])
        kubectl("-n", by_hand, "apply", "-f", "-", given=text)
        kubectl("-n", by_hand, "rollout", "status", "deployment/bench", "--timeout=120s")

    def with_tandem(number: int) -> float:
        live = target.deploy(request(number), check=lambda url: None, progress=lambda line: None)
        # Asking through the load balancer is a check that kubectl does not make.
        moments = [moment["second"] for moment in live.detail["timeline"]]
        return float(moments[-2] - moments[-3])

    def rest() -> None:
        for space in (by_hand, ours):
            while "Terminating" in kubectl("-n", space, "get", "pods", "--no-headers"):
                time.sleep(0.5)

    ratios, hands, alls, asked = [], [], [], []
    for number in range(1, ROUNDS + 2):
        rest()
        hand_took = seconds(lambda number=number: with_kubectl(number))
        rest()
        asking: list[float] = []
        took = seconds(lambda number=number, asking=asking: asking.append(with_tandem(number)))
        if number > 1:  # the first makes everything, and waits for an address
            hands.append(hand_took)
            alls.append(took)
            asked.append(asking[0])
            ratios.append((took - asking[0]) / hand_took)
    figures.add("kubectl apply + rollout status", statistics.median(hands), "s")
    figures.add("deployment, all of it", statistics.median(alls), "s")
    figures.add("of that, asking through the load balancer", statistics.median(asked), "s")
    figures.add("deployment without asking / kubectl", statistics.median(ratios), "ratio", "<= 1.2")

    def generation() -> int:
        found = kubectl("-n", ours, "get", "deployment/bench", "-o", "json")
        return int(json.loads(found)["metadata"]["generation"])

    before = generation()
    target.api.requests = 0
    again = seconds(
        lambda: target.deploy(
            request(ROUNDS + 1),
            check=lambda url: None,
            progress=lambda line: None,
            live=target.current(),
        )
    )
    figures.add("nothing changed", again, "s")
    figures.add("nothing changed: API requests", target.api.requests, "requests", "<= 5")
    figures.add("nothing changed: rollouts", generation() - before, "rollouts", "<= 0")


def _new_model(figures: Figures, space: str) -> None:
    """A first release, then a new model: from published to answered by every pod, step by step."""
    with tempfile.TemporaryDirectory(prefix="tandem-bench-") as folder:
        home = Path(folder)
        # A clone: what is committed meanwhile must not come into it.
        subprocess.run(["git", "clone", "--quiet", ROOT, home / "source"], check=True)
        os.environ |= {
            "TANDEM_STORE": f"file:{home / 'store'}",
            "TANDEM_STATE": str(home / "state"),
            "TANDEM_TARGET": f"k8s:///{space}",
            "TANDEM_SOURCE": str(home / "source"),
            "TANDEM_BASE_IMAGE": os.environ["BASE_IMAGE"],
            "TANDEM_BUILDER": "assemble",
            "TANDEM_REPLICAS": "2",
            "TANDEM_CPU": "10m",
            "DAGSTER_HOME": str(home / "dagster"),
        }
        print("first release, with the tests of the commit …", flush=True)
        _run("-m", "tandem.dagster", "release")
        from release import _publish_another

        from orchestration.apps import APPS
        from tandem import settings
        from tandem.release.project import Project

        project = Project(APPS[0].name, settings.load(), APPS[0].rule)
        totals: list[float] = []
        steps: dict[str, list[float]] = {}
        for number in range(3):
            _publish_another(project, number)
            began = time.perf_counter()
            said = _run("-m", "tandem.dagster", "release", "--json")
            totals.append(time.perf_counter() - began)
            for name, took in _steps(said).items():
                steps.setdefault(name, []).append(took)
        _under_load(figures, project, home)
        _nothing_changed(figures, project)
        for name, values in steps.items():
            figures.add(f"new model: {name}", statistics.median(values), "s")
        rest = statistics.median(totals) - sum(map(statistics.median, steps.values()))
        figures.add("new model: Dagster and the rest", rest, "s")
        figures.add(
            "new model published → every pod answers with it", statistics.median(totals), "s"
        )


def _under_load(figures: Figures, project: Any, home: Path) -> None:
    """One more model goes live while 64 connections ask the real service for scores."""
    from release import _publish_another
    from support.load import Astray, Wrk

    script = home / "score.lua"
    body = json.dumps({"rows": [[0.0] * 64]})
    script.write_text(
        f'wrk.method = "POST"\nwrk.body = {json.dumps(body)}\n'
        'wrk.headers["Content-Type"] = "application/json"\n'
    )
    url = project.target.url()
    _publish_another(project, 99)
    with Astray(url), Wrk(url, "/score", connections=64, script=script) as wrk:
        _run("-m", "tandem.dagster", "release")
        time.sleep(5)
    print(*wrk.failures, sep="\n")
    figures.add("asked meanwhile by 64 connections: POST /score", wrk.requests, "requests")
    figures.add("of these without an answer", len(wrk.failures), "kinds", "<= 0")


def _nothing_changed(figures: Figures, project: Any) -> None:
    """The whole job where there is nothing to do: what it asks of cluster, registry and store."""
    import dagster as dg

    from orchestration.apps import APPS
    from tandem.dagster import recovery
    from tandem.dagster.definitions import build_defs
    from tandem.dagster.release_command import release_needed
    from tandem.oci.remote.transport import Connection
    from tandem.release.project import Project

    asked = {"registry": 0, "store": 0}

    def counted(kind: str, call: Any) -> Any:
        def counting(*arguments: Any, **named: Any) -> Any:
            asked[kind] += 1
            return call(*arguments, **named)

        return counting

    Connection.send = counted("registry", Connection.send)  # type: ignore[method-assign]
    mine = Project(project.app, project.settings, project.rule)
    for name in ("read", "head", "get", "put", "list", "delete"):
        setattr(mine.store, name, counted("store", getattr(mine.store, name)))
    with recovery.opened(Path(os.environ["DAGSTER_HOME"])) as instance:
        assert isinstance(instance, dg.DagsterInstance)
        outcome = release_needed(build_defs(), APPS[0], mine, instance)
    assert not outcome.jobs, outcome
    figures.add("nothing changed, the whole job: API", mine.target.api.requests, "requests")
    for kind, count in asked.items():
        figures.add(f"nothing changed, the whole job: {kind}", count, "requests")


def _steps(said: str) -> dict[str, float]:
    """Seconds by step, as `release --json` tells them."""
    jobs = json.loads(said)["jobs"]
    return {name: float(took) for job in jobs for name, took in job["steps"].items()}


def _run(*arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
