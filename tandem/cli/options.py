"""What every command shares: the app, JSON for programs, errors as one line."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tandem.errors import TandemError

if TYPE_CHECKING:
    from tandem.release.app import App
    from tandem.release.project import Project

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
app_name = click.option("--app", "name", default=None, help="The app; by default this folder's.")


def one_line(command: Callable[..., Any]) -> Callable[..., Any]:
    """Show a `TandemError` as one line and exit with 1; its traceback is for the log."""

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> Any:
        try:
            return command(*arguments, **options)
        except TandemError as problem:
            logging.getLogger("tandem").debug("refused", exc_info=True)
            click.echo(f"tandem: {problem}", err=True)
            raise SystemExit(1) from None

    return run


def find_app(name: str | None) -> App:
    """The app that is meant. Raises `SettingError` listing those that are known."""
    from tandem.release.app import choose_app, find_apps

    return choose_app(find_apps(Path.cwd()), name, Path.cwd())


def open_project(name: str | None) -> Project:
    """The app that is meant, with its settings opened. Raises `SettingError`."""
    from tandem import settings
    from tandem.release.project import Project

    app = find_app(name)
    return Project(app.name, settings.load(), app.rule)
