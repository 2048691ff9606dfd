"""The secret that a cluster pulls with, made of the registry's login."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os

from tandem.errors import SettingError
from tandem.oci import Registry
from tandem.targets.kubernetes.manifests import MANAGER, Object


def secret_name(registry: Registry, app: str, setting: str) -> str:
    """The secret to pull with, by the setting `pull_secret`; empty for none."""
    if setting not in ("auto", "none"):
        return setting
    return _name(app) if setting == "auto" and _login(registry) is not None else ""


def pull_secret(registry: Registry, app: str, namespace: str, setting: str) -> Object | None:
    """The secret itself, when it is ours to make.

    Raises `SettingError` for a registry that no cluster can pull from.
    """
    if not registry.host:
        raise SettingError(
            f"TANDEM_REGISTRY={registry.url}: a cluster cannot pull from a folder, "
            "expected HOST/REPOSITORY"
        )
    credentials = _login(registry)
    if secret_name(registry, app, setting) != _name(app) or credentials is None:
        return None
    host, username, password = credentials
    pair = base64.b64encode(f"{username}:{password}".encode()).decode()
    config = {"auths": {host: {"username": username, "password": password, "auth": pair}}}
    data = base64.b64encode(json.dumps(config).encode()).decode()
    labels = {
        "app.kubernetes.io/name": app,
        "app.kubernetes.io/instance": app,
        "app.kubernetes.io/managed-by": MANAGER,
    }
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": _name(app), "namespace": namespace, "labels": labels},
        "type": "kubernetes.io/dockerconfigjson",
        "data": {".dockerconfigjson": data},
    }


def login_mark(secret: Object | None, salt: bytes = b"") -> str:
    """What tells two logins apart and reveals neither: slow to compute, and salted."""
    if secret is None:
        return ""
    salt = salt or os.urandom(16)
    login = json.dumps(secret["data"], sort_keys=True).encode()
    return f"{salt.hex()}:{hashlib.scrypt(login, salt=salt, n=2**14, r=8, p=1).hex()}"


def is_made_of(secret: Object, mark: str) -> bool:
    """Whether the secret that `mark` was made of holds the same login."""
    try:
        salt = bytes.fromhex(mark.partition(":")[0])
    except ValueError:
        return False
    return bool(salt) and hmac.compare_digest(login_mark(secret, salt), mark)


def _login(registry: Registry) -> tuple[str, str, str] | None:
    """Host, user and password of a registry; None where there are none."""
    from tandem.oci.credentials import find_credentials

    host = registry.url.partition("/")[0]
    credentials = find_credentials(host)
    if credentials is None or not credentials.username or not credentials.password:
        return None
    return host, credentials.username, credentials.password


def _name(app: str) -> str:
    return f"{app}-registry"
