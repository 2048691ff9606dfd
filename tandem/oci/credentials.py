"""Credentials for a registry: from the environment, else from Docker's settings."""

from __future__ import annotations

import base64
import os
import warnings
from collections.abc import Mapping

import msgspec

from tandem.errors import RegistryError


class Credentials(msgspec.Struct, frozen=True):
    """A user's name and password, or the refresh token that a `docker login` left."""

    username: str = ""
    password: str = ""
    refresh_token: str = ""

    def __repr__(self) -> str:
        return f"Credentials({self.username!r}, …)"

    @property
    def basic(self) -> str:
        """The value of an Authorization header."""
        pair = f"{self.username}:{self.password}".encode()
        return f"Basic {base64.b64encode(pair).decode()}"


def find_credentials(host: str, env: Mapping[str, str] = os.environ) -> Credentials | None:
    """The credentials of the environment for TANDEM_REGISTRY's host, else Docker's.

    A password is for one host: that of the base image, say, never sees it.
    """
    username = env.get("TANDEM_REGISTRY_USERNAME", "")
    password = env.get("TANDEM_REGISTRY_PASSWORD", "")
    if username and password and env.get("TANDEM_REGISTRY", "").partition("/")[0] == host:
        return Credentials(username, password)
    return _of_docker(host, env)


def _of_docker(host: str, env: Mapping[str, str]) -> Credentials | None:
    folder = env.get("DOCKER_CONFIG") or os.path.join(env.get("HOME", ""), ".docker")  # noqa: PTH118
    path = os.path.join(folder, "config.json")  # noqa: PTH118
    if not os.path.exists(path):  # noqa: PTH110 - before the import that costs a fifth of a second
        return None
    import docker.auth
    import docker.errors

    name = docker.auth.INDEX_NAME if host == "registry-1.docker.io" else host
    try:
        # A helper that is not installed is an error below, in our words.
        with warnings.catch_warnings(action="ignore"):
            entry = docker.auth.load_config(path).resolve_authconfig(name)
    except (docker.errors.DockerException, ValueError, KeyError) as problem:
        lines = str(problem).splitlines()
        raise RegistryError(
            f"the login for {host} in {path} cannot be read: {lines[0] if lines else problem!r}"
        ) from None
    if not entry:
        return None
    fields = {key.lower(): value for key, value in entry.items() if isinstance(value, str)}
    username, password = fields.get("username", ""), fields.get("password", "")
    if token := fields.get("identitytoken", ""):
        return Credentials(refresh_token=token)
    if username == "<token>":  # what a credential helper gives for an identity token
        return Credentials(refresh_token=password)
    return Credentials(username, password) if username or password else None
