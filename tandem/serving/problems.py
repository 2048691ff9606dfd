"""Answers that say no: RFC 9457 problem details with one sentence for a person."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import msgspec

MEDIA_TYPE = "application/problem+json"


class Problem(Exception):
    """A request that gets a 4xx or 503; `detail` says in a sentence what is expected."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})


class ProblemDetails(msgspec.Struct, frozen=True, omit_defaults=True):
    """RFC 9457 section 3.1, the request's id, and `error` for protocol v2 clients."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str | None = None
    error: str | None = None


def body(problem: Problem, environ: Mapping[str, Any]) -> bytes:
    """The problem as JSON; the title is the status' own phrase."""
    return msgspec.json.encode(
        ProblemDetails(
            "about:blank",
            HTTPStatus(problem.status).phrase,
            problem.status,
            problem.detail,
            environ.get("tandem.request_id"),
            problem.detail if environ.get("PATH_INFO", "").startswith("/v2") else None,
        )
    )
