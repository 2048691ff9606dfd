"""What all requests share: model, settings, metrics, log, access."""

from __future__ import annotations

import datetime
import mmap
import threading
import traceback
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import msgspec

from tandem.serving import openapi
from tandem.serving.access import Access, Issuer
from tandem.serving.adapters import InputAdapter
from tandem.serving.addresses import Addresses
from tandem.serving.logs import Log
from tandem.serving.metrics import Metrics
from tandem.serving.model import Model
from tandem.serving.problems import Problem
from tandem.serving.score import Scoring
from tandem.serving.settings import Settings
from tandem.serving.traces import Traces
from tandem.serving.version import DetailedVersion, describe


class Service:
    """One worker's state, from its start to its end.

    `name` is the app's where no release and no model names it, `routes` gives the OpenAPI paths of
    the app's own routes.
    """

    def __init__(
        self,
        model: Model | None,
        settings: Settings,
        *,
        addresses: Addresses,
        adapters: Sequence[InputAdapter] = (),
        name: str = "app",
        routes: Callable[[], dict[str, Any]] = dict,
        log: Log | None = None,
        traces: Traces | None = None,
        memory: mmap.mmap | None = None,
        worker: int = 0,
    ) -> None:
        self.model = model
        self.settings = settings
        self.log = log or Log(1, "warning")
        self.traces = traces
        self.started = datetime.datetime.now(datetime.UTC)
        self.draining = threading.Event()
        self.addresses = addresses
        self.name = settings.app_name or (model.manifest.name if model else name)
        self.metrics = Metrics(model, addresses.labels, memory, worker)
        self.log.on_drop = self.metrics.dropped
        self.scoring = None
        if model is not None:
            self.scoring = Scoring(model, settings, self.metrics, addresses, adapters)
        self._routes = routes
        issuer = None
        if settings.oidc_issuer:
            issuer = Issuer(settings.oidc_issuer, settings.oidc_audience or "")
        rate = settings.rate / settings.workers if settings.rate else None
        self.access = Access(settings.api_keys, issuer, rate, settings.trusted_proxies)

    @cached_property
    def version(self) -> DetailedVersion:
        """What is running; the libraries are looked up when somebody first asks."""
        return describe(self.name, self.model, self.settings, self.started, self.fields)

    @property
    def adapters(self) -> list[InputAdapter]:
        """The app's adapters that fit the model."""
        if self.scoring is None:
            return []
        known = self.scoring.adapters.values()
        return [adapter for adapter in known if adapter.fits(self.scoring.model)]

    @property
    def fields(self) -> list[str]:
        """The fields of POST /score that the model can be asked with."""
        if self.scoring is None:
            return []
        return ["rows", *(adapter.field for adapter in self.adapters)]

    @cached_property
    def openapi(self) -> bytes:
        """The OpenAPI document."""
        document = openapi.document(
            self.name, self.model, self.settings, self.addresses, self.adapters
        )
        document["paths"] |= self._routes()
        return msgspec.json.encode(document)

    def failed(self, error: BaseException, request_id: str | None) -> Problem:
        """Our own fault, with everything that finding it needs, in the log and only there."""
        self.log(
            "error",
            f"{type(error).__name__}: {error}",
            request_id=request_id,
            traceback="".join(traceback.format_exception(error)),
        )
        return Problem(500, "The service failed to answer; its log has the reason.")
