"""Where an image goes live: processes or containers on this machine, or Kubernetes, behind one
small protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from tandem.errors import SettingError
from tandem.oci import Registry

if TYPE_CHECKING:
    from tandem.targets.kubernetes.manifests import KubernetesSettings

DEFAULT_PORT = 8080

Check = Callable[[str], None]
"""Asks the service at that URL; raises a `TandemError` when the answers are not those wanted."""

Say = Callable[[str], None]
"""Told in one line what is being done or waited for."""


class Live(msgspec.Struct, frozen=True, kw_only=True):
    """What a target serves: checked when it went live, and running when this was made."""

    url: str
    digest: str
    reference: str
    since: str
    """When it went live, RFC 3339 in UTC."""
    release: int
    switching: bool = False
    """A deploy is putting another release in its place just now: what answers may be of either."""
    detail: Mapping[str, Any] = {}
    """What this target alone knows: processes, pods, a rollout's timeline; plain JSON values."""


class DeployRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The image to make live, and as which release of which app."""

    app: str
    release: int
    registry: Registry
    digest: str
    env: Mapping[str, str] = {}
    """More environment variables for the service; no secrets: they are stored with the
    deployment."""
    annotations: Mapping[str, str] = {}
    """More to write down beside the deployment, where the target can (Kubernetes)."""
    deadline: float = 120.0
    """Seconds in which the new one must be ready."""


class Target(Protocol):
    """One place that serves one app's image. Methods raise `TargetError`."""

    name: str
    """What the settings call it: `process:8080`, `k8s://CONTEXT/NAMESPACE`."""

    def url(self) -> str:
        """Where users reach the service."""

    def current(self) -> Live | None:
        """What is live; None where nothing is, or where what should be has died."""

    def deploy(self, request: DeployRequest, *, check: Check, progress: Say) -> Live:
        """Make the image live and return it; `check` has then passed on the public URL.

        Raises `TargetError` once what was live before serves again. The same request for what is
        live already restarts nothing.
        """

    def details(self) -> dict[str, Any]:
        """All there is to show of what is live, for a page or a terminal; plain JSON values."""

    def drift(self) -> list[str]:
        """What is otherwise than the last release left it, a line each."""

    def stop(self, *, progress: Say) -> bool:
        """Stop serving, and remove what serves; False where there was nothing."""

    def sweep(self) -> list[str]:
        """Clean up what a killed deploy or check left behind; what was done, a line each.

        For whoever starts next, and as often as one likes: where a deploy is on, or nothing was
        left, it does nothing, and it waits for nobody. On Kubernetes the next deploy does it.
        What a check left that another engine ran is for `sweep_once`.
        """


def open_target(
    url: str, *, state: Path, app: str = "app", settings: KubernetesSettings | None = None
) -> Target:
    """The target that `url` names: `process:[PORT]`, `docker:[PORT]` or `k8s://CONTEXT/NAMESPACE`.

    `state` is a folder of this machine in which a target remembers what it started. Raises
    `SettingError` for any other form. Nothing is contacted yet.
    """
    scheme, colon, rest = url.partition(":")
    if scheme == "process" and colon:
        from tandem.targets.local.process import process_target

        return process_target(_port(url, rest), state=state)
    if scheme == "docker" and colon:
        from tandem.targets.local.docker import docker_target

        return docker_target(_port(url, rest), state=state, app=app)
    if scheme == "k8s" and rest.startswith("//"):
        from tandem.targets.kubernetes.target import kubernetes_target

        context, _, namespace = rest[2:].partition("/")
        return kubernetes_target(url, context, namespace, app=app, settings=settings)
    raise SettingError(
        f"TANDEM_TARGET={url!r}: want process:, process:PORT, docker:, docker:PORT or k8s://CONTEXT/NAMESPACE"
    )


@contextmanager
def run_once(
    registry: Registry,
    digest: str,
    *,
    state: Path,
    env: Mapping[str, str] | None = None,
    engine: str = "process",
    deadline: float = 120.0,
) -> Iterator[str]:
    """Run that image privately on this machine for as long as the context lasts; gives its URL once
    it is ready.

    `engine` is `process` or `docker`. Raises `TargetError` with the last log lines when it does not
    start. Nothing stays behind, also when this process is killed.
    """
    if engine == "docker":
        from tandem.targets.local.docker import run_container_once as run
    else:
        from tandem.targets.local.process import run_process_once as run
    with run(registry, digest, state=state, env=env or {}, deadline=deadline) as url:
        yield url


def sweep_once(*, state: Path, engine: str = "process") -> list[str]:
    """End what killed processes of this machine left of `run_once`; what was done, a line each.

    What a living one runs, or one of another container, is left alone. Raises `TargetError` when
    the engine does not answer.
    """
    if engine == "docker":
        from tandem.targets.local.docker import sweep_containers

        return sweep_containers()
    from tandem.targets.local.process import ProcessRunner

    return ProcessRunner(state).sweep()


def _port(url: str, text: str) -> int:
    if not text:
        return DEFAULT_PORT
    if not (text.isdecimal() and 1 <= int(text) <= 65535):
        raise SettingError(
            f"TANDEM_TARGET={url!r}: want a port from 1 to 65535, such as process:{DEFAULT_PORT}"
        )
    return int(text)
