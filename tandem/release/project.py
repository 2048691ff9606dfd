"""One app with its settings opened: commits, models, images, records, target."""

from __future__ import annotations

import functools
import os
from pathlib import Path

from tandem.build.app_build import Builds
from tandem.model.package import Golden, Package
from tandem.model.repository import Repository
from tandem.model.rules import AcceptanceRule
from tandem.oci import Registry, open_registry
from tandem.release.records import Ledger
from tandem.settings import Settings
from tandem.source import Source
from tandem.storage import Store, open_store
from tandem.targets import Target, open_target


class Project:
    """Opens each part when it is first used, so that one can be asked without the others."""

    def __init__(self, app: str, settings: Settings, rule: AcceptanceRule | None = None) -> None:
        self.app = app
        self.settings = settings
        self.rule = rule or AcceptanceRule()
        self._packages: dict[int, Package] = {}

    @property
    def state(self) -> Path:
        """A folder for what can be made again."""
        return self.settings.state

    @functools.cached_property
    def store(self) -> Store:
        """The object store of models and records."""
        return open_store(self.settings.store)

    @functools.cached_property
    def registry(self) -> Registry:
        """Where images are pushed to."""
        return open_registry(self.settings.registry)

    @functools.cached_property
    def source(self) -> Source:
        """The watched branch."""
        return Source(self.settings.source, mirror=self.state / "source")

    @functools.cached_property
    def target(self) -> Target:
        """Where images go live."""
        return open_target(self.settings.target, app=self.app, state=self.state / "target")

    @functools.cached_property
    def models(self) -> Repository:
        """The published versions of the app's model."""
        return Repository(self.store, self.app)

    @functools.cached_property
    def builds(self) -> Builds:
        """The builds of the app."""
        return Builds(self.store, self.app)

    @functools.cached_property
    def ledger(self) -> Ledger:
        """The records of its images and releases."""
        return Ledger(self.store, self.app)

    def golden(self, number: int) -> Golden | None:
        """The recorded questions of a version of the model; None for 0, which is no model."""
        return self.package(number).golden() if number else None

    def package(self, number: int) -> Package:
        """A version of the model, fetched and verified once a process.

        Raises `NotFound`, `PackageError` and `StorageError`.
        """
        folder = self.state / "models" / f"{self.app}-{number:06d}"
        known = self._packages.get(number)
        if known is None or not folder.is_dir():
            known = self._packages[number] = self.models.fetch(number, folder)
        os.utime(folder)  # what is not used for long is removed
        return known
