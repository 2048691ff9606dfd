"""Where a repository is: references parsed, and http or https chosen."""

from __future__ import annotations

import ipaddress
import os
import re

import msgspec

from tandem.errors import SettingError
from tandem.oci.blobs import DIGEST, TAG

REPOSITORY = re.compile(
    r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*"
)
HOST = re.compile(
    r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:\d{1,5})?|\[[0-9a-fA-F:]+\](:\d{1,5})?"
)
_ACTIONS = {"GET": "pull", "HEAD": "pull", "DELETE": "pull,push,delete"}


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """One repository of one registry: `HOST/REPOSITORY`."""

    host: str
    """As people write it, with the port."""
    repository: str
    plain: bool
    """Whether it is asked by http."""

    @property
    def url(self) -> str:
        """What the settings call it."""
        return f"{self.host}/{self.repository}"

    @property
    def api_host(self) -> str:
        """The host that answers the protocol; Docker Hub's is another than its name."""
        hub = self.host in ("docker.io", "index.docker.io")
        return "registry-1.docker.io" if hub else self.host

    @property
    def root(self) -> str:
        """Scheme and host of every request."""
        return f"{'http' if self.plain else 'https'}://{self.api_host}"

    def api(self, path: str) -> str:
        """The URL of `path` below the repository."""
        return f"{self.root}/v2/{self.repository}/{path}"

    def scope(self, method: str) -> str:
        """What a token has to allow for a request by `method`."""
        return f"repository:{self.repository}:{_ACTIONS.get(method, 'pull,push')}"


def parse_address(url: str) -> Address:
    """The repository that `HOST/REPOSITORY` names; raises `SettingError`."""
    host, slash, repository = url.partition("/")
    if not slash or not HOST.fullmatch(host) or not REPOSITORY.fullmatch(repository):
        raise SettingError(
            f"invalid registry {_without_login(url)!r}: expected HOST/REPOSITORY (lower case) or "
            "oci:FOLDER"
        )
    return Address(host=host, repository=repository, plain=is_plain(host))


def parse_reference(text: str) -> tuple[Address, str]:
    """The repository and the tag or digest of an image reference.

    As Docker reads it, `python:3.11-slim` is `docker.io/library/python:3.11-slim`. Raises
    `SettingError`.
    """
    name, at, digest = text.partition("@")
    tag = ""
    if not at and re.search(r":[^/:]+$", name):
        name, _, tag = name.rpartition(":")
    first, slash, _ = name.partition("/")
    if not slash:
        name = f"docker.io/library/{name}"
    elif not ("." in first or ":" in first or first == "localhost"):
        name = f"docker.io/{name}"
    version = digest or tag or "latest"
    if not (DIGEST.fullmatch(version) or TAG.fullmatch(version)):
        raise SettingError(
            f"invalid image reference {_without_login(text)!r}: expected HOST/REPOSITORY:TAG"
        )
    return parse_address(name), version


def is_plain(host: str) -> bool:
    """Whether http is used: on loopback, or by TANDEM_REGISTRY_INSECURE.

    The variable holds `1` (any registry), `0` (none, not even on loopback), or host names.
    """
    setting = os.environ.get("TANDEM_REGISTRY_INSECURE", "").strip()
    if setting in ("0", "1"):
        return setting == "1"
    if host in (name.strip() for name in setting.split(",")):
        return True
    name = host.rpartition(":")[0] if re.search(r":\d+$", host) else host
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return name == "localhost"


def _without_login(url: str) -> str:
    return re.sub(r"://[^/@]*@", "://", url)
