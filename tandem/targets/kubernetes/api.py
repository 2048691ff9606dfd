"""The few requests that Tandem sends to a Kubernetes API server.

The official client takes 1.3 s to import, which is a good part of a rollout; what is used of the
API fits here.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlencode

from tandem.errors import TargetError
from tandem.targets.kubernetes.cluster import Cluster

Object = dict[str, Any]

PATIENCE = 30.0
"""Seconds for which an API server may be away."""

RESOURCES = {
    "ConfigMap": ("v1", "configmaps"),
    "Deployment": ("apps/v1", "deployments"),
    "Endpoints": ("v1", "endpoints"),
    "Event": ("v1", "events"),
    "HorizontalPodAutoscaler": ("autoscaling/v2", "horizontalpodautoscalers"),
    "Lease": ("coordination.k8s.io/v1", "leases"),
    "NetworkPolicy": ("networking.k8s.io/v1", "networkpolicies"),
    "Pod": ("v1", "pods"),
    "PodDisruptionBudget": ("policy/v1", "poddisruptionbudgets"),
    "ReplicaSet": ("apps/v1", "replicasets"),
    "Secret": ("v1", "secrets"),
    "Service": ("v1", "services"),
    "ServiceAccount": ("v1", "serviceaccounts"),
}
VERBS = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


class ApiError(TargetError):
    """The API server said no; `status` is its HTTP status, `body` its Status object."""

    def __init__(self, message: str, status: int, body: Object) -> None:
        super().__init__(message)
        self.status = status
        self.body = body

    @property
    def causes(self) -> list[Object]:
        """What exactly it objected to."""
        return (self.body.get("details") or {}).get("causes") or []


class Unreachable(TargetError):
    """The API server did not answer, for as long as patience lasted."""


class Api:
    """One namespace of a cluster; `requests` counts what was sent."""

    def __init__(self, cluster: Cluster, namespace: str, *, patience: float = PATIENCE) -> None:
        import urllib3

        self.cluster = cluster
        self.namespace = namespace
        self.patience = patience
        self.requests = 0
        self._watches: set[Any] = set()
        shared: dict[str, Any] = {
            "ssl_context": cluster.tls,
            "maxsize": 8,
            "retries": False,
            "timeout": urllib3.Timeout(connect=5, read=30),
        }
        if cluster.server_name:
            shared["server_hostname"] = cluster.server_name
        self._pool = (
            urllib3.ProxyManager(cluster.proxy, **shared)
            if cluster.proxy
            else urllib3.PoolManager(**shared)
        )

    def get(self, kind: str, name: str) -> Object | None:
        """One object, or None."""
        return self._maybe("GET", kind, name)

    def list(self, kind: str, **selectors: str) -> Object:
        """A list object: its `items`, and the `resourceVersion` to watch from."""
        query = {f"{key}Selector": value for key, value in selectors.items()}
        return self.send("GET", self._path(kind), query=query, what=("list", kind, ""))

    def apply(self, wanted: Object, *, manager: str, force: bool, dry_run: bool = False) -> Object:
        """Server-side apply.

        Raises `ApiError` with status 409 on a conflict, unless forced.
        """
        kind, name = wanted["kind"], wanted["metadata"]["name"]
        query = {"fieldManager": manager, "force": str(force).lower()}
        if dry_run:
            query["dryRun"] = "All"
        return self.send(
            "PATCH", self._path(kind, name, version=wanted["apiVersion"]), query=query, body=wanted,
            content_type="application/apply-patch+yaml", what=("patch", kind, name),
        )  # fmt: skip

    def create(self, wanted: Object, *, manager: str = "") -> Object:
        """A new object; `ApiError` with status 409 when it is there."""
        kind = wanted["kind"]
        return self.send(
            "POST", self._path(kind, version=wanted["apiVersion"]),
            query={"fieldManager": manager} if manager else None, body=wanted,
            what=("create", kind, ""),
        )  # fmt: skip

    def replace(self, wanted: Object) -> Object:
        """Write the object as given.

        Raises `ApiError` with status 409 when it is no longer the one read.
        """
        kind, name = wanted["kind"], wanted["metadata"]["name"]
        return self.send("PUT", self._path(kind, name), body=wanted, what=("update", kind, name))

    def merge(self, live: Object, change: Object) -> Object:
        """Merge `change` into the object, and return it.

        Raises `ApiError` with status 409 when `change` names another resourceVersion.
        """
        kind, name = live["kind"], live["metadata"]["name"]
        return self.send(
            "PATCH", self._path(kind, name), body=change,
            content_type="application/merge-patch+json", what=("patch", kind, name),
        )  # fmt: skip

    def delete(
        self, kind: str, name: str, *, preconditions: Mapping[str, str] | None = None
    ) -> bool:
        """Delete an object and what belongs to it; False when there was none.

        `ApiError` with status 409 when it has not the `uid` and `resourceVersion` of
        `preconditions`.
        """
        body: Object = {
            "kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background",
        }  # fmt: skip
        if preconditions:
            body["preconditions"] = dict(preconditions)
        return self._maybe("DELETE", kind, name, body) is not None

    def log(self, pod: str, *, lines: int, previous: bool) -> str:
        """The last lines a pod wrote; empty when they cannot be had."""
        query = {"tailLines": str(lines), "previous": str(previous).lower()}
        try:
            data = self._send(
                "GET", self._path("Pod", pod) + "/log?" + urlencode(query), None, "", self.patience,
                ("get", "Pod/log", pod),
            )  # fmt: skip
        except TargetError:
            return ""
        return data.decode(errors="replace").strip()

    def groups(self) -> set[str]:
        """Every API group and version that the server offers: `policy/v1`."""
        body = self.send("GET", "/apis", what=("get", "/apis", ""))
        return {
            version["groupVersion"] for group in body["groups"] for version in group["versions"]
        } | {"v1"}

    def watch(
        self, kind: str, version: str, ended: threading.Event, **selectors: str
    ) -> Iterator[Object]:
        """Changes from a resourceVersion on: `{"type", "object"}`.

        Ends when the server has forgotten that version (410): then the caller lists again.
        """
        while not ended.is_set():
            query = {
                **{f"{key}Selector": value for key, value in selectors.items()},
                "watch": "true", "allowWatchBookmarks": "true", "resourceVersion": version,
                "timeoutSeconds": "60",
            }  # fmt: skip
            for event in self._events(kind, query, ended):
                if event["type"] == "ERROR":
                    if event["object"].get("code") == 410:
                        return
                    break
                version = event["object"]["metadata"]["resourceVersion"]
                if event["type"] != "BOOKMARK":
                    yield event

    def close(self) -> None:
        """Close the connections that are open; the next request opens another."""
        self._pool.clear()

    def hang_up(self) -> None:
        """End the watches that other threads are reading, whose `ended` was set before."""
        for answer in list(self._watches):
            with contextlib.suppress(Exception):
                answer.shutdown()

    def _events(
        self, kind: str, query: Mapping[str, str], ended: threading.Event
    ) -> Iterator[Object]:
        import urllib3

        self.requests += 1
        try:
            answer = self._pool.request(
                "GET", f"{self.cluster.server}{self._path(kind)}?{urlencode(query)}",
                headers=self.cluster.headers(), preload_content=False,
                timeout=urllib3.Timeout(connect=5, read=70),
            )  # fmt: skip
        except urllib3.exceptions.HTTPError:
            ended.wait(0.5)
            return
        self._watches.add(answer)
        try:
            if ended.is_set():
                return
            if answer.status >= 400:
                body = _decoded(answer.read())
                if answer.status == 410:
                    yield {"type": "ERROR", "object": {"code": 410}}
                elif answer.status in (401, 403):
                    raise self._refused(answer.status, body, ("watch", kind, ""))
                ended.wait(0.5)
                return
            rest = b""
            for chunk in answer.stream(65536, decode_content=True):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    if line.strip():
                        yield json.loads(line)
                if ended.is_set():
                    return
        except (urllib3.exceptions.HTTPError, OSError, ValueError):
            return
        finally:
            self._watches.discard(answer)
            answer.close()

    def _maybe(
        self, method: str, kind: str, name: str, body: Object | None = None
    ) -> Object | None:
        try:
            return self.send(
                method, self._path(kind, name), body=body, what=(VERBS[method], kind, name)
            )
        except ApiError as problem:
            if problem.status == 404:
                return None
            raise

    def _path(self, kind: str, name: str = "", *, version: str = "") -> str:
        group, plural = RESOURCES[kind]
        group = version or group
        root = f"/api/{group}" if "/" not in group else f"/apis/{group}"
        path = f"{root}/namespaces/{self.namespace}/{plural}"
        return f"{path}/{name}" if name else path

    def send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        content_type: str = "application/json",
        what: tuple[str, str, str],
    ) -> Object:
        """One request, repeated while the server cannot take it and patience lasts."""
        url = f"{path}?{urlencode(query)}" if query else path
        data = json.dumps(body).encode() if body is not None else None
        return _decoded(self._send(method, url, data, content_type, self.patience, what))

    def _send(
        self,
        method: str,
        path: str,
        data: bytes | None,
        content_type: str,
        patience: float,
        what: tuple[str, str, str],
    ) -> bytes:
        import urllib3

        end = time.monotonic() + patience
        pause = 0.1
        renewed = False
        while True:
            headers = {"Accept": "application/json", **self.cluster.headers()}
            if data is not None:
                headers["Content-Type"] = content_type
            self.requests += 1
            try:
                answer = self._pool.request(
                    method, self.cluster.server + path, body=data, headers=headers
                )
            except urllib3.exceptions.HTTPError as problem:
                # A create that got lost may have happened: the caller finds it and goes on.
                if time.monotonic() > end:
                    raise Unreachable(
                        f"the Kubernetes API of {self.cluster.where} at {self.cluster.server} "
                        f"does not answer: {_reason(problem)}"
                    ) from None
            else:
                if answer.status < 400:
                    return bytes(answer.data)
                body = _decoded(answer.data)
                if answer.status == 401 and not renewed:
                    renewed = True
                    self.cluster.forget()
                    # Connections that are open show the client certificate that was refused.
                    self.close()
                    continue
                if answer.status not in (429, 500, 502, 503, 504) or time.monotonic() > end:
                    raise self._refused(answer.status, body, what)
                after = answer.headers.get("Retry-After", "")
                pause = min(float(after), 10.0) if after.isdecimal() else pause
            time.sleep(pause)
            pause = min(2 * pause, 2.0)

    def _refused(self, status: int, body: Object, what: tuple[str, str, str]) -> ApiError:
        verb, kind, name = what
        resource = {"Pod/log": "pods/log"}.get(kind) or RESOURCES.get(kind, ("", kind))[1]
        message = body.get("message", "")
        if status == 403 and "is forbidden" in message and " cannot " in message:
            text = (
                f"missing permission: {verb} {resource} in namespace {self.namespace} "
                "(see deploy/kubernetes/role.yaml)"
            )
        elif status == 401:
            text = f"the Kubernetes API of {self.cluster.where} does not accept this login"
        else:
            reason = message or f"HTTP {status}"
            text = f"{verb} {resource}{'/' + name if name else ''}: {reason}"
        return ApiError(text, status, body)


def _decoded(data: bytes) -> Object:
    try:
        decoded = json.loads(data)
    except ValueError:
        return {"message": data[:200].decode(errors="replace").strip()}
    return decoded if isinstance(decoded, dict) else {}


def _reason(problem: BaseException) -> str:
    while (cause := problem.__cause__ or problem.__context__) is not None:
        problem = cause
    return getattr(problem, "strerror", None) or str(problem) or type(problem).__name__
