"""`k8s://CONTEXT/NAMESPACE`: applied by digest, waited for, asked through the load balancer,
undone if it fails."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import json
import os
import re
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec

from tandem.errors import ImageFault, SettingError, TandemError, TargetError
from tandem.oci import Registry
from tandem.service import client
from tandem.targets import Check, DeployRequest, Live, Say
from tandem.targets.kubernetes import manifests, rollout
from tandem.targets.kubernetes.api import Api, ApiError, Unreachable
from tandem.targets.kubernetes.fence import Fence, Superseded
from tandem.targets.kubernetes.kubeconfig import log_in
from tandem.targets.kubernetes.lease import Lease, is_on
from tandem.targets.kubernetes.manifests import (
    MANAGER,
    PREFIX,
    RELEASE,
    Facts,
    KubernetesSettings,
    Object,
    name_of,
)
from tandem.targets.local.bluegreen import now

LIVE = PREFIX + "live"
"""On the Deployment: what was last known good, put there by a field manager of its own."""
LIVE_MANAGER = f"{MANAGER}-live"
ADDRESS_WAIT = 300.0
"""Seconds a cloud may take to give a load balancer its address, or DNS its name."""
ANSWER_WAIT = 60.0
A_MOMENT = 2.0
A_LITTLE = 0.5
IN_A_ROW = 14
"""Fresh connections per pod, and one pod more, that must all reach the new release before it counts
as the only one. One old pod among n new ones is then missed once in a million: (n/(n+1))^(14(n+1))
is at most e^-14."""


class Good(msgspec.Struct, frozen=True, kw_only=True):
    """The release that was last known good here."""

    release: int
    digest: str
    reference: str
    since: str
    applied: str
    """The hash of its manifests, before any were left out."""
    left_out: list[str] = []
    """The objects whose API the cluster does not offer."""


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
        self._seen: tuple[float, Object, Object | None] | None = None

    @property
    def api(self) -> Api:
        """The API server, logged in to when it is first used."""
        if self._api is None:
            self._api = Api(log_in(self.context), self.namespace)
        return self._api

    # What is live

    def url(self) -> str:
        """Where users reach the service: the host name of the settings, else the address."""
        return self._url(self.api.get("Service", self.app)) or ""

    def current(self) -> Live | None:
        """What the Deployment runs; None where nothing is available."""
        deployment = self.api.get("Deployment", self.app)
        if deployment is None or not (deployment.get("status") or {}).get("availableReplicas"):
            return None
        service = self.api.get("Service", self.app)
        self._seen = (time.monotonic(), deployment, service)
        return self._live(deployment, service)

    def details(self) -> dict[str, Any]:
        """All there is to show: pods, events, the last rollout's timeline, how to look closer."""
        record = self._record()
        pods = self._pods()
        shown = [self.app, *(pod["metadata"]["name"] for pod in pods)]
        return {
            "pods": [rollout.describe(pod) for pod in pods],
            "timeline": record.get("timeline", []),
            "events": [line for name in shown for line in rollout.events(self.api, name)][-20:],
            "kubectl": self.kubectl(),
        }

    def kubectl(self) -> list[str]:
        """What a person types to look closer."""
        context = f" --context {self.context}" if self.context not in ("", "in-cluster") else ""
        at = f"kubectl{context} --namespace {self.namespace}"
        label = f"app.kubernetes.io/instance={self.app}"
        return [
            f"{at} rollout status deployment/{self.app}",
            f"{at} get pods -l {label} -o wide",
            f"{at} logs -l {label} --prefix --tail 50",
            f"{at} describe deployment/{self.app}",
            f"{at} get events --sort-by .lastTimestamp",
        ]

    def drift(self) -> list[str]:
        """What is in the cluster otherwise than the last release left it, a line each."""
        return self._changed(self._record().get("objects", []), {})

    def _changed(self, objects: list[Object], known: Mapping[str, Object]) -> list[str]:
        """Where the cluster's objects differ from these; `known` are those read already."""
        lines = []
        for wanted in objects:
            name = name_of(wanted)
            found = known.get(name) or self.api.get(wanted["kind"], wanted["metadata"]["name"])
            if found is None:
                lines.append(f"{name} is gone")
                continue
            for line in manifests.differences(_comparable(wanted, self.settings), found):
                lines.append(f"{name} {line}")
        return lines

    # Making it live

    def deploy(self, request: DeployRequest, *, check: Check, progress: Say) -> Live:
        """Roll the image out and make sure that all pods answer; see `Target.deploy`."""
        secret_name, secret = self._pull_secret(request.registry)
        facts = _facts(request)
        wanted = self.objects(facts, secret_name)
        if unchanged := self._unchanged(wanted, facts, check, progress):
            if secret:
                self._renew(secret, progress)
            return unchanged
        timeline = rollout.Timeline(progress)
        with Lease(self.api, self.app, progress) as lease:
            fence = Fence(self.api, lease)
            record = self._record()
            known, notes = self._offered(wanted)
            before = self.api.get("Deployment", self.app)
            if before:
                # Asked while nothing is written yet: an old Role does not allow it.
                rollout.Revisions(self.api, self.app).hash_of(before)
            offered = self._with_replicas(known, before)
            for note in notes:
                timeline.say(note)
            self._tell_drift(record, before, timeline)
            # Written down first: what a deploy that is cut off made is then known to the next one.
            made = [*([secret] if secret else []), *offered]
            names = sorted({*record.get("names", []), *map(name_of, made)})
            self._remember({**record, "names": names}, fence)
            try:
                self._apply(made, timeline, fence)
                lease.check()
                pods = self._whole(facts, timeline, check, fence)
                lease.check()
            except Superseded as newer:
                raise Superseded(f"release {facts.release} did not go live: {newer}") from None
            except BaseException as problem:  # noqa: BLE001 - what _undo gives is raised
                raise self._undo(record, facts, problem, timeline, fence) from None
            self._prune(names, made, timeline, fence)
            timeline.say(f"release {facts.release} is live")
            good = Good(
                release=facts.release, digest=facts.digest, reference=facts.reference,
                since=now(), applied=_hash(wanted),
                left_out=[name_of(one) for one in wanted if one not in known],
            )  # fmt: skip
            moments = msgspec.to_builtins(timeline.moments)
            self._remember({"objects": offered, "names": sorted(map(name_of, made)),
                            "timeline": moments, "good": msgspec.to_builtins(good),
                            "login": _login_mark(secret)},
                           fence)  # fmt: skip
            deployment = self._mark(good, fence)
            found = self._live(deployment, self.api.get("Service", self.app), deploying=True)
        shown = [rollout.describe(pod) for pod in pods]
        detail = {**found.detail, "pods": shown, "timeline": moments, "notes": notes}
        # Writing down that it is live is a change of its own, which the controller has yet to see.
        detail.pop("rollout", None)
        return msgspec.structs.replace(found, detail=detail)

    def objects(self, facts: Facts, pull_secret: str = "") -> list[Object]:
        """Every object of a release, as `tandem manifests` shows them."""
        return manifests.objects(
            self.app, self.namespace, self.settings, facts, pull_secret=pull_secret
        )

    def manifests(self, request: DeployRequest) -> str:
        """The release as YAML; the pull secret is named and not shown."""
        return manifests.render(self.objects(_facts(request), self._secret_name(request.registry)))

    def stop(self, *, progress: Say) -> bool:
        """Remove the app from the namespace, and wait until its pods are gone.

        The Lease stays: its number must never go back.
        """
        with Lease(self.api, self.app, progress) as lease:
            fence = Fence(self.api, lease)
            names = self._record().get("names", [])
            there = False
            for name in sorted(names, key=lambda name: name.split("/")[0] != "Deployment"):
                there |= self._delete(name, fence)
            end = time.monotonic() + self.settings.drain_seconds + 60
            before = 0
            while (left := len(self._pods())) and time.monotonic() < end:
                if left != before:
                    progress(f"waiting for {left} pods to finish their work")
                before = left
                time.sleep(0.5)
            self._delete(f"ConfigMap/{self._record_name}", fence)
        return there

    def sweep(self) -> list[str]:
        """Nothing: the next deploy finds what was left, and who holds the Lease by then."""
        return []

    # Steps

    def _unchanged(
        self, wanted: list[Object], facts: Facts, check: Check, progress: Say
    ) -> Live | None:
        """What is live, when it is just this, whole and untouched: one request per object."""
        deployment, service = self._just_seen()
        good = _good(deployment)
        if deployment is None or service is None or good is None:
            return None
        if (good.release, good.digest, good.applied) != (
            facts.release, facts.digest, _hash(wanted),
        ):  # fmt: skip
            return None
        judged = rollout.judge(deployment)
        if judged.waiting_for or judged.stopped or not (url := self._url(service)):
            return None
        known = {f"Deployment/{self.app}": deployment, f"Service/{self.app}": service}
        if self._changed([one for one in wanted if name_of(one) not in good.left_out], known):
            return None
        try:
            check(url)
        except TandemError as problem:
            progress(f"release {good.release} is live but does not answer as it should: {problem}")
            return None
        progress(f"release {good.release} is live already; nothing rolled out")
        return self._live(deployment, service)

    def _renew(self, secret: Object, progress: Say) -> None:
        """Write the pull secret again where it is another login by now; no pod is restarted."""
        if _is_made_of(secret, self._record()):
            return
        with Lease(self.api, self.app, progress) as lease:
            fence = Fence(self.api, lease)
            record = self._record()
            # What was waited for may have written it, or have stopped all.
            if not record or _is_made_of(secret, record):
                return
            fence.apply(secret)
            self._remember({**record, "login": _login_mark(secret)}, fence)
            progress(f"wrote the registry's new login to {name_of(secret)}")

    def _just_seen(self) -> tuple[Object | None, Object | None]:
        """Deployment and Service; as `current()` read them, when that was a moment ago."""
        seen, self._seen = self._seen, None
        if seen and time.monotonic() - seen[0] < A_MOMENT:
            return seen[1], seen[2]
        deployment = self.api.get("Deployment", self.app)
        return deployment, self.api.get("Service", self.app) if deployment else None

    def _offered(self, wanted: list[Object]) -> tuple[list[Object], list[str]]:
        """The objects whose API this server has, and a note for each one that is left out."""
        groups = self.api.groups()
        offered = [one for one in wanted if one["apiVersion"] in groups]
        notes = [
            f"left out {name_of(one)}: this cluster does not offer {one['apiVersion']}"
            for one in wanted
            if one not in offered
        ]
        return offered, notes

    def _with_replicas(self, offered: list[Object], live: Object | None) -> list[Object]:
        """With as many replicas as an autoscaler wants now: it is never fought."""
        if not any(one["kind"] == "HorizontalPodAutoscaler" for one in offered):
            return offered
        count = ((live or {}).get("spec") or {}).get("replicas") or self.settings.replicas
        count = min(max(count, self.settings.replicas), self.settings.max_replicas)
        return [_replicated(one, count) for one in offered]

    def _tell_drift(
        self, record: Mapping[str, Any], live: Object | None, timeline: rollout.Timeline
    ) -> None:
        """Say what somebody changed since the last release: it is put back."""
        good = _good(live)
        applied = _release_of(live)
        if live is None or good is None or applied != good.release:
            return  # a deploy that was cut off left it, which is nobody's doing
        for line in self._changed(record.get("objects", []), {f"Deployment/{self.app}": live}):
            timeline.say(f"changed by somebody: {line}")

    def _apply(self, wanted: list[Object], timeline: rollout.Timeline, fence: Fence) -> None:
        """Apply all, taking back fields that others changed, and saying so."""
        for asked in wanted:
            one = asked
            if one["kind"] == "Deployment":
                self._take_out(one, timeline, fence)
            try:
                fence.apply(one)
            except ApiError as problem:
                if problem.status != 409 or not problem.causes:
                    raise
                one = self._settle(one, problem, timeline)
                fence.apply(one, force=True)
        timeline.say(f"applied {', '.join(map(name_of, wanted))}")

    def _take_out(self, one: Object, timeline: rollout.Timeline, fence: Fence) -> None:
        """Replace the pods' template where others put something in: applying would leave it."""

        def without(live: Object) -> Object | None:
            found = manifests.differences(one["spec"]["template"], live["spec"]["template"])
            added = [line for line in found if line.endswith(" was added")]
            if not added:
                return None
            timeline.say(f"taking out of {name_of(one)}: {'; '.join(added)}")
            return {**live, "spec": {**live["spec"], "template": one["spec"]["template"]}}

        fence.change("Deployment", self.app, without)

    def _settle(self, one: Object, problem: ApiError, timeline: rollout.Timeline) -> Object:
        """Decide a conflict: an autoscaler keeps its replicas, everything else is taken back."""
        for cause in problem.causes:
            field, said = cause.get("field", ""), cause.get("message", "")
            by = (re.search(r'conflict with "([^"]+)"', said) or ["", "somebody"])[1]
            if by.startswith(MANAGER):
                continue
            if field == ".spec.replicas" and self._is_autoscaled(by):
                live = self.api.get("Deployment", self.app) or one
                one = _replicated(one, live["spec"]["replicas"])
                timeline.say(f"kept {live['spec']['replicas']} replicas, as {by} wants")
            else:
                timeline.say(f"took back {field} of {name_of(one)} from {by}")
        return one

    def _is_autoscaled(self, manager: str) -> bool:
        if manager == "kube-controller-manager":
            return True
        try:
            found = self.api.list("HorizontalPodAutoscaler")["items"]
        except ApiError:
            return False
        return any(
            (one["spec"].get("scaleTargetRef") or {}).get("name") == self.app for one in found
        )

    def _whole(
        self, facts: Facts, timeline: rollout.Timeline, check: Check, fence: Fence
    ) -> list[Object]:
        """Wait until every pod is of this release, and every answer too."""
        pods = self._rolled_out(facts.release, facts, timeline, fence)
        url = self._await_address(timeline)
        timeline.say(f"all {len(pods)} pods are ready; asking {url}")
        end = time.monotonic() + ANSWER_WAIT
        took = await_answers(url, facts.digest, len(pods), timeline.say)
        while problem := _refusal(check, url):
            # Each node learns by itself that a pod is on its way out: the answer may be of one.
            if time.monotonic() > end or not self._is_leaving(facts.digest):
                raise problem
            timeline.say(f"asking again, as long as an old pod is still there: {problem}")
            time.sleep(A_LITTLE)
        timeline.say(f"{took} answers in a row, and the check")
        return pods

    def _rolled_out(
        self, release: int, facts: Facts, timeline: rollout.Timeline, fence: Fence
    ) -> list[Object]:
        def still_ours(deployment: Object) -> None:
            fence.judge("Deployment", deployment)

        return rollout.wait(
            self.api, self.app, release,
            deadline=facts.deadline, timeline=timeline, still_ours=still_ours,
        )  # fmt: skip

    def _is_leaving(self, digest: str) -> bool:
        """Whether a pod of another image is still there."""
        return any(not image_of(pod["spec"]).endswith(f"@{digest}") for pod in self._pods())

    def _await_address(self, timeline: rollout.Timeline) -> str:
        end = time.monotonic() + ADDRESS_WAIT
        pause = 0.05
        while not (url := self._url(self.api.get("Service", self.app))):
            if time.monotonic() > end:
                raise TargetError(
                    f"Service/{self.app} was given no address within {ADDRESS_WAIT:.0f} s: "
                    "has this cluster a load balancer?"
                )
            timeline.say("waiting for the load balancer's address")
            time.sleep(pause)
            pause = min(2 * pause, 2.0)
        return url

    def _undo(
        self, record: Mapping[str, Any], facts: Facts, problem: BaseException,
        timeline: rollout.Timeline, fence: Fence,
    ) -> BaseException:  # fmt: skip
        """Put back what was live, and wait for it; gives the error that tells both."""
        why = str(problem) if isinstance(problem, TandemError | OSError) else repr(problem)
        failed = f"release {facts.release} did not go live: {why}"
        good = msgspec.convert(record["good"], Good) if record.get("good") else None
        timeline.say(f"release {facts.release} failed: {why.splitlines()[0]}")
        try:
            if isinstance(problem, Unreachable):
                raise problem
            fence.holder.verify()
            if good is None:
                self._delete(f"Deployment/{self.app}", fence)
                then = "nothing was live before, and nothing is now"
            else:
                timeline.say(f"putting release {good.release} back")
                live = self.api.get("Deployment", self.app)
                self._apply(self._with_replicas(record["objects"], live), timeline, fence)
                pods = self._rolled_out(good.release, facts, timeline, fence)
                url = self._await_address(timeline)
                await_answers(url, good.digest, len(pods), timeline.say)
                then = f"release {good.release} is live again"
        except Unreachable as away:
            then = f"and what is live now is not known, because {away}: run it again"
        except Superseded as newer:
            then = f"and nothing was put back, because {newer}"
        except TandemError as worse:
            then = f"and release {good.release if good else 0} could not be put back: {worse}"
        if not isinstance(problem, Exception):
            return problem
        # What it says of the image stays: that is a verdict, and all else is tried again.
        fault = ImageFault if isinstance(problem, ImageFault) else TargetError
        return fault(f"{failed}\n{then}" if "\n" in failed else f"{failed}; {then}")

    def _prune(
        self, names: list[str], offered: list[Object], timeline: rollout.Timeline, fence: Fence
    ) -> None:
        """Delete what an earlier release had and this one has not."""
        kept = set(map(name_of, offered))
        for name in names:
            if name not in kept and self._delete(name, fence):
                timeline.say(f"removed {name}, which this release no longer has")

    def _delete(self, name: str, fence: Fence) -> bool:
        kind, _, what = name.partition("/")
        return fence.delete(kind, what, ours=_is_ours)

    # What is remembered in the cluster

    @property
    def _record_name(self) -> str:
        return f"{self.app}-{MANAGER}"

    def _record(self) -> dict[str, Any]:
        """What the last good release applied; holds no secret."""
        found = self.api.get("ConfigMap", self._record_name)
        try:
            record: dict[str, Any] = json.loads(((found or {}).get("data") or {})["record"])
        except (KeyError, ValueError):
            return {}
        return record

    def _remember(self, record: Mapping[str, Any], fence: Fence) -> None:
        fence.apply(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": self._record_name, "namespace": self.namespace,
                             "labels": {"app.kubernetes.io/managed-by": MANAGER}},
                "data": {"record": json.dumps(record)},
            },
            force=True,
        )  # fmt: skip

    def _mark(self, good: Good, fence: Fence) -> Object:
        text = msgspec.json.encode(good).decode()
        return fence.apply(
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"name": self.app, "annotations": {LIVE: text}},
            },
            manager=LIVE_MANAGER, force=True,
        )  # fmt: skip

    def _pods(self) -> list[Object]:
        found: list[Object] = self.api.list("Pod", label=f"app.kubernetes.io/instance={self.app}")[
            "items"
        ]
        return found

    def _live(self, deployment: Object, service: Object | None, *, deploying: bool = False) -> Live:
        """What is live; `deploying` when it is this deploy that has just put it there."""
        template = deployment["spec"]["template"]
        image = image_of(template["spec"])
        good = _good(deployment)
        digest = image.partition("@")[2] or image
        # Since when: only Tandem's own word counts, and only for what runs now.
        known = good is not None and good.digest == digest
        detail: dict[str, Any] = {"kubectl": self.kubectl()}
        judged = rollout.judge(deployment)
        if judged.waiting_for or judged.stopped:
            detail["rollout"] = judged.stopped or f"waiting for {judged.waiting_for}"
        moving = not known or "rollout" in detail
        return Live(
            switching=moving and not deploying and is_on(self.api, self.app),
            url=self._url(service) or "",
            digest=digest,
            reference=image,
            since=good.since if good and known else deployment["metadata"]["creationTimestamp"],
            release=_release_of(deployment),
            detail=detail,
        )

    def _url(self, service: Object | None) -> str | None:
        ingress = ((service or {}).get("status") or {}).get("loadBalancer") or {}
        if not ingress.get("ingress"):
            return None
        first = ingress["ingress"][0]
        host = self.settings.host or first.get("hostname") or first.get("ip", "")
        return f"http://[{host}]" if ":" in host else f"http://{host}"

    # The registry

    def _secret_name(self, registry: Registry) -> str:
        setting = self.settings.pull_secret
        if setting not in ("auto", "none"):
            return setting
        if setting == "auto" and _login(registry) is not None:
            return _secret(self.app)
        return ""

    def _pull_secret(self, registry: Registry) -> tuple[str, Object | None]:
        """The name of the secret to pull with, and the secret itself when it is ours to make."""
        if registry.url.startswith("oci:"):
            raise SettingError(
                f"TANDEM_REGISTRY={registry.url}: {self.name} pulls from a registry, "
                "want HOST/REPOSITORY"
            )
        name = self._secret_name(registry)
        login = _login(registry)
        if name != _secret(self.app) or login is None:
            return name, None
        host, username, password = login
        pair = base64.b64encode(f"{username}:{password}".encode()).decode()
        config = {"auths": {host: {"username": username, "password": password, "auth": pair}}}
        data = base64.b64encode(json.dumps(config).encode()).decode()
        labels = {
            "app.kubernetes.io/name": self.app,
            "app.kubernetes.io/instance": self.app,
            "app.kubernetes.io/managed-by": MANAGER,
        }
        return name, {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "namespace": self.namespace, "labels": labels},
            "type": "kubernetes.io/dockerconfigjson",
            "data": {".dockerconfigjson": data},
        }


