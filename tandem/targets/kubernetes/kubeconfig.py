"""The cluster that a kubeconfig's context names, or the one that this pod is in."""

from __future__ import annotations

import base64
import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tandem.errors import SettingError
from tandem.targets.kubernetes.cluster import Cluster, Credential, load_pair
from tandem.targets.kubernetes.credentials import credential_of

IN_CLUSTER = "in-cluster"
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
PATHS = ("certificate-authority", "client-certificate", "client-key", "tokenFile")
"""Fields that hold a path, which is meant from where the file is."""


def log_in(context: str, environ: Mapping[str, str] | None = None) -> Cluster:
    """The cluster that a kubeconfig's `context` names.

    For `in-cluster`, the one that this pod is in.

    Raises `SettingError` when there is no such context, or it asks for what is not supported.
    """
    env = os.environ if environ is None else environ
    if context == IN_CLUSTER:
        return _in_cluster(env)
    files = [Path(name) for name in env.get("KUBECONFIG", "").split(os.pathsep) if name]
    files = files or [Path(env.get("HOME", "~")).expanduser() / ".kube" / "config"]
    config = _merged(files)
    name = context or config.get("current-context", "")
    entry = config["contexts"].get(name)
    if entry is None:
        known = ", ".join(sorted(config["contexts"])) or "none"
        raise SettingError(
            f"TANDEM_TARGET: there is no Kubernetes context {name!r}; there is: {known} "
            f"(or {IN_CLUSTER}, inside a pod)"
        )
    cluster = config["clusters"].get(entry.get("cluster"), {})
    user = config["users"].get(entry.get("user"), {})
    authority = _text(cluster, "certificate-authority")
    tls = ssl.create_default_context(cadata=authority)
    if cluster.get("insecure-skip-tls-verify"):
        tls.check_hostname = False
        tls.verify_mode = ssl.CERT_NONE
    certificate, key = _text(user, "client-certificate"), _text(user, "client-key")
    if certificate and key:
        load_pair(tls, certificate, key)
    return Cluster(
        f"context {name}",
        cluster.get("server", ""),
        tls,
        credential_of(user, _exec_cluster(cluster, authority), env),
        proxy=_proxy(cluster),
        server_name=cluster.get("tls-server-name") or "",
    )


def _proxy(cluster: Mapping[str, Any]) -> str:
    url = str(cluster.get("proxy-url") or "")
    scheme = urlsplit(url).scheme
    if url and scheme not in ("http", "https"):
        raise SettingError(
            f"KUBECONFIG: a proxy-url of {scheme or 'no'} scheme is not supported; "
            "expected http:// or https://"
        )
    return url


def _exec_cluster(cluster: Mapping[str, Any], authority: str | None) -> dict[str, Any]:
    """The entry as a login program gets it that asks for it (`provideClusterInfo`)."""
    names = ("server", "tls-server-name", "insecure-skip-tls-verify", "proxy-url")
    info = {name: cluster[name] for name in names if cluster.get(name)}
    if authority:
        info["certificate-authority-data"] = base64.b64encode(authority.encode()).decode()
    return info


def _merged(files: list[Path]) -> dict[str, Any]:
    """Several kubeconfig files as one; what comes first wins, as kubectl has it."""
    import yaml

    merged: dict[str, Any] = {"clusters": {}, "users": {}, "contexts": {}}
    for file in files:
        try:
            config = yaml.safe_load(file.read_text()) or {}
        except FileNotFoundError:
            continue
        except (OSError, yaml.YAMLError) as problem:
            raise SettingError(f"KUBECONFIG: {file} cannot be read: {problem}") from None
        merged.setdefault("current-context", config.get("current-context") or "")
        for kind, inner in (("clusters", "cluster"), ("users", "user"), ("contexts", "context")):
            for entry in config.get(kind) or []:
                body = dict(entry.get(inner) or {})
                for field in PATHS:
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
        IN_CLUSTER,
        f"https://{host}:{port}",
        tls,
        lambda: Credential(token=(account / "token").read_text().strip()),
    )
