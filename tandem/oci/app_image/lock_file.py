"""A hash-locked requirements file: what it may name, and what it installs."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from tandem.errors import BuildError
from tandem.oci.app_image.python_runtime import PythonRuntime
from tandem.oci.components import Component


def refuse_other_sources(lock: Path) -> None:
    """Raise `BuildError` for a line of the lock that names its own source.

    Hosts of the setting TANDEM_ALLOWED_HOSTS (comma-separated) may be named.
    """
    setting = os.environ.get("TANDEM_ALLOWED_HOSTS", "")
    allowed = {host.strip().lower() for host in setting.split(",")}
    try:
        text = lock.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise BuildError(f"{lock.name} cannot be read: {problem}") from None
    for raw in re.sub(r"\\\r?\n", " ", text).splitlines():
        line = re.sub(r"(^|\s)#.*", "", raw).strip()
        hosts = {(urlsplit(url).hostname or "") for url in re.findall(r"[\w+.-]+://\S+", line)}
        if hosts and hosts - {""} <= allowed and "" not in hosts:
            continue
        named = re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*\s*(\[[^]]*\]\s*)?==", line)
        if line and (hosts or not named):
            raise BuildError(
                f"{lock.name} has the line {without_login(line)[:80]!r}: only NAME==VERSION with "
                "hashes is taken, or a URL of a host that TANDEM_ALLOWED_HOSTS names"
            )


def locked_components(lock: Path, runtime: PythonRuntime) -> tuple[Component, ...]:
    """What a lock file installs for `runtime`, by name and version only."""
    pinned = (
        re.match(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?\s*==\s*([^\s\\]+)", line)
        for line in lines_for(lock, runtime)
    )
    return tuple(Component(name=match[1], version=match[2]) for match in pinned if match)


def lines_for(lock: Path, runtime: PythonRuntime) -> list[str]:
    """The requirements of a lock file for `runtime`, without their markers."""
    from packaging.markers import InvalidMarker, Marker

    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(runtime.platform.architecture, "")
    environment = {
        "python_version": runtime.version,
        "python_full_version": f"{runtime.version}.0",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "platform_machine": machine,
        "platform_system": "Linux",
        "sys_platform": "linux",
        "os_name": "posix",
    }
    kept = []
    for line in re.sub(r"\\\n", " ", lock.read_text("utf-8")).splitlines():
        match = re.match(r"([^;#]+);((?:(?!\s--hash|\s#).)+)(.*)", line)
        try:
            if match and not Marker(match[2].strip()).evaluate(environment):
                continue
        except InvalidMarker as problem:
            raise BuildError(f"{lock.name}: {str(problem).splitlines()[0]}") from None
        kept.append(match[1] + match[3] if match else line)
    return kept


def without_login(text: str) -> str:
    """The text with the login taken out of its URLs."""
    return re.sub(r"://[^/@\s]+@", "://", text)
