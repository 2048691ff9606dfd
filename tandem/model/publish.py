"""The notebook's front door: publish a model, and hear what the release will say."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from tandem.model import package as packages
from tandem.model import writing
from tandem.model.outcome import Outcome, outcome_of
from tandem.model.package import Picture
from tandem.model.repository import Repository, Version
from tandem.storage import Progress, Store, open_store

SECONDS_BETWEEN = 0.1
WIDTH = 30


class Published(Version, frozen=True, kw_only=True):
    """The version, and what the release's checks said of it."""

    outcome: Outcome | None = None

    def __repr__(self) -> str:
        # What a notebook shows of `publish(…)`.
        return super().__repr__() + (f" {self.outcome.state}" if self.outcome else "")


def publish(
    estimator: Any,
    *,
    name: str,
    sample: Any = None,
    labels: Sequence[str] | None = None,
    metrics: Mapping[str, float] | None = None,
    parameters: Mapping[str, Any] | None = None,
    held_out: tuple[Any, Any] | None = None,
    training: Any = None,
    feature_names: Sequence[str] | None = None,
    image: Picture | None = None,
    task: packages.Task | None = None,
    training_commit: str | None = None,
    data_digest: str | None = None,
    publisher: str = "",
    store: str | Store | None = None,
    progress: Progress | bool = True,
    check: bool = True,
    trust: Sequence[str] = (),
    runtime: Literal["files"] | None = None,
    output: str | None = None,
) -> Published:
    """Publish a fitted estimator as the next version, and check it as the release will.

    `estimator` may be the path of an ONNX file or of a package's folder, too; with
    `runtime="files"`, of a file or a folder that only the application opens. `sample`: some rows
    like those to be asked; `held_out`: (rows, truth) that training never saw, on which it is
    measured and compared with the live one. `store` is a URL or a store (default: the environment's
    TANDEM_STORE). `output`: which of an ONNX file's outputs answers. Publishing the same again
    uploads nothing and returns the same version.

    With `check` the outcome (accepted, refused or missing, with the remedy) is in the result, and
    on standard error unless `progress` is False. `trust`: full names of your own classes in the
    model, which the application must trust too. Raises `PackageError` and `StorageError`.
    """
    if store is None or isinstance(store, str):
        store = open_store(
            store or os.environ.get("TANDEM_STORE", "").strip() or "file:.tandem/store"
        )
    repository = Repository(store, name)
    who = publisher or _user()
    with tempfile.TemporaryDirectory(prefix="tandem-") as folder:
        if isinstance(estimator, str | Path) and Path(estimator).is_dir() and runtime is None:
            package = packages.read(estimator)
            package.golden()  # what contradicts itself is no version
        else:
            package = writing.write(
                Path(folder) / "package",
                estimator,
                name=name,
                sample=sample,
                labels=labels,
                metrics=metrics,
                parameters=parameters,
                held_out=held_out,
                training=training,
                feature_names=feature_names,
                image=image,
                task=task,
                training_commit=training_commit,
                data_digest=data_digest,
                publisher=who,
                trust=trust,
                runtime=runtime,
                output=output,
            )
        with progress_bar(package.size, f"{name} → {store.url}", progress) as moved:
            version, _ = repository.publish(package, publisher=who, progress=moved)
        outcome = outcome_of(repository, package, version, trust=tuple(trust)) if check else None
    published = Published(
        number=version.number,
        digest=version.digest,
        created=version.created,
        publisher=version.publisher,
        manifest=version.manifest,
        outcome=outcome,
    )
    if outcome is not None and progress:
        for line in (f"{name} v{version.number} {outcome.lines()[0]}", *outcome.lines()[1:]):
            print(line, file=sys.stderr)
    return published


@contextmanager
def progress_bar(
    size: int, title: str, wanted: Progress | bool = True
) -> Iterator[Progress | None]:
    """A bar on standard error, moved by calling what this gives with a number of bytes.

    On a terminal and in a notebook, where a line can be written over; nothing elsewhere.
    """
    if not isinstance(wanted, bool):
        yield wanted
        return
    if not wanted or not (sys.stderr.isatty() or "ipykernel" in sys.modules):
        yield None
        return
    bar = _Bar(size, title)
    try:
        yield bar.move
    finally:
        bar.end()


class _Bar:
    """One line that is written over; a library for it would be a third of the installation."""

    def __init__(self, size: int, title: str) -> None:
        self._size, self._title = size, title
        self._moved, self._shown = 0, 0.0

    def move(self, count: int) -> None:
        """So many bytes more."""
        self._moved += count
        if time.monotonic() - self._shown > SECONDS_BETWEEN:
            self._shown = time.monotonic()
            self._write()

    def end(self) -> None:
        """Leave the line as it is."""
        self._write()
        sys.stderr.write("\n")

    def _write(self) -> None:
        share = min(1.0, self._moved / self._size) if self._size else 1.0
        full = "█" * round(share * WIDTH)
        megabytes = f"{self._moved / 1e6:.1f} of {self._size / 1e6:.1f} MB"
        sys.stderr.write(f"\r{self._title}  {full:<{WIDTH}} {megabytes}")
        sys.stderr.flush()


def _user() -> str:
    import getpass
    import socket

    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (OSError, KeyError, ImportError):
        return ""
