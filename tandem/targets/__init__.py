"""Where an image goes live: this machine or Kubernetes, behind one small protocol."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tandem.errors import SettingError
from tandem.targets.protocol import DeployRequest, Live, Say, ServiceCheck, Target

if TYPE_CHECKING:
    from tandem.targets.kubernetes.settings import KubernetesSettings

__all__ = ["DeployRequest", "Live", "Say", "ServiceCheck", "Target", "open_target"]

PUBLIC_PORT = 8080


def open_target(
    url: str, *, state: Path, app: str = "app", settings: KubernetesSettings | None = None
) -> Target:
    """The target that `url` names.

    `process:[PORT]`, `docker:[PORT]` or `k8s://CONTEXT/NAMESPACE`.

    `state` is a folder of this machine in which a target remembers what it started. Raises
    `SettingError` for any other form. Nothing is contacted yet.
    """
    scheme, colon, rest = url.partition(":")
    if scheme == "process" and colon:
        from tandem.targets.local.process import process_target

        return process_target(_port(url, rest), state=state, app=app)
    if scheme == "docker" and colon:
        from tandem.targets.local.docker import docker_target

        return docker_target(_port(url, rest), state=state, app=app)
    if scheme == "k8s" and rest.startswith("//"):
        from tandem.targets.kubernetes.target import kubernetes_target

        context, _, namespace = rest[2:].partition("/")
        return kubernetes_target(url, context, namespace, app=app, settings=settings)
    raise SettingError(
        f"invalid TANDEM_TARGET={url!r}: expected process:, process:PORT, docker:, docker:PORT "
        "or k8s://CONTEXT/NAMESPACE"
    )


def _port(url: str, text: str) -> int:
    if not text:
        return PUBLIC_PORT
    if not (text.isdecimal() and 1 <= int(text) <= 65535):
        raise SettingError(
            f"invalid TANDEM_TARGET={url!r}: expected a port from 1 to 65535, "
            f"such as process:{PUBLIC_PORT}"
        )
    return int(text)
