"""How a user of a kubeconfig logs in."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from tandem.errors import SettingError, TargetError
from tandem.targets.kubernetes.cluster import Credential

AKS_SERVER = "6dae42f8-4368-4678-94ff-3960e28e3630"
"""The application that stands for every AKS API server in Microsoft Entra."""
NOT_SUPPORTED = ("auth-provider", "username", "as", "as-uid", "as-groups")
"""Ways to log in that kubectl dropped, or that nothing here needs."""


def credential_of(
    user: Mapping[str, Any], cluster: Mapping[str, Any], env: Mapping[str, str]
) -> Callable[[], Credential] | None:
    """What gives the user's credential; None where the file's certificate is all.

    `cluster` is the kubeconfig's entry, for a login program that wants to know where it logs in to.
    """
    for field in NOT_SUPPORTED:
        if user.get(field):
            raise SettingError(
                f"KUBECONFIG: {field!r} of a user is not supported; expected a token, tokenFile, "
                "client certificate or exec"
            )
    if token := user.get("token"):
        return lambda: Credential(token=token, until=float("inf"))
    if file := user.get("tokenFile"):
        return lambda: Credential(token=Path(file).read_text().strip())
    if plugin := user.get("exec"):
        if plugin.get("interactiveMode") == "Always":
            raise SettingError(
                f"KUBECONFIG: the login program {plugin.get('command')} asks a person "
                "(interactiveMode: Always), which is not supported"
            )
        if Path(plugin.get("command", "")).name == "kubelogin":
            return lambda: _azure_credential(plugin)
        return lambda: _plugin_credential(plugin, cluster, env)
    return None


def _azure_credential(plugin: Mapping[str, Any]) -> Credential:
    """A token for AKS from azure-identity, as kubelogin would get it.

    By workload identity in a pod, a managed identity, the environment, or `az login`.
    """
    from azure.core.exceptions import AzureError
    from azure.identity import DefaultAzureCredential

    words = list(plugin.get("args") or [])
    server = words[words.index("--server-id") + 1] if "--server-id" in words[:-1] else AKS_SERVER
    try:
        token = DefaultAzureCredential().get_token(f"{server}/.default")
    except AzureError as problem:
        raise TargetError(
            f"no Azure login for the Kubernetes API: {str(problem).splitlines()[0]}; "
            "`az login`, or give the pod a workload identity"
        ) from None
    return Credential(token=token.token, until=float(token.expires_on))


def _plugin_credential(
    plugin: Mapping[str, Any], cluster: Mapping[str, Any], env: Mapping[str, str]
) -> Credential:
    """What a credential plugin gives: a token, a certificate, or both.

    The protocol is Kubernetes' client.authentication.k8s.io.
    """
    argv = [plugin.get("command", ""), *(plugin.get("args") or [])]
    more = {pair["name"]: pair["value"] for pair in plugin.get("env") or []}
    spec: dict[str, Any] = {"interactive": False}
    if plugin.get("provideClusterInfo"):
        spec["cluster"] = cluster
    ask = {"apiVersion": plugin.get("apiVersion"), "kind": "ExecCredential", "spec": spec}
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL,
            env={**env, **more, "KUBERNETES_EXEC_INFO": json.dumps(ask)},
        )  # fmt: skip
        status = json.loads(done.stdout)["status"]
        ends = status.get("expirationTimestamp")
        until = datetime.fromisoformat(ends.replace("Z", "+00:00")).timestamp() if ends else 0.0
        given = Credential(
            token=str(status.get("token") or ""),
            certificate=str(status.get("clientCertificateData") or ""),
            key=str(status.get("clientKeyData") or ""),
            until=until,
        )
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError, AttributeError):
        given = Credential()
    if not given.token and not (given.certificate and given.key):
        # Never what it printed: that may be the token.
        raise TargetError(
            f"KUBECONFIG: the login program {argv[0]} gave neither a token nor a client "
            f"certificate; {plugin.get('installHint') or 'run `kubectl get pods` to see why'}"
        )
    return given
