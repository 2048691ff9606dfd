"""What every target can do: make an image live, say what is live, undo, clean up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec

from tandem.contract import READY_PATH
from tandem.oci import Registry

SERVICE_PORT = 8080
"""Inside a container, where the image says no other."""

ServiceCheck = Callable[[str], None]
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
    seen: Mapping[str, Any] = {}
    """What `current()` read, for `deploy(live=…)` not to read it again; not for showing."""


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
    health: str = READY_PATH
    """The path that answers once the service is ready (see `tandem.service.client.is_healthy`);
    empty where any answer at all will do."""
    port: int = SERVICE_PORT
    """Where the service listens in its container, as `$PORT` tells it too; a process of this
    machine has `$PORT` alone."""
    command: tuple[str, ...] = ()
    """What is started instead of the image's own command."""
    names_its_image: bool = True
    """Whether the service answers `/version` by the contract (`tandem.contract`), so that each of
    its answers shows which image it is of. Where it does not, the target alone knows."""


class Target(Protocol):
    """One place that serves one app's image. Methods raise `TargetError`."""

    name: str
    """What the settings call it: `process:8080`, `k8s://CONTEXT/NAMESPACE`."""

    def url(self) -> str:
        """Where users reach the service."""

    def current(self) -> Live | None:
        """What is live; None where nothing is, or where what should be has died."""

    def deploy(
        self,
        request: DeployRequest,
        *,
        check: ServiceCheck,
        progress: Say,
        live: Live | None = None,
    ) -> Live:
        """Make the image live and return it; `check` has then passed on the public URL.

        `live` is what `current()` gave a moment ago, where that was asked: it saves asking again.

        Raises `TargetError` once what was live before serves again. The same request for what is
        live already restarts nothing.
        """

    def details(self) -> dict[str, Any]:
        """All there is to show of what is live, as plain JSON values."""

    def drift(self) -> list[str]:
        """What is otherwise than the last release left it, a line each."""

    def manifests(self, request: DeployRequest) -> str:
        """What a deploy would apply, as YAML.

        Raises `TargetError` where nothing is applied.
        """

    def stop(self, *, progress: Say) -> bool:
        """Stop serving, and remove what serves; False where there was nothing."""

    def sweep(self) -> list[str]:
        """Clean up what a killed deploy or check left behind; what was done, a line each.

        For whoever starts next, and as often as one likes: where a deploy is on, or nothing was
        left, it does nothing, and it waits for nobody. On Kubernetes the next deploy does it.
        What a check left that another engine ran is for `sweep_once`.
        """
