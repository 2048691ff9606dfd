"""Finds the Flask app that a command names, or that `flask run` would find."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

import click
from flask import Flask
from flask.cli import ScriptInfo

from tandem.errors import SettingError


def find_app(name: str | None = None) -> Flask:
    """The app named MODULE:APP or FLASK_APP, else the one in wsgi.py or app.py here.

    A factory (`create_app`) is called, as Flask does. Raises SettingError.
    """
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    name = name or os.environ.get("FLASK_APP") or None
    try:
        return ScriptInfo(app_import_path=name).load_app()
    except click.ClickException as error:  # what Flask says when there is none, or several
        reason = " ".join(error.message.split())
    except Exception as error:  # noqa: BLE001 - importing an app may fail in any way
        traceback.print_exc()
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
    raise SettingError(
        f"no Flask app was found as {name or 'app.py or wsgi.py'}: {reason[:500]}; "
        "name one: python3 -m tandem.serving MODULE:APP"
    )
