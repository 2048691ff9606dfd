"""The Flask extension: `tandem = Tandem(app)` gives an app its released model.

Adds to the app, below /_tandem and at their usual places unless the app has those itself: health,
version, metrics, the API's description, POST /score and the Open Inference Protocol. What holds for
these (bounds, ids, metrics, traces, keys, the drain) holds for all routes of the app, too.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flask import Flask, current_app, has_app_context, request, request_started

from tandem.serving import app_routes
from tandem.serving.adapters import InputAdapter
from tandem.serving.addresses import Addresses
from tandem.serving.exchange import RULE, Start
from tandem.serving.logs import Log
from tandem.serving.middleware import Middleware
from tandem.serving.model import Model, load
from tandem.serving.predictions import AppModel
from tandem.serving.problems import Problem
from tandem.serving.recorded import load_recorded
from tandem.serving.routes import make_flask, refused
from tandem.serving.service import Service
from tandem.serving.settings import Settings, read

NAME = "tandem"
"""Where an app keeps it: `app.extensions[NAME]` is a Mounted."""
RECORDED = "recorded_model"


class Tandem:
    """The extension; with a factory, `Tandem()` and then `init_app(app)`.

    `adapters` are the app's own fields of POST /score. `public` are paths of the app that need no
    key where the service has keys ("/static/" stands for all below it). `usual_places=False` leaves
    the addresses below /_tandem alone. `recorded_model` is the folder, relative to the
    app's or to the current one, of the model that answers where TANDEM_MODEL is not set: in tests
    and in `flask run`.
    """

    def __init__(
        self,
        app: Flask | None = None,
        *,
        adapters: Sequence[InputAdapter] = (),
        public: Sequence[str] = (),
        usual_places: bool = True,
        recorded_model: str = RECORDED,
    ) -> None:
        self._adapters = adapters
        self._public = public
        self._usual_places = usual_places
        self._recorded_model = recorded_model
        self._last: Mounted | None = None
        self.model = AppModel(lambda: self._mounted().service.scoring)
        """The model of the app that answers, or else of the last one that was set up."""
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Set up an app; its model is loaded when it is first asked."""
        mounted = Mounted(
            app, self._adapters, self._public, self._usual_places, self._recorded_model
        )
        app.extensions[NAME] = self._last = mounted
        app.register_error_handler(Problem, refused)
        request_started.connect(_note_rule, app)
        app.wsgi_app = mounted  # type: ignore[method-assign]

    def _mounted(self) -> Mounted:
        if has_app_context() and NAME in current_app.extensions:
            mounted: Mounted = current_app.extensions[NAME]
            return mounted
        if self._last is None:
            raise RuntimeError("Tandem was given no app: use Tandem(app) or tandem.init_app(app)")
        return self._last


class Mounted:
    """The extension's state in one app: a WSGI callable around what was the app's own."""

    def __init__(
        self,
        app: Flask,
        adapters: Sequence[InputAdapter],
        public: Sequence[str],
        usual_places: bool,
        recorded_model: str,
    ) -> None:
        self._app = app
        self._inner = app.wsgi_app
        self._adapters = adapters
        self._public = public
        self._usual_places = usual_places
        self._recorded_model = recorded_model
        self._lock = threading.RLock()
        self._middleware: Middleware | None = None

    def __call__(self, environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        return (self._middleware or self.middleware)(environ, start_response)

    @property
    def middleware(self) -> Middleware:
        """What answers; made from the environment's settings when it is first asked."""
        with self._lock:
            if self._middleware is None:
                settings = read()
                log = Log(2, "warning")  # the server that runs this has a log of requests
                log.start()
                self.start(settings, self.load_model(settings), log=log)
                assert self._middleware is not None  # noqa: S101 - made by start
            return self._middleware

    @property
    def service(self) -> Service:
        """What all requests share."""
        return self.middleware.service

    def start(self, settings: Settings, model: Model | None, **parts: Any) -> Middleware:
        """Answer with this model from now on; `parts` as Service takes them."""
        rules = [rule.rule for rule in self._app.url_map.iter_rules()]
        addresses = Addresses(
            rules,
            usual=self._usual_places,
            public=self._public,
            guarded=settings.guarded,
        )
        service = Service(
            model,
            settings,
            addresses=addresses,
            adapters=self._adapters,
            name=self._app.name,
            routes=lambda: app_routes.document(self._app, addresses),
            **parts,
        )
        own = make_flask(service)
        self._middleware = Middleware(own.wsgi_app, self._inner, service, self._propagates)
        return self._middleware

    def load_model(
        self, settings: Settings, environ: Mapping[str, str] = os.environ
    ) -> Model | None:
        """The model of the settings, else the recorded one beside the app, else none."""
        if settings.model is not None:
            return load(settings.model, settings.trust)
        for folder in (Path(self._app.root_path), Path.cwd()):
            if (folder / self._recorded_model).is_dir():
                return load_recorded(folder / self._recorded_model)
        return None

    def _propagates(self) -> bool:
        propagates = self._app.config["PROPAGATE_EXCEPTIONS"]
        return bool(self._app.testing or self._app.debug if propagates is None else propagates)


def _note_rule(app: Flask, **more: Any) -> None:
    rule = request.url_rule
    if rule is not None:
        request.environ[RULE] = rule.rule


def mounted_in(app: Flask) -> Mounted:
    """The extension's state in an app, which gets a bare one where it has none."""
    if NAME not in app.extensions:
        Tandem(app, usual_places=False)
    mounted: Mounted = app.extensions[NAME]
    return mounted
