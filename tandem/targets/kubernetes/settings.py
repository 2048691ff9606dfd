"""How an app is to run in a cluster, from environment variables."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from tandem.errors import SettingError


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
    values: dict[str, Any] = {}
    for variable, field in VARIABLES.items():
        text = (os.environ if environ is None else environ).get(variable, "").strip()
        if text:
            values[field] = _read(variable, field, text)
    settings = KubernetesSettings(**values)
    if settings.max_replicas and settings.max_replicas < settings.replicas:
        raise SettingError(
            f"TANDEM_MAX_REPLICAS={settings.max_replicas}: expected at least TANDEM_REPLICAS, "
            f"which is {settings.replicas}"
        )
    return settings


def _read(variable: str, field: str, text: str) -> Any:
    if field in ("replicas", "max_replicas", "drain_seconds"):
        least = 0 if field == "max_replicas" else 1
        if not (text.isdecimal() and least <= int(text) <= 1000):
            raise SettingError(
                f"invalid {variable}={text!r}: expected a whole number from {least} to 1000"
            )
        return int(text)
    if field in ("env", "annotations"):
        pairs = [part.partition("=") for part in text.split(",")]
        if any(not name.strip() or not equals for name, equals, _ in pairs):
            raise SettingError(f"{variable}: expected NAME=VALUE,NAME=VALUE")
        return {name.strip(): value for name, _, value in pairs}
    pattern, example = {
        "host": (_HOST, "digits.westeurope.cloudapp.azure.com"),
        "pull_secret": (_NAME, "auto, none, or the name of a secret"),
    }.get(field, (_QUANTITY, "500m or 256Mi"))
    if not pattern.fullmatch(text):
        raise SettingError(f"invalid {variable}={text!r}: expected {example}")
    return text
