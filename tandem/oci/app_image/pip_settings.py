"""A person's settings for pip, translated for uv, and where uv's own are."""

from __future__ import annotations

import configparser
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from tandem.errors import BuildError


def uv_settings(env: Mapping[str, str]) -> dict[str, str]:
    """pip's settings in uv's environment variables, so that they hold for both.

    A variable that is set for uv already wins.
    """
    pip = pip_settings(env)
    uv: dict[str, str] = {}
    if value := pip.get("index-url"):
        uv["UV_DEFAULT_INDEX"] = value
    if value := pip.get("extra-index-url"):
        uv["UV_INDEX"] = " ".join(value.split())
    if value := pip.get("find-links"):
        uv["UV_FIND_LINKS"] = ",".join(value.split())
    if value := pip.get("trusted-host"):
        uv["UV_INSECURE_HOST"] = " ".join(value.split())
    if value := pip.get("cert"):
        uv["SSL_CERT_FILE"] = value
    if value := pip.get("proxy"):
        uv |= {"HTTPS_PROXY": value, "HTTP_PROXY": value}
    if pip.get("no-index", "").lower() in ("1", "true", "yes", "on"):
        uv["UV_NO_INDEX"] = "1"
    return {name: value for name, value in uv.items() if name not in env}


def uv_configuration(env: Mapping[str, str]) -> list[str]:
    """uv's arguments for the person's own uv.toml, never for a checkout's."""
    if named := env.get("UV_CONFIG_FILE"):
        return ["--config-file", named]
    home = Path(env.get("HOME") or Path.home())
    files = [
        Path(env.get("XDG_CONFIG_HOME") or home / ".config") / "uv/uv.toml",
        *(folder / "uv/uv.toml" for folder in _system_folders(env)),
        Path("/etc/uv/uv.toml"),
    ]
    found = next((file for file in files if file.is_file()), None)
    return ["--config-file", str(found)] if found else ["--no-config"]


def pip_settings(env: Mapping[str, str]) -> dict[str, str]:
    """What pip's files and environment variables set, in pip's order of precedence."""
    home = Path(env.get("HOME") or Path.home())
    files = [
        *(folder / "pip/pip.conf" for folder in _system_folders(env)),
        Path("/etc/pip.conf"),
        home / ".pip/pip.conf",
        Path(env.get("XDG_CONFIG_HOME") or home / ".config") / "pip/pip.conf",
        home / "Library/Application Support/pip/pip.conf",
        Path(sys.prefix) / "pip.conf",
    ]
    if named := env.get("PIP_CONFIG_FILE"):
        files = [] if named == os.devnull else [*files, Path(named)]
    parser = configparser.RawConfigParser()
    try:
        parser.read(files, encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError) as problem:
        raise BuildError(f"pip's settings cannot be read: {problem}") from None
    settings: dict[str, str] = {}
    for section in ("global", "install"):
        if parser.has_section(section):
            settings |= {name.replace("_", "-"): value for name, value in parser.items(section)}
    for name, value in env.items():
        if name.startswith("PIP_") and value:
            settings[name.removeprefix("PIP_").lower().replace("_", "-")] = value
    return settings


def _system_folders(env: Mapping[str, str]) -> list[Path]:
    return [Path(folder) for folder in env.get("XDG_CONFIG_DIRS", "/etc/xdg").split(":")]
