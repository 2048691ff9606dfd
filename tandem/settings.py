"""The few settings, read once from environment variables and checked before anything starts."""

from __future__ import annotations

import os
import re
import zoneinfo
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import msgspec

from tandem.errors import SettingError

_CRON_FIELD = re.compile(r"[\d*/,\-A-Za-z]+")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Where everything is; relative folders are meant from the current directory."""

    store: str
    registry: str
    target: str
    source: str
    base_image: str
    builder: Literal["auto", "docker", "assemble"]
    release_on: Literal["nightly", "build"]
    nightly: str
    timezone: str
    keep: int
    """How many of the newest images and model versions a clean-up leaves in any case."""
    state: Path
    """What can be made again: caches, checkouts, environments, the process target's files."""


def load(environ: Mapping[str, str] | None = None) -> Settings:
    """The settings of this process.

    Raises `SettingError` naming the variable, its value and what would be right. Nothing is
    contacted.
    """
    env = os.environ if environ is None else environ

    def read(
        name: str, default: str, right: str, is_right: Callable[[str], bool] = lambda _: True
    ) -> str:
        value = env.get(name, "").strip() or default
        if not is_right(value):
            raise SettingError(f"{name}={redact(value)} is not a setting: it takes {right}")
        return value

    return Settings(
        store=read(
            "TANDEM_STORE",
            "file:.tandem/store",
            "file:FOLDER, az://ACCOUNT/CONTAINER[/PREFIX] or s3://BUCKET[/PREFIX]",
            lambda v: bool(
                re.fullmatch(r"file:.+|az://[\w-]+/[\w$-]+(/.+)?|s3://[\w.-]+(/.+)?", v)
            ),
        ),
        registry=read(
            "TANDEM_REGISTRY",
            "oci:.tandem/images",
            "oci:FOLDER or HOST/REPOSITORY",
            lambda v: bool(re.fullmatch(r"oci:.+|[\w.-]+(:\d+)?/[a-z0-9][a-z0-9._/-]*", v)),
        ),
        target=read(
            "TANDEM_TARGET",
            "process:",
            "process:[PORT], docker:[PORT] or k8s://CONTEXT/NAMESPACE",
            _is_target,
        ),
        source=read("TANDEM_SOURCE", ".", "a folder or any Git remote, with #BRANCH if wanted"),
        base_image=read("TANDEM_BASE_IMAGE", "", "HOST/REPOSITORY:TAG or nothing"),
        builder=read(  # type: ignore[arg-type]
            "TANDEM_BUILDER",
            "auto",
            "auto, docker or assemble",
            {"auto", "docker", "assemble"}.__contains__,
        ),
        release_on=read(  # type: ignore[arg-type]
            "TANDEM_RELEASE_ON", "nightly", "nightly or build", {"nightly", "build"}.__contains__
        ),
        nightly=read("TANDEM_NIGHTLY", "0 2 * * *", "a cron line like '0 2 * * *'", _is_cron),
        timezone=read("TANDEM_TIMEZONE", "UTC", "a name like Europe/Berlin", _is_timezone),
        keep=int(read("TANDEM_KEEP", "20", "a whole number from 1", _is_count)),
        state=Path(read("TANDEM_STATE", ".tandem", "a folder")).expanduser().absolute(),
    )


def redact(text: str) -> str:
    """`text` without the user and password that a URL in it may carry."""
    return re.sub(r"(?<=://)[^/@\s]+@", "", text)


def _is_target(value: str) -> bool:
    kind, _, rest = value.partition(":")
    if kind in ("process", "docker"):
        return rest == "" or (rest.isascii() and rest.isdigit() and int(rest) < 65536)
    return bool(re.fullmatch(r"k8s://[\w.@:/-]*/[a-z0-9]([a-z0-9-]*[a-z0-9])?", value))


def _is_cron(value: str) -> bool:
    fields = value.split()
    return len(fields) == 5 and all(_CRON_FIELD.fullmatch(field) for field in fields)


def _is_count(value: str) -> bool:
    return value.isascii() and value.isdigit() and int(value) >= 1


def _is_timezone(value: str) -> bool:
    try:
        zoneinfo.ZoneInfo(value)
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):
        return False
    return True
