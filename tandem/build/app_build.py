"""App builds: what became of each commit, kept by tree."""

from __future__ import annotations

import logging

import msgspec

from tandem.build.recipe import Recipe
from tandem.build.tests import TestReport
from tandem.errors import NotFound, one_line
from tandem.oci import Layer, Transfer
from tandem.service.probe import Asked
from tandem.storage import Store

log = logging.getLogger("tandem.build")


class AppBuild(msgspec.Struct, frozen=True, kw_only=True):
    """A tested tree.

    `layers` and `image` (the digest of the image without a model) only when it passed.
    """

    commit: str
    tree: str
    subject: str
    time: str
    """When it was committed, RFC 3339."""
    report: TestReport
    recipe: Recipe
    made_for: str
    """What else decided what was made: base image, builder, Python."""
    image: str | None = None
    lock_digest: str = ""
    locked: dict[str, str] = {}
    """The versions that the lock file names, by library."""
    base_digest: str = ""
    builder: str = ""
    components: int = 0
    """How many libraries the bill of materials names."""
    layers: list[Layer] = []
    transfers: list[Transfer] = []
    left_out: list[str] = []
    asked: Asked = Asked()
    """What the service is asked before and after it goes live."""

    @property
    def passed(self) -> bool:
        """Whether anything may be released from it."""
        return self.report.passed and self.image is not None


class Builds:
    """The builds of one app, found by tree hash: `apps/APP/builds/TREE.json`."""

    def __init__(self, store: Store, app: str) -> None:
        self._store = store
        self._prefix = f"apps/{app}/builds/"

    def of(self, tree: str) -> AppBuild | None:
        """The build of that tree, or None when it was not built yet or its record is of no use."""
        try:
            data, _ = self._store.read(f"{self._prefix}{tree}.json")
        except NotFound:
            return None
        try:
            return msgspec.json.decode(data, type=AppBuild)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
            log.warning("the record of build %s is made again: %s", tree[:10], one_line(problem))
            return None

    def keep(self, build: AppBuild) -> None:
        """Write the build, over an earlier one of the same tree."""
        self._store.put(f"{self._prefix}{build.tree}.json", msgspec.json.encode(build))
