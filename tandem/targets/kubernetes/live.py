"""What is live in a cluster, read from its Deployment and its Service."""

from __future__ import annotations

from typing import Any

from tandem.targets.kubernetes import rollout
from tandem.targets.kubernetes.api import Api
from tandem.targets.kubernetes.lease import is_on
from tandem.targets.kubernetes.manifests import Object
from tandem.targets.kubernetes.pods import image_of
from tandem.targets.kubernetes.record import last_good, release_of
from tandem.targets.kubernetes.settings import KubernetesSettings
from tandem.targets.protocol import Live


def live_of(
    api: Api,
    app: str,
    settings: KubernetesSettings,
    deployment: Object,
    service: Object | None,
    *,
    kubectl: list[str],
    deploying: bool = False,
) -> Live:
    """What is live; `deploying` when it is this deploy that has just put it there."""
    template = deployment["spec"]["template"]
    image = image_of(template["spec"])
    good = last_good(deployment)
    digest = image.partition("@")[2] or image
    # Since when: only Tandem's own mark counts, and only for what runs now.
    known = good is not None and good.digest == digest
    detail: dict[str, Any] = {"kubectl": kubectl}
    status = rollout.status_of(deployment)
    if status.waiting_for or status.stopped:
        detail["rollout"] = status.stopped or f"waiting for {status.waiting_for}"
    moving = not known or "rollout" in detail
    return Live(
        switching=moving and not deploying and is_on(api, app),
        url=url_of(service, settings) or "",
        digest=digest,
        reference=image,
        since=good.since if good and known else deployment["metadata"]["creationTimestamp"],
        release=release_of(deployment),
        detail=detail,
    )


def url_of(service: Object | None, settings: KubernetesSettings) -> str | None:
    """Where users reach the service; None until it has an address."""
    ingress = ((service or {}).get("status") or {}).get("loadBalancer") or {}
    if not ingress.get("ingress"):
        return None
    first = ingress["ingress"][0]
    host = settings.host or first.get("hostname") or first.get("ip", "")
    return f"http://[{host}]" if ":" in host else f"http://{host}"


def kubectl_commands(context: str, namespace: str, app: str) -> list[str]:
    """What a person types to look closer."""
    with_context = f" --context {context}" if context not in ("", "in-cluster") else ""
    at = f"kubectl{with_context} --namespace {namespace}"
    label = f"app.kubernetes.io/instance={app}"
    return [
        f"{at} rollout status deployment/{app}",
        f"{at} get pods -l {label} -o wide",
        f"{at} logs -l {label} --prefix --tail 50",
        f"{at} describe deployment/{app}",
        f"{at} get events --sort-by .lastTimestamp",
    ]
