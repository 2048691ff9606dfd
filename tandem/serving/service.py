"""What all requests share: the model, the settings, and what counts, logs and admits."""

from __future__ import annotations

import datetime
import mmap
import threading
import traceback
from functools import cached_property

import msgspec

from tandem.serving import openapi
from tandem.serving.access import Access, Issuer
from tandem.serving.logs import Log
from tandem.serving.metrics import Metrics
from tandem.serving.model import Model
from tandem.serving.problems import Problem
from tandem.serving.score import Scored, Scoring
from tandem.serving.settings import Settings
from tandem.serving.traces import Traces
from tandem.serving.version import Released, Version, describe


class Service:
    """One worker's state, from its start to its end."""

    def __init__(
        self,
        model: Model,
        settings: Settings,
        *,
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
        self.metrics = Metrics(model, memory, worker)
        self.log.on_drop = self.metrics.dropped
        self.scoring = Scoring(model, settings, self.metrics)
        issuer = None
        if settings.oidc_issuer:
            issuer = Issuer(settings.oidc_issuer, settings.oidc_audience or "")
        rate = settings.rate / settings.workers if settings.rate else None
        self.access = Access(settings.api_keys, issuer, rate, settings.trusted_proxies)

    @cached_property
    def version(self) -> Version:
        """What is running; the libraries are looked up when somebody first asks."""
        return describe(self.model, self.settings, self.started)

    @cached_property
    def openapi(self) -> bytes:
        """The OpenAPI document."""
        return msgspec.json.encode(
            openapi.document(self.model, self.settings, Version, Released, Scored)
        )

    def failed(self, error: BaseException, request_id: str | None) -> Problem:
        """Our own fault, with everything that finding it needs, in the log and only there."""
        self.log(
            "error",
            f"{type(error).__name__}: {error}",
            request_id=request_id,
            traceback="".join(traceback.format_exception(error)),
        )
        return Problem(500, "The service failed to answer; its log has the reason.")
