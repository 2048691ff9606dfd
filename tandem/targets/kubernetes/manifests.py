"""Every Kubernetes object of one app, made from a few settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from tandem.contract import ALIVE_PATH, OWN_ALIVE_PATH, OWN_READY_PATH, READY_PATH
from tandem.targets.kubernetes.settings import KubernetesSettings
from tandem.targets.protocol import SERVICE_PORT

MANAGER = "tandem"
PREFIX = "tandem.dev/"
"""Of Tandem's own annotations; the standard labels are those of kubernetes.io."""
RELEASE, DIGEST = PREFIX + "release", PREFIX + "image-digest"
FENCE = PREFIX + "fence"
"""On each object, put there as it is written: which holder of the Lease wrote it last."""
DNS_LABEL = "service.beta.kubernetes.io/azure-dns-label-name"
PUBLIC_PORT = 80
USER = 10001
ALIVE_PATHS = {READY_PATH: ALIVE_PATH, OWN_READY_PATH: OWN_ALIVE_PATH}

Object = dict[str, Any]
"""One Kubernetes object as JSON."""


class ReleasedImage(msgspec.Struct, frozen=True, kw_only=True):
    """What is released."""

    reference: str
    digest: str
    number: int
    env: Mapping[str, str] = {}
    annotations: Mapping[str, str] = {}
    deadline: int = 120
    health: str = READY_PATH
    port: int = SERVICE_PORT
    command: tuple[str, ...] = ()
    names_its_image: bool = True


def objects(
    app: str,
    namespace: str,
    settings: KubernetesSettings,
    release: ReleasedImage,
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
        **release.annotations,
        RELEASE: str(release.number),
        DIGEST: release.digest,
    }
    scaled = settings.max_replicas > settings.replicas
    count = (replicas or settings.replicas) if scaled else settings.replicas

    def new(version: str, kind: str, more: Mapping[str, str] | None = None, **body: Any) -> Object:
        metadata: Object = {"name": app, "namespace": namespace, "labels": labels}
        if more:
            metadata["annotations"] = dict(more)
        return {"apiVersion": version, "kind": kind, "metadata": metadata, **body}

    dns = {DNS_LABEL: settings.host.split(".")[0]} if ".cloudapp." in settings.host else {}
    listed = [
        new("v1", "ServiceAccount", automountServiceAccountToken=False),
        # The service answers and asks nobody: no way out, not even to the name server.
        new(
            "networking.k8s.io/v1",
            "NetworkPolicy",
            spec={
                "podSelector": {"matchLabels": selector},
                "policyTypes": ["Ingress", "Egress"],
                "ingress": [{"ports": [{"port": release.port, "protocol": "TCP"}]}],
            },
        ),
        new(
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
        new(
            "apps/v1",
            "Deployment",
            annotations,
            spec={
                "replicas": count,
                "revisionHistoryLimit": 5,
                "progressDeadlineSeconds": release.deadline,
                "selector": {"matchLabels": selector},
                "strategy": {
                    "type": "RollingUpdate",
                    "rollingUpdate": {"maxUnavailable": 0, "maxSurge": "50%"},
                },
                "template": {
                    "metadata": {"labels": labels, "annotations": annotations},
                    "spec": _pod(app, settings, release, selector, pull_secret),
                },
            },
        ),
    ]
    if settings.replicas > 1:
        # For one replica it could only forbid every drain of a node.
        listed.append(
            new(
                "policy/v1",
                "PodDisruptionBudget",
                spec={"maxUnavailable": 1, "selector": {"matchLabels": selector}},
            )
        )
    if scaled:
        listed.append(
            new(
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
    return listed


def _pod(
    app: str,
    settings: KubernetesSettings,
    release: ReleasedImage,
    selector: Mapping[str, str],
    pull_secret: str,
) -> Object:
    env = {
        "HOST": "0.0.0.0",  # noqa: S104 - the pod is reached from outside itself
        "PORT": str(release.port),
        "TANDEM_DRAIN_SECONDS": str(settings.drain_seconds),
        **settings.env,
        **release.env,
        "TANDEM_IMAGE_DIGEST": release.digest,
        "TANDEM_RELEASE": str(release.number),
    }

    # The contract has a path for each; of another service one path must do.
    alive = ALIVE_PATHS.get(release.health, release.health)

    def probe(path: str, *, period: int, timeout: int, failures: int) -> Object:
        asked: Object = {"httpGet": {"path": path, "port": "http"}}
        return {
            **(asked if path else {"tcpSocket": {"port": "http"}}),
            "periodSeconds": period,
            "timeoutSeconds": timeout,
            "failureThreshold": failures,
        }

    pod = {
        "serviceAccountName": app,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": grace_seconds(settings),
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
                "image": release.reference,
                "imagePullPolicy": "IfNotPresent",
                **({"command": list(release.command)} if release.command else {}),
                **({} if release.names_its_image else {"lifecycle": _late_stop(settings)}),
                "env": [{"name": name, "value": value} for name, value in env.items()],
                "ports": [{"name": "http", "containerPort": release.port, "protocol": "TCP"}],
                # A model may take a minute to load; once it has, a second is enough to say so.
                "startupProbe": probe(
                    release.health, period=1, timeout=2, failures=release.deadline
                ),
                "readinessProbe": probe(release.health, period=2, timeout=2, failures=2),
                "livenessProbe": probe(alive, period=10, timeout=5, failures=3),
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


def grace_seconds(settings: KubernetesSettings) -> int:
    """Seconds that a pod has to end.

    The drain, 20 s for the work at hand, and some to spare.
    """
    return settings.drain_seconds + 25


def _late_stop(settings: KubernetesSettings) -> Object:
    """SIGTERM only once the load balancer has noticed, for services without drain.

    An image without `sleep` is told at once, as if this were not here.
    """
    return {"preStop": {"exec": {"command": ["sleep", str(settings.drain_seconds)]}}}


def render(listed: list[Object]) -> str:
    """The objects as YAML documents, as `kubectl apply -f -` takes them."""
    import yaml

    class Plain(yaml.SafeDumper):
        """Writes what is there twice, twice."""

        def ignore_aliases(self, data: Any) -> bool:
            return True

    return yaml.dump_all(listed, Dumper=Plain, sort_keys=False, allow_unicode=True)


def name_of(listed: Object) -> str:
    """`Kind/name`, as people say it."""
    return f"{listed['kind']}/{listed['metadata']['name']}"
