"""The settings of the service, from its environment: read once and checked."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from tandem.errors import SettingError

if TYPE_CHECKING:
    from ipaddress import IPv4Network, IPv6Network

GUARDABLE = ("/", "/docs", "/metrics", "/openapi.json", "/version")
MODEL = Path("/model")
"""Where an image has its model."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """One field for each variable of `VARIABLES`."""

    model: Path | None = None  # the package's folder
    trust: tuple[str, ...] = ()  # classes of the app's own that the package may hold
    host: str = "0.0.0.0"  # noqa: S104 - a container is reached from outside itself
    port: int = 8080

    # What the release says of itself; the service repeats it on /version.
    app_name: str | None = None
    app_commit: str | None = None
    model_version: int | None = None
    image_digest: str | None = None
    release: int | None = None

    # How much is done at once, in each worker.
    workers: int = 1  # processes; by default as many as the CPU limit has room for
    threads: int = 32  # requests that are read, waited for or answered
    slots: int = 2  # of these, scored at a time
    patience_seconds: float = 0.5  # what a request may wait for its slot
    # Requests a second of one client (a key, a token's subject, or an address where neither is
    # asked for) to what needs a key; None: any number. Nobody counts for all: each worker lets its
    # equal part through, so that a client whose connections are all at one worker gets no more than
    # that part, and with several replicas each has this rate.
    rate: float | None = None
    # Whose X-Forwarded-For tells the client's address; they must drop names with underscores.
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = ()

    # What comes in.
    body_seconds: float = 10.0  # until a body must be there
    idle_seconds: float = 75.0  # that a kept connection may be silent
    connections: int = 4096  # open at once, in each worker; of more the longest idle are ended
    max_body_bytes: int = 8 * 2**20
    max_rows: int = 1000

    drain_seconds: float = 5.0  # between the end of readiness and the end of answers
    log: str = "info"  # or warning: no line for each request

    # Who may ask: sha256 of each key, and the issuer of tokens with the audience that they name.
    api_keys: tuple[bytes, ...] = ()
    oidc_issuer: str | None = None
    oidc_audience: str | None = None
    # Scoring needs one, and each route of the app that it does not call public. Paths of
    # `GUARDABLE` can need one, too; health never does. /version says without one what a release
    # asks for: commit, model, image. A page in the browser sends no key before it scores, and needs
    # /openapi.json and /version: guard these together with "/".
    guarded: tuple[str, ...] = ()


def hash_key(key: str) -> bytes:
    """What is kept of a key: its sha256."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _number(
    kind: Callable[[str], Any], least: float, most: float, unit: str
) -> Callable[[str, str], Any]:
    def read(name: str, text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not least <= value <= most:
            raise SettingError(f"{name}={text!r}: expected {unit} between {least:g} and {most:g}")
        return value

    return read


def _text(name: str, text: str) -> str:
    return text


def _path(name: str, text: str) -> Path:
    return Path(text)


def _keys(name: str, text: str) -> tuple[bytes, ...]:
    # Only digests are kept, and the message does not show what was given.
    keys = [key.strip() for key in text.split(",")]
    if any(len(key) < 16 for key in keys):
        raise SettingError(f"{name}: expected keys of at least 16 characters, with commas between")
    return tuple(hash_key(key) for key in keys)


def _level(name: str, text: str) -> str:
    if text not in ("info", "warning"):
        raise SettingError(f"{name}={text!r}: expected info (a line per request) or warning")
    return text


def _paths(name: str, text: str) -> tuple[str, ...]:
    paths = tuple(path.strip() for path in text.split(","))
    if unknown := [path for path in paths if path not in GUARDABLE]:
        raise SettingError(
            f"{name}={text!r}: {unknown[0]!r} cannot be guarded, expected some of "
            f"{', '.join(GUARDABLE)} with commas between"
        )
    return paths


def _networks(name: str, text: str) -> tuple[IPv4Network | IPv6Network, ...]:
    import ipaddress

    try:
        return tuple(ipaddress.ip_network(part.strip()) for part in text.split(","))
    except ValueError as error:
        raise SettingError(
            f"{name}={text!r}: {error}; expected addresses or networks, such as 10.0.0.0/8, "
            "with commas between"
        ) from None


def _names(name: str, text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


_count = _number(int, 1, 1_000_000, "a whole number")
_seconds = _number(float, 0, 3600, "seconds")

VARIABLES: dict[str, tuple[str, Callable[[str, str], Any]]] = {
    "TANDEM_MODEL": ("model", _path),
    "TANDEM_TRUST": ("trust", _names),
    "HOST": ("host", _text),
    "PORT": ("port", _number(int, 0, 65535, "a port number")),
    "TANDEM_APP_NAME": ("app_name", _text),
    "TANDEM_APP_COMMIT": ("app_commit", _text),
    "TANDEM_MODEL_VERSION": ("model_version", _count),
    "TANDEM_IMAGE_DIGEST": ("image_digest", _text),
    "TANDEM_RELEASE": ("release", _count),
    "TANDEM_DRAIN_SECONDS": ("drain_seconds", _seconds),
    "TANDEM_WORKERS": ("workers", _number(int, 1, 256, "a whole number")),
    "TANDEM_THREADS": ("threads", _number(int, 2, 1024, "a whole number")),
    "TANDEM_SLOTS": ("slots", _number(int, 1, 256, "a whole number")),
    "TANDEM_PATIENCE_SECONDS": ("patience_seconds", _seconds),
    "TANDEM_BODY_SECONDS": ("body_seconds", _seconds),
    "TANDEM_IDLE_SECONDS": ("idle_seconds", _seconds),
    "TANDEM_CONNECTIONS": ("connections", _number(int, 16, 1_000_000, "a whole number")),
    "TANDEM_MAX_BODY_BYTES": ("max_body_bytes", _number(int, 1, 2**30, "bytes")),
    "TANDEM_MAX_ROWS": ("max_rows", _count),
    "TANDEM_LOG": ("log", _level),
    "TANDEM_API_KEYS": ("api_keys", _keys),
    "TANDEM_OIDC_ISSUER": ("oidc_issuer", _text),
    "TANDEM_OIDC_AUDIENCE": ("oidc_audience", _text),
    "TANDEM_GUARDED": ("guarded", _paths),
    "TANDEM_TRUSTED_PROXIES": ("trusted_proxies", _networks),
    "TANDEM_RATE": ("rate", _number(float, 0.001, 1e6, "requests a second")),
}


def cpu_limit(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """The CPUs that the container may use (cgroups version 2 or 1); None: no limit."""
    try:
        quota, period = (root / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    try:
        limit = int((root / "cpu/cpu.cfs_quota_us").read_text())
        return limit / int((root / "cpu/cpu.cfs_period_us").read_text()) if limit > 0 else None
    except (OSError, ValueError):
        return None


def default_workers(limit: float | None) -> int:
    """A process per CPU of the limit; one where there is no limit."""
    return 1 if limit is None else min(8, max(1, math.floor(limit)))


def read(environ: Mapping[str, str] = os.environ) -> Settings:
    """The settings of an environment; empty means not set. Raises SettingError."""
    values: dict[str, Any] = {
        field: parse(name, text)
        for name, (field, parse) in VARIABLES.items()
        if (text := environ.get(name, "").strip())
    }
    if values.get("guarded") and not (values.get("api_keys") or values.get("oidc_issuer")):
        raise SettingError(
            "TANDEM_GUARDED is set, but nothing to open it with: set TANDEM_API_KEYS or "
            "TANDEM_OIDC_ISSUER, too"
        )
    if MODEL.is_dir():
        values.setdefault("model", MODEL)
    values.setdefault("workers", default_workers(cpu_limit()))
    return Settings(**values)
