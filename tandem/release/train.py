"""A training by the app's own trainer, which publishes the next version."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import msgspec

from tandem.errors import TandemError
from tandem.release.project import Project

log = logging.getLogger("tandem")


def train(
    project: Project, trainer: Callable[..., Any], parameters: msgspec.Struct, *, publisher: str
) -> Any:
    """Train with `parameters` and publish the next version.

    Returns what the trainer reports for the asset page.
    """
    commit = ""
    try:
        commit = project.source.newest().sha
    except TandemError as problem:
        log.info("the training commit is not known: %s", problem)
    return trainer(
        parameters,
        repository=project.models,
        state=project.state,
        training_commit=commit or None,
        publisher=publisher,
        progress=log.info,
    )
