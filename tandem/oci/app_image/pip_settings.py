"""pip's configuration, read by pip's own rules and translated for uv."""

from __future__ import annotations

import configparser
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from tandem.errors import BuildError


def uv_settings(env: Mapping[str, str]) -> dict[str, str]:
    """pip's settings as uv wants them: what a person has set up for pip works for both.

    A variable that is set for uv already wins.
    """
    pip = pip_settings(env)
    found: dict[str, str] = {}
    if value := pip.get("index-url"):
        found["UV_DEFAULT_INDEX"] = value
    if value := pip.get("extra-index-url"):
        found["UV_INDEX"] = " ".join(value.split())
    if value := pip.get("find-links"):
        found["UV_FIND_LINKS"] = ",".join(value.split())
    if value := pip.get("trusted-host"):
        found["UV_INSECURE_HOST"] = " ".join(value.split())
    if value := pip.get("cert"):
        found["SSL_CERT_FILE"] = value
    if value := pip.get("proxy"):
        found |= {"HTTPS_PROXY": value, "HTTP_PROXY": value}
    if pip.get("no-index", "").lower() in ("1", "true", "yes", "on"):
        found["UV_NO_INDEX"] = "1"
    return {name: value for name, value in found.items() if name not in env}


def pip_settings(env: Mapping[str, str]) -> dict[str, str]:
    """What pip's files and environment variables say, by pip's own order of precedence."""
    home = Path(env.get("HOME") or Path.home())
    files = [
        *(Path(one) / "pip/pip.conf" for one in env.get("XDG_CONFIG_DIRS", "/etc/xdg").split(":")),
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
    found: dict[str, str] = {}
    for section in ("global", "install"):
        if parser.has_section(section):
            found |= {name.replace("_", "-"): value for name, value in parser.items(section)}
    for name, value in env.items():
        if name.startswith("PIP_") and value:
            found[name.removeprefix("PIP_").lower().replace("_", "-")] = value
    return found