def kubernetes_target(
    url: str, context: str, namespace: str, *, app: str, settings: KubernetesSettings | None
) -> KubernetesTarget:
    """The target `k8s://CONTEXT/NAMESPACE`; an empty context is the kubeconfig's current one."""
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", namespace):
        raise SettingError(f"TANDEM_TARGET={url!r}: want k8s://CONTEXT/NAMESPACE")
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,40}[a-z0-9])?", app):
        raise SettingError(f"app {app!r}: Kubernetes wants lower case letters, digits and '-'")
    return KubernetesTarget(url, context, namespace, app, settings or manifests.load_settings())


def _refusal(check: Check, url: str) -> TargetError | None:
    try:
        check(url)
    except TargetError as problem:
        return problem
    return None


def image_of(spec: Object) -> str:
    """The image of the service in a pod's specification."""
    found: str = next(c["image"] for c in spec["containers"] if c["name"] == "service")
    return found


def await_answers(url: str, digest: str, pods: int, say: Callable[[str], None]) -> int:
    """Ask on fresh connections until as many answers in a row as could miss no pod are of `digest`.

    A load balancer may still send some to a pod that is on its way out. Returns how many.
    """
    needed = IN_A_ROW * (pods + 1)
    end = time.monotonic() + ANSWER_WAIT
    right = 0
    last = ""
    host = urlsplit(url).hostname
    while right < needed:
        try:
            said = client.version(url).image.digest
            last = "" if said == digest else f"{url} still answers with image {said}"
        except (TargetError, OSError, http.client.HTTPException) as problem:
            last = str(problem)
        if not last:
            right += 1
            continue
        right = 0
        if time.monotonic() > end:
            raise TargetError(f"{last}, {ANSWER_WAIT:.0f} s after the rollout")
        say(f"waiting for {host}: {last}")
        time.sleep(0.1)
    return right


