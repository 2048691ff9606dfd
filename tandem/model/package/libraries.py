"""The versions of the libraries that a package was made with, against those that are here."""

from __future__ import annotations

import importlib.metadata
import platform
import re
from collections.abc import Mapping

from tandem.errors import PackageError
from tandem.model.package.format import SKOPS, Manifest
from tandem.model.package.runtimes import runtime_of


def check_libraries(manifest: Manifest, lock: Mapping[str, str] | None = None) -> None:
    """Refuse a package that the application's libraries cannot open.

    `lock` maps library to version as the application has them locked; without it, what is installed
    here counts. An estimator needs the versions that wrote it; ONNX needs none. Raises
    `PackageError` that names both versions.
    """
    runtime = runtime_of(manifest.runtime)
    if runtime.NEEDED and not any(_ours(library, lock) for library in runtime.NEEDED):
        raise PackageError(
            f"{runtime.FILE}: needs {' or '.join(runtime.NEEDED)}, which the application does not "
            "have: add it to its requirements"
        )
    exact = runtime.SAME_VERSION
    if not exact and runtime.NEEDED and any(file.path == SKOPS for file in manifest.files):
        exact = ("scikit-learn", "skops")  # of the steps before it
    for library in exact:
        made, ours = manifest.libraries.get(library), _ours(library, lock)
        if made != ours:
            raise PackageError(
                f"{SKOPS}: made with {library} {made or 'of an unknown version'}, the application "
                f"is locked to {library} {ours or '(none)'}: train again with "
                f"{ours or 'a locked version'}, or change the lock"
            )


def _ours(library: str, lock: Mapping[str, str] | None) -> str | None:
    return lock.get(library) if lock is not None else _installed(library)


def locked_versions(requirements: str) -> dict[str, str]:
    """Library → version out of a requirements file's text (`name==version` lines)."""
    found = re.findall(r"(?m)^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;\\]+)", requirements)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found}


def _installed(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


def library_versions(*names: str) -> dict[str, str]:
    """Python's version and those of the distributions that are installed."""
    found = {name: _installed(name) for name in names}
    python = ".".join(platform.python_version_tuple()[:2])
    return {"python": python, **{name: version for name, version in found.items() if version}}
