"""`k8s://CONTEXT/NAMESPACE`: one app in one namespace of a cluster."""

from __future__ import annotations

import re
import time
from typing import Any

import msgspec

from tandem.errors import SettingError, TandemError
from tandem.oci import Registry
from tandem.targets.kubernetes import manifests, rollout
from tandem.targets.kubernetes.api import Api
from tandem.targets.kubernetes.apply import delete
from tandem.targets.kubernetes.deploy import Deploy
from tandem.targets.kubernetes.differences import changed
from tandem.targets.kubernetes.fence import Fence
from tandem.targets.kubernetes.kubeconfig import log_in
from tandem.targets.kubernetes.lease import Lease
from tandem.targets.kubernetes.live import kubectl_commands, live_of, url_of
from tandem.targets.kubernetes.manifests import Object, ReleasedImage, name_of
from tandem.targets.kubernetes.pods import describe, events, pods_of
from tandem.targets.kubernetes.pull_secret import is_made_of, login_mark, pull_secret, secret_name
from tandem.targets.kubernetes.record import (
    Record,
    hash_of,
    last_good,
    read_record,
    record_name,
    write_record,
)
from tandem.targets.kubernetes.settings import KubernetesSettings, load_settings
from tandem.targets.kubernetes.timeline import Timeline
from tandem.targets.protocol import DeployRequest, Live, Say, ServiceCheck

A_MOMENT = 2.0
"""Seconds for which what `current()` read is as good as reading it again."""


