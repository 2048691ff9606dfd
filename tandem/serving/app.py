"""The whole service around a loaded model: routes, and the middleware around them."""

from __future__ import annotations

from typing import Any

from tandem.serving.middleware import Middleware
from tandem.serving.model import Model
from tandem.serving.routes import make_flask
from tandem.serving.service import Service
from tandem.serving.settings import Settings


def create_app(model: Model, settings: Settings, **parts: Any) -> Middleware:
    """The WSGI callable of a service; `parts` as Service takes them."""
    service = Service(model, settings, **parts)
    return Middleware(make_flask(service).wsgi_app, service)
