"""Logging in to a Kubernetes API server: kubeconfig, the service account of a pod, or Azure's
identity on AKS."""

from __future__ import annotations

import base64
import json
import os
import ssl
import subprocess
import tempfile
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from tandem.errors import SettingError, TargetError

IN_CLUSTER = "in-cluster"
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
AKS_SERVER = "6dae42f8-4368-4678-94ff-3960e28e3630"
"""The application that stands for every AKS API server in Microsoft Entra."""
TOKEN_LIFE = 300.0
"""Seconds after which a token whose end is not known is asked for again."""


class Cluster:
    """Where an API server is, whom it trusts, and who is asking; tokens are renewed by
    themselves."""

    def __init__(self, where: str, server: str, tls: ssl.SSLContext, token: Any = None) -> None:
        self.where = where
        self.server = server.rstrip("/")
        self.tls = tls
        self._token = token
        self._held = ""
        self._until = 0.0

    def headers(self) -> dict[str, str]:
        """The `Authorization` header, where a token is used at all."""
        if self._token is None:
            return {}
        if time.time() > self._until - 60:
            self._held, until = self._token()
            self._until = until or time.time() + TOKEN_LIFE
        return {"Authorization": f"Bearer {self._held}"}

    def forget(self) -> None:
        """Ask for a new token next time: the server refused the one at hand."""
        self._until = 0.0


def log_in(context: str, environ: Mapping[str, str] | None = None) -> Cluster:
    """The cluster that a kubeconfig's `context` names, or the one this pod is in for `in-cluster`.

    Raises `SettingError` when there is no such context.
    """
    env = os.environ if environ is None else environ
    if context == IN_CLUSTER:
        return _in_cluster(env)
    files = [Path(name) for name in env.get("KUBECONFIG", "").split(os.pathsep) if name]
    files = files or [Path(env.get("HOME", "~")).expanduser() / ".kube" / "config"]
    config = _merged(files)
    name = context or config.get("current-context", "")
    found = config["contexts"].get(name)
    if found is None:
        there = ", ".join(sorted(config["contexts"])) or "none"
        raise SettingError(
            f"TANDEM_TARGET: there is no Kubernetes context {name!r}; there is: {there} "
            f"(or {IN_CLUSTER}, inside a pod)"
        )
    cluster = config["clusters"].get(found.get("cluster"), {})
    user = config["users"].get(found.get("user"), {})
    tls = ssl.create_default_context(cadata=_text(cluster, "certificate-authority"))
    if cluster.get("insecure-skip-tls-verify"):
        tls.check_hostname = False
        tls.verify_mode = ssl.CERT_NONE
    certificate, key = _text(user, "client-certificate"), _text(user, "client-key")
    if certificate and key:
        _load_pair(tls, certificate, key)
    return Cluster(f"context {name}", cluster.get("server", ""), tls, _token_of(user, env))


def _merged(files: list[Path]) -> dict[str, Any]:
    """Several kubeconfig files as one; what comes first wins, as kubectl has it."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    merged: dict[str, Any] = {"clusters": {}, "users": {}, "contexts": {}}
    for file in files:
        try:
            config = yaml.load(file.read_text(), loader) or {}  # noqa: S506 - it is a safe one
        except FileNotFoundError:
            continue
        except (OSError, yaml.YAMLError) as problem:
            raise SettingError(f"KUBECONFIG: {file} cannot be read: {problem}") from None
        merged.setdefault("current-context", config.get("current-context") or "")
        for kind, inner in (("clusters", "cluster"), ("users", "user"), ("contexts", "context")):
            for entry in config.get(kind) or []:
                body = dict(entry.get(inner) or {})
                # Paths in it are meant from where it is.
                for field in (
                    "certificate-authority",
                    "client-certificate",
                    "client-key",
                    "tokenFile",
                ):
                    if body.get(field):
                        body[field] = str(file.parent / body[field])
                merged[kind].setdefault(entry.get("name"), body)
    return merged


def _text(entry: Mapping[str, Any], field: str) -> str | None:
    if data := entry.get(f"{field}-data"):
        return base64.b64decode(data).decode()
    if path := entry.get(field):
        try:
            return Path(path).read_text()
        except OSError as problem:
            raise SettingError(f"KUBECONFIG: {path}: {problem.strerror}") from None
    return None


def _load_pair(tls: ssl.SSLContext, certificate: str, key: str) -> None:
    # OpenSSL reads them from a file only; it is ours alone and gone before anything is sent.
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
        file.write(f"{certificate}\n{key}")
        file.flush()
        try:
            tls.load_cert_chain(file.name)
        except ssl.SSLError as problem:
            raise SettingError(f"KUBECONFIG: the client certificate is no use: {problem}") from None


def _token_of(user: Mapping[str, Any], env: Mapping[str, str]) -> Any:
    """What gives a token and the second at which it ends (0: unknown); None without tokens."""
    if token := user.get("token"):
        return lambda: (token, time.time() + 10 * 365 * 86400)
    if file := user.get("tokenFile"):
        return lambda: (Path(file).read_text().strip(), 0.0)
    if plugin := user.get("exec"):
        program = Path(plugin.get("command", "")).name
        if program == "kubelogin":
            return lambda: _azure_token(plugin)
        return lambda: _plugin_token(plugin, env)
    return None


def _azure_token(plugin: Mapping[str, Any]) -> tuple[str, float]:
    """A token for AKS from azure-identity, as kubelogin would get it: workload identity in a pod,
    a managed identity, the environment, or `az login`."""
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
    return token.token, float(token.expires_on)


def _plugin_token(plugin: Mapping[str, Any], env: Mapping[str, str]) -> tuple[str, float]:
    """A token from a credential plugin (client.authentication.k8s.io)."""
    argv = [plugin.get("command", ""), *(plugin.get("args") or [])]
    more = {pair["name"]: pair["value"] for pair in plugin.get("env") or []}
    ask: dict[str, Any] = {
        "apiVersion": plugin.get("apiVersion"),
        "kind": "ExecCredential",
        "spec": {},
    }
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=60,
            env={**env, **more, "KUBERNETES_EXEC_INFO": json.dumps(ask)},
        )  # fmt: skip
        status = json.loads(done.stdout)["status"]
        ends = status.get("expirationTimestamp")
        until = datetime.fromisoformat(ends.replace("Z", "+00:00")).timestamp() if ends else 0.0
        return str(status["token"]), until
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError):
        # Never what it printed: that may be the token.
        raise TargetError(
            f"KUBECONFIG: the login program {argv[0]} gave no token; "
            f"{plugin.get('installHint') or 'run `kubectl get pods` to see why'}"
        ) from None


def _in_cluster(env: Mapping[str, str]) -> Cluster:
    host, port = env.get("KUBERNETES_SERVICE_HOST"), env.get("KUBERNETES_SERVICE_PORT", "443")
    account = Path(env.get("TANDEM_SERVICE_ACCOUNT", ACCOUNT))
    if not host or not (account / "token").exists():
        raise SettingError(
            f"TANDEM_TARGET: {IN_CLUSTER} is for pods with a service account; elsewhere, a context"
        )
    host = f"[{host}]" if ":" in host else host
    tls = ssl.create_default_context(cafile=str(account / "ca.crt"))
    # The kubelet replaces the file before its token ends.
    return Cluster(
        IN_CLUSTER, f"https://{host}:{port}", tls,
        lambda: ((account / "token").read_text().strip(), 0.0),
    )  # fmt: skip
