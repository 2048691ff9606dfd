"""What is particular to one app, and which apps a folder describes."""

from __future__ import annotations

import dataclasses
import importlib
import re
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from tandem.errors import SettingError, one_line
from tandem.model.rules import AcceptanceRule

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
"""What an app may be called: part of host names, image names and Dagster's names."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class App:
    """What is particular to one app.

    `train` publishes a model version: it takes `training` (a frozen struct of parameters with
    defaults) and a project, and returns what the asset page shows; without it the app's models
    come from elsewhere. `owners` are as Dagster writes them: `team:NAME` or an address.
    """

    name: str
    description: str = ""
    rule: AcceptanceRule = dataclasses.field(default_factory=AcceptanceRule)
    training: type[msgspec.Struct] | None = None
    train: Callable[..., Any] | None = None
    owners: tuple[str, ...] = ()


def find_apps(folder: Path) -> tuple[App, ...]:
    """The apps that are released from that folder.

    Those that `[tool.tandem] apps = "MODULE:NAME"` of its pyproject.toml names; without that line
    the one whose repository the folder is. Raises `SettingError`.
    """
    table = _tandem_table(folder)
    named = table.get("apps")
    if named is None:
        return (App(name=own_name(folder)),)
    where = f'apps = "{named}" in [tool.tandem] of {folder / "pyproject.toml"}'
    module, _, attribute = str(named).partition(":")
    if not re.fullmatch(r"\w+(\.\w+)*", module) or not attribute.isidentifier():
        raise SettingError(f"{where}: expected MODULE:NAME, like orchestration.apps:APPS")
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    try:
        apps = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as problem:
        raise SettingError(f"{where}: {one_line(problem)}") from None
    if not apps or not all(isinstance(app, App) for app in apps):
        raise SettingError(f"{where}: expected a list of tandem.release.app.App")
    return tuple(apps)


def choose_app(apps: tuple[App, ...], name: str | None, folder: Path) -> App:
    """The app of that name; by default the folder's own, or the only one.

    Raises `SettingError` listing those that are known.
    """
    wanted = name or (apps[0].name if len(apps) == 1 else own_name(folder))
    for app in apps:
        if app.name == wanted:
            return app
    known = ", ".join(app.name for app in apps)
    raise SettingError(f"there is no app {wanted} here: --app takes one of {known}")


def own_name(folder: Path) -> str:
    """The name of the app whose repository the folder is.

    `[tool.tandem.app]` says it, else the name of the Python project, else that of the folder.
    Raises `SettingError` for one that cannot be part of a host name.
    """
    named = _tandem_table(folder).get("app", {}).get("name")
    if named is None:
        project = _pyproject(folder).get("project", {}).get("name")
        named = re.sub(r"[^a-z0-9]+", "-", str(project or folder.resolve().name).lower()).strip("-")
    if not NAME.fullmatch(str(named)):
        raise SettingError(
            f"{folder}: {named!r} cannot be the name of an app: expected lower-case letters, "
            'digits and dashes, at most 40; say name = "…" in [tool.tandem.app] of pyproject.toml'
        )
    return str(named)


def _tandem_table(folder: Path) -> dict[str, Any]:
    table = _pyproject(folder).get("tool", {}).get("tandem", {})
    return table if isinstance(table, dict) else {}


def _pyproject(folder: Path) -> dict[str, Any]:
    path = folder / "pyproject.toml"
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as problem:
        raise SettingError(f"{path}: {one_line(problem)}") from None
