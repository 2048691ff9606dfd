"""What Tandem puts into Kubernetes for one app: every object, made from a few settings; the one
place to read them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from tandem.errors import SettingError

MANAGER = "tandem"
PREFIX = "tandem.dev/"
"""Of Tandem's own annotations; the standard labels are those of kubernetes.io."""
RELEASE, DIGEST = PREFIX + "release", PREFIX + "image-digest"
FENCE = PREFIX + "fence"
"""On each object, put there as it is written: which holder of the Lease wrote it last."""
DNS_LABEL = "service.beta.kubernetes.io/azure-dns-label-name"
PORT = 8080
PUBLIC_PORT = 80
USER = 10001

Object = dict[str, Any]
"""One Kubernetes object as JSON."""


class KubernetesSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How the app is to run in a cluster."""

    replicas: int = 2
    max_replicas: int = 0
    """More than `replicas`: a HorizontalPodAutoscaler chooses between the two."""
    host: str = ""
    """The name users type. Of `LABEL.REGION.cloudapp.azure.com`, Azure is asked for the LABEL."""
    cpu: str = "100m"
    memory: str = "256Mi"
    memory_limit: str = "1Gi"
    pull_secret: str = "auto"  # noqa: S105 - a name
    """`auto`: made from the registry's login where it has one; `none`: the cluster may pull (AKS
    attached to ACR); else the name of a secret that is there."""
    env: Mapping[str, str] = {}
    annotations: Mapping[str, str] = {}
    drain_seconds: int = 15
    """How long a pod that is to end still answers: longer than a load balancer takes to notice."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What is released."""

    reference: str
    digest: str
    release: int
    env: Mapping[str, str] = {}
    annotations: Mapping[str, str] = {}
    deadline: int = 120


VARIABLES = {
    "TANDEM_REPLICAS": "replicas",
    "TANDEM_MAX_REPLICAS": "max_replicas",
    "TANDEM_HOST": "host",
    "TANDEM_CPU": "cpu",
    "TANDEM_MEMORY": "memory",
    "TANDEM_MEMORY_LIMIT": "memory_limit",
    "TANDEM_PULL_SECRET": "pull_secret",
    "TANDEM_SERVICE_ENV": "env",
    "TANDEM_ANNOTATIONS": "annotations",
    "TANDEM_DRAIN_SECONDS": "drain_seconds",
}

_QUANTITY = re.compile(r"\d+(\.\d+)?(m|k|Ki|M|Mi|G|Gi)?")
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_HOST = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")


def load_settings(environ: Mapping[str, str] | None = None) -> KubernetesSettings:
    """The settings of this process; raises `SettingError` that names the variable."""
    found: dict[str, Any] = {}
    for variable, field in VARIABLES.items():
        text = (os.environ if environ is None else environ).get(variable, "").strip()
        if text:
            found[field] = _read(variable, field, text)
    settings = KubernetesSettings(**found)
    if settings.max_replicas and settings.max_replicas < settings.replicas:
        raise SettingError(
            f"TANDEM_MAX_REPLICAS={settings.max_replicas}: want at least TANDEM_REPLICAS, "
            f"which is {settings.replicas}"
        )
    return settings


def _read(variable: str, field: str, text: str) -> Any:
    if field in ("replicas", "max_replicas", "drain_seconds"):
        least = 0 if field == "max_replicas" else 1
        if not (text.isdecimal() and least <= int(text) <= 1000):
            raise SettingError(f"{variable}={text!r}: want a whole number from {least} to 1000")
        return int(text)
    if field in ("env", "annotations"):
        pairs = [part.partition("=") for part in text.split(",")]
        if any(not name.strip() or not equals for name, equals, _ in pairs):
            raise SettingError(f"{variable}: want NAME=VALUE,NAME=VALUE")
        return {name.strip(): value for name, _, value in pairs}
    pattern, example = {
        "host": (_HOST, "digits.westeurope.cloudapp.azure.com"),
        "pull_secret": (_NAME, "auto, none, or the name of a secret"),
    }.get(field, (_QUANTITY, "500m or 256Mi"))
    if not pattern.fullmatch(text):
        raise SettingError(f"{variable}={text!r}: want {example}")
    return text