def _facts(request: DeployRequest) -> Facts:
    return Facts(
        reference=request.registry.reference(request.digest),
        digest=request.digest,
        release=request.release,
        env=dict(request.env),
        annotations={
            (name if "/" in name else PREFIX + name.removeprefix("tandem.")): value
            for name, value in request.annotations.items()
        },
        deadline=max(1, int(request.deadline)),
    )


def _hash(wanted: list[Object]) -> str:
    return hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()[:16]


def _good(deployment: Object | None) -> Good | None:
    text = (((deployment or {}).get("metadata") or {}).get("annotations") or {}).get(LIVE, "")
    try:
        return msgspec.json.decode(text, type=Good)
    except msgspec.MsgspecError:
        return None


def _release_of(deployment: Object | None) -> int:
    metadata = (deployment or {}).get("spec", {}).get("template", {}).get("metadata", {})
    return int((metadata.get("annotations") or {}).get(RELEASE) or 0)


def _comparable(one: Object, settings: KubernetesSettings) -> Object:
    """What of an object must be found as it was applied: not the replicas an autoscaler chooses."""
    if one["kind"] != "Deployment" or settings.max_replicas <= settings.replicas:
        return one
    spec = {key: value for key, value in one["spec"].items() if key != "replicas"}
    return {**one, "spec": spec}


