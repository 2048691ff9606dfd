"""A Flask app with the extension, in this process."""

from __future__ import annotations

from typing import Any

from flask import Flask

from tandem.serving import Tandem
from tandem.serving.extension import mounted_in
from tandem.serving.middleware import Middleware
from tandem.serving.model import Model
from tandem.serving.settings import Settings


def create_app(
    model: Model | None,
    settings: Settings,
    *,
    app: Flask | None = None,
    extension: dict[str, Any] | None = None,
    **parts: Any,
) -> Middleware:
    """The middleware around an app (by default one without routes) and this model.

    `extension` as Tandem takes it, `parts` as Service does.
    """
    app = app or Flask("bare", static_folder=None)
    if "tandem" not in app.extensions:
        Tandem(app, **(extension or {}))
    return mounted_in(app).start(settings, model, **parts)