def objects(
    app: str,
    namespace: str,
    settings: KubernetesSettings,
    facts: Facts,
    *,
    pull_secret: str = "",
    replicas: int | None = None,
) -> list[Object]:
    """Every object of the app, in the order in which they are applied.

    `pull_secret` is the name of the secret to pull with, empty for none; `replicas` what an
    autoscaler wants now.
    """
    labels = {
        "app.kubernetes.io/name": app,
        "app.kubernetes.io/instance": app,
        "app.kubernetes.io/component": "service",
        "app.kubernetes.io/part-of": app,
        "app.kubernetes.io/managed-by": MANAGER,
    }
    selector: dict[str, str] = {"app.kubernetes.io/name": app, "app.kubernetes.io/instance": app}
    annotations = {
        **settings.annotations,
        **facts.annotations,
        RELEASE: str(facts.release),
        DIGEST: facts.digest,
    }
    scaled = settings.max_replicas > settings.replicas
    count = (replicas or settings.replicas) if scaled else settings.replicas

    def made(version: str, kind: str, more: Mapping[str, str] | None = None, **body: Any) -> Object:
        metadata: Object = {"name": app, "namespace": namespace, "labels": labels}
        if more:
            metadata["annotations"] = dict(more)
        return {"apiVersion": version, "kind": kind, "metadata": metadata, **body}

    dns = {DNS_LABEL: settings.host.split(".")[0]} if ".cloudapp." in settings.host else {}
    found = [
        made("v1", "ServiceAccount", automountServiceAccountToken=False),
        # The service answers and asks nobody: no way out, not even to the name server.
        made(
            "networking.k8s.io/v1",
            "NetworkPolicy",
            spec={
                "podSelector": {"matchLabels": selector},
                "policyTypes": ["Ingress", "Egress"],
                "ingress": [{"ports": [{"port": PORT, "protocol": "TCP"}]}],
            },
        ),
        made(
            "v1",
            "Service",
            dns,
            spec={
                "type": "LoadBalancer",
                "selector": selector,
                "ports": [
                    {"name": "http", "port": PUBLIC_PORT, "targetPort": "http", "protocol": "TCP"}
                ],
            },
        ),
        made(
            "apps/v1",
            "Deployment",
            annotations,
            spec={
                "replicas": count,
                "revisionHistoryLimit": 5,
                "progressDeadlineSeconds": facts.deadline,
                "selector": {"matchLabels": selector},
                "strategy": {
                    "type": "RollingUpdate",
                    "rollingUpdate": {"maxUnavailable": 0, "maxSurge": "50%"},
                },
                "template": {
                    "metadata": {"labels": labels, "annotations": annotations},
                    "spec": _pod(app, settings, facts, selector, pull_secret),
                },
            },
        ),
    ]
    if settings.replicas > 1:
        # For one replica it could only forbid every drain of a node.
        found.append(
            made(
                "policy/v1",
                "PodDisruptionBudget",
                spec={"maxUnavailable": 1, "selector": {"matchLabels": selector}},
            )
        )
    if scaled:
        found.append(
            made(
                "autoscaling/v2",
                "HorizontalPodAutoscaler",
                spec={
                    "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": app},
                    "minReplicas": settings.replicas,
                    "maxReplicas": settings.max_replicas,
                    "metrics": [
                        {
                            "type": "Resource",
                            "resource": {
                                "name": "cpu",
                                "target": {"type": "Utilization", "averageUtilization": 70},
                            },
                        }
                    ],
                },
            )
        )
    return found


def _pod(
    app: str,
    settings: KubernetesSettings,
    facts: Facts,
    selector: Mapping[str, str],
    pull_secret: str,
) -> Object:
    env = {
        "HOST": "0.0.0.0",  # noqa: S104 - the pod is reached from outside itself
        "PORT": str(PORT),
        "TANDEM_DRAIN_SECONDS": str(settings.drain_seconds),
        **settings.env,
        **facts.env,
        "TANDEM_IMAGE_DIGEST": facts.digest,
        "TANDEM_RELEASE": str(facts.release),
    }

    def probe(path: str, *, period: int, timeout: int, failures: int) -> Object:
        return {
            "httpGet": {"path": path, "port": "http"},
            "periodSeconds": period,
            "timeoutSeconds": timeout,
            "failureThreshold": failures,
        }

    pod = {
        "serviceAccountName": app,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        # The drain, then 20 s for the work at hand, and some to spare.
        "terminationGracePeriodSeconds": settings.drain_seconds + 25,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": "service",
                "image": facts.reference,
                "imagePullPolicy": "IfNotPresent",
                "env": [{"name": name, "value": value} for name, value in env.items()],
                "ports": [{"name": "http", "containerPort": PORT, "protocol": "TCP"}],
                # A model may take a minute to load; once it has, a second is enough to say so.
                "startupProbe": probe("/readyz", period=1, timeout=2, failures=facts.deadline),
                "readinessProbe": probe("/readyz", period=2, timeout=2, failures=2),
                "livenessProbe": probe("/healthz", period=10, timeout=5, failures=3),
                "resources": {
                    "requests": {"cpu": settings.cpu, "memory": settings.memory},
                    "limits": {"memory": settings.memory_limit},
                },
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "runAsNonRoot": True,
                    "capabilities": {"drop": ["ALL"]},
                },
                "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108
            }
        ],
        "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}}],
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": key,
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": selector},
            }
            for key in ("topology.kubernetes.io/zone", "kubernetes.io/hostname")
        ],
    }
    if pull_secret:
        pod["imagePullSecrets"] = [{"name": pull_secret}]
    return pod


def render(found: list[Object]) -> str:
    """The objects as YAML documents, for `tandem manifests` and for `kubectl apply -f -`."""
    import yaml

    class Plain(yaml.SafeDumper):
        """Writes what is there twice, twice."""

        def ignore_aliases(self, data: Any) -> bool:
            return True

    return yaml.dump_all(found, Dumper=Plain, sort_keys=False, allow_unicode=True)


def name_of(found: Object) -> str:
    """`Kind/name`, as people say it."""
    return f"{found['kind']}/{found['metadata']['name']}"


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