def _replicated(one: Object, count: int) -> Object:
    if one["kind"] != "Deployment":
        return one
    return {**one, "spec": {**one["spec"], "replicas": count}}


def _secret(app: str) -> str:
    return f"{app}-registry"


def _login_mark(secret: Object | None, salt: bytes = b"") -> str:
    """What tells a login from another one and gives nothing away: slow to compute, and salted."""
    if secret is None:
        return ""
    salt = salt or os.urandom(16)
    said = json.dumps(secret["data"], sort_keys=True).encode()
    return f"{salt.hex()}:{hashlib.scrypt(said, salt=salt, n=2**14, r=8, p=1).hex()}"


def _is_made_of(secret: Object, record: Mapping[str, Any]) -> bool:
    """Whether the last pull secret that was written holds the same login."""
    mark = str(record.get("login", ""))
    try:
        salt = bytes.fromhex(mark.partition(":")[0])
    except ValueError:
        return False
    return bool(salt) and hmac.compare_digest(_login_mark(secret, salt), mark)


def _login(registry: Registry) -> tuple[str, str, str] | None:
    """Host, user and password of a registry; None where Tandem has none, or only a token."""
    from tandem.oci.credentials import find_credentials

    host = registry.url.partition("/")[0]
    found = find_credentials(host)
    if found is None or not found.username or not found.password:
        return None
    return host, found.username, found.password


def _is_ours(found: Object) -> bool:
    """A person may have an object of that name."""
    labels = found["metadata"].get("labels") or {}
    return bool(labels.get("app.kubernetes.io/managed-by") == MANAGER)