class KubernetesTarget:
    """One app in one namespace."""

    def __init__(
        self, name: str, context: str, namespace: str, app: str, settings: KubernetesSettings
    ) -> None:
        self.name = name
        self.context = context
        self.namespace = namespace
        self.app = app
        self.settings = settings
        self._api: Api | None = None

    @property
    def api(self) -> Api:
        """The API server, logged in to when it is first used."""
        if self._api is None:
            self._api = Api(log_in(self.context), self.namespace)
        return self._api

    # What is live

    def url(self) -> str:
        """Where users reach the service: the host name of the settings, else the address."""
        return url_of(self.api.get("Service", self.app), self.settings) or ""

    def current(self) -> Live | None:
        """What the Deployment runs; None where nothing is available."""
        deployment = self.api.get("Deployment", self.app)
        if deployment is None or not (deployment.get("status") or {}).get("availableReplicas"):
            return None
        service = self.api.get("Service", self.app)
        seen = {"deployment": deployment, "service": service, "at": time.monotonic()}
        return msgspec.structs.replace(self._live(deployment, service), seen=seen)

    def details(self) -> dict[str, Any]:
        """All there is to show: pods, events, the last timeline, how to look closer."""
        record = read_record(self.api, self.app)
        pods = pods_of(self.api, self.app)
        shown = [self.app, *(pod["metadata"]["name"] for pod in pods)]
        return {
            "pods": [describe(pod) for pod in pods],
            "timeline": msgspec.to_builtins(record.timeline),
            "events": [line for name in shown for line in events(self.api, name)][-20:],
            "kubectl": self.kubectl(),
        }

    def kubectl(self) -> list[str]:
        """What a person types to look closer."""
        return kubectl_commands(self.context, self.namespace, self.app)

    def drift(self) -> list[str]:
        """What is in the cluster otherwise than the last release left it, a line each."""
        return changed(self.api, self.settings, read_record(self.api, self.app).objects, {})

    # Making it live

    def deploy(
        self,
        request: DeployRequest,
        *,
        check: ServiceCheck,
        progress: Say,
        live: Live | None = None,
    ) -> Live:
        """Roll the image out and make sure that all pods answer; see `Target.deploy`."""
        secret = self.pull_secret(request.registry)
        release = _released_image(request)
        wanted = self.objects(release, self._secret_name(request.registry))
        if unchanged := self._unchanged(wanted, release, live, check, progress):
            if secret:
                self._renew(secret, progress)
            return unchanged
        timeline = Timeline(progress)
        with Lease(self.api, self.app, progress) as lease:
            deployed = Deploy(self.api, self.app, self.settings, timeline, lease).run(
                release, wanted, secret, check
            )
            service = self.api.get("Service", self.app)
            served = self._live(deployed.deployment, service, deploying=True)
        detail = {
            **served.detail,
            "pods": [describe(pod) for pod in deployed.pods],
            "timeline": msgspec.to_builtins(timeline.moments),
            "notes": deployed.notes,
        }
        # Writing down that it is live is a change of its own, which the controller has yet to see.
        detail.pop("rollout", None)
        return msgspec.structs.replace(served, detail=detail)

    def objects(self, release: ReleasedImage, pull_secret: str = "") -> list[Object]:
        """Every object of a release, as `tandem manifests` shows them."""
        return manifests.objects(
            self.app, self.namespace, self.settings, release, pull_secret=pull_secret
        )

    def manifests(self, request: DeployRequest) -> str:
        """The release as YAML; the pull secret is named and not shown."""
        return manifests.render(
            self.objects(_released_image(request), self._secret_name(request.registry))
        )

    def stop(self, *, progress: Say) -> bool:
        """Remove the app from the namespace, and wait until its pods are gone.

        The Lease stays: its number must never go back.
        """
        with Lease(self.api, self.app, progress) as lease:
            fence = Fence(self.api, lease)
            names = read_record(self.api, self.app).names
            was_there = False
            for name in sorted(names, key=lambda name: name.split("/")[0] != "Deployment"):
                was_there |= delete(fence, name)
            end = time.monotonic() + self.settings.drain_seconds + 60
            before = 0
            while (left := len(pods_of(self.api, self.app))) and time.monotonic() < end:
                if left != before:
                    progress(f"waiting for {left} pods to finish their work")
                before = left
                time.sleep(0.5)
            delete(fence, f"ConfigMap/{record_name(self.app)}")
        return was_there

    def sweep(self) -> list[str]:
        """Nothing: the next deploy finds what was left, and who holds the Lease by then."""
        return []

    # Steps

    def _unchanged(
        self,
        wanted: list[Object],
        release: ReleasedImage,
        live: Live | None,
        check: ServiceCheck,
        progress: Say,
    ) -> Live | None:
        """What is live, when it is just this, whole and untouched: one request per object."""
        deployment, service = self._seen(live)
        good = last_good(deployment)
        if deployment is None or service is None or good is None:
            return None
        if (good.release, good.digest, good.applied) != (
            release.number, release.digest, hash_of(wanted),
        ):  # fmt: skip
            return None
        status = rollout.status_of(deployment)
        if status.waiting_for or status.stopped or not (url := url_of(service, self.settings)):
            return None
        known = {f"Deployment/{self.app}": deployment, f"Service/{self.app}": service}
        here = [candidate for candidate in wanted if name_of(candidate) not in good.left_out]
        if changed(self.api, self.settings, here, known):
            return None
        try:
            check(url)
        except TandemError as problem:
            progress(f"release {good.release} is live but does not answer as it should: {problem}")
            return None
        progress(f"release {good.release} is live already; nothing rolled out")
        return self._live(deployment, service)

    def _renew(self, secret: Object, progress: Say) -> None:
        """Write the pull secret again where the login changed; no pod is restarted."""
        if is_made_of(secret, read_record(self.api, self.app).login):
            return
        with Lease(self.api, self.app, progress) as lease:
            fence = Fence(self.api, lease)
            record = read_record(self.api, self.app)
            # What was waited for may have written it, or have stopped all.
            if record == Record() or is_made_of(secret, record.login):
                return
            fence.apply(secret)
            renewed = msgspec.structs.replace(record, login=login_mark(secret))
            write_record(fence, self.app, self.namespace, renewed)
            progress(f"wrote the registry's new login to {name_of(secret)}")

    def _seen(self, live: Live | None) -> tuple[Object | None, Object | None]:
        """Deployment and Service; as `current()` read them, if that was a moment ago."""
        if live and time.monotonic() - live.seen.get("at", -A_MOMENT) < A_MOMENT:
            return live.seen["deployment"], live.seen["service"]
        deployment = self.api.get("Deployment", self.app)
        return deployment, self.api.get("Service", self.app) if deployment else None

    def _live(self, deployment: Object, service: Object | None, *, deploying: bool = False) -> Live:
        return live_of(
            *(self.api, self.app, self.settings, deployment, service),
            kubectl=self.kubectl(),
            deploying=deploying,
        )

    def _secret_name(self, registry: Registry) -> str:
        return secret_name(registry, self.app, self.settings.pull_secret)

    def pull_secret(self, registry: Registry) -> Object | None:
        """The secret that the pods pull with, when it is ours to make."""
        return pull_secret(registry, self.app, self.namespace, self.settings.pull_secret)


def kubernetes_target(
    url: str, context: str, namespace: str, *, app: str, settings: KubernetesSettings | None
) -> KubernetesTarget:
    """The target `k8s://CONTEXT/NAMESPACE`; no context: the kubeconfig's current one."""
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", namespace):
        raise SettingError(f"invalid TANDEM_TARGET={url!r}: expected k8s://CONTEXT/NAMESPACE")
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,40}[a-z0-9])?", app):
        raise SettingError(
            f"app {app!r}: expected lower case letters, digits and '-', as Kubernetes requires"
        )
    return KubernetesTarget(url, context, namespace, app, settings or load_settings())


def _released_image(request: DeployRequest) -> ReleasedImage:
    return ReleasedImage(
        reference=request.registry.reference(request.digest),
        digest=request.digest,
        number=request.release,
        env=dict(request.env),
        annotations={
            (name if "/" in name else manifests.PREFIX + name.removeprefix("tandem.")): value
            for name, value in request.annotations.items()
        },
        deadline=max(1, int(request.deadline)),
        health=request.health,
        port=request.port,
        command=request.command,
        names_its_image=request.names_its_image,
    )
