"""Small real packages of every kind that is served, and the app around them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.asking import Client, Running
from support.packages import make_package


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a package by its name: digits, iris, diabetes, mixed, words."""
    root = tmp_path_factory.mktemp("packages")

    def made(kind: str) -> Path:
        folder = root / kind
        if not folder.exists():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                make_package(kind, folder)
        return folder

    return made


@pytest.fixture(scope="session")
def app(packages: Callable[[str], Path]) -> Callable[..., Client]:
    """A client of the app around a package: app("digits", release=41)."""
    from support.apps import create_app

    from tandem.serving.model import load
    from tandem.serving.settings import Settings

    loaded: dict[str, Any] = {}

    def client(kind: str = "digits", **settings: Any) -> Client:
        if kind not in loaded:
            loaded[kind] = load(packages(kind))
        return Client(create_app(loaded[kind], Settings(model=packages(kind), **settings)))

    return client


@pytest.fixture(scope="session")
def example(packages: Callable[[str], Path]) -> Callable[..., Client]:
    """As `app`, of the example: its page, and pictures within these bounds."""
    from support.apps import create_app

    from serving.app import app as example_app
    from serving.pictures import Bounds, Pictures
    from tandem.serving.model import load
    from tandem.serving.settings import Settings

    loaded: dict[str, Any] = {}

    def client(kind: str = "digits", bounds: Bounds | None = None, **settings: Any) -> Client:
        if kind not in loaded:
            loaded[kind] = load(packages(kind))
        app, extension = example_app, None
        if bounds is not None:
            app, extension = None, {"adapters": [Pictures(bounds)]}
        chosen = Settings(model=packages(kind), **settings)
        return Client(create_app(loaded[kind], chosen, app=app, extension=extension))

    return client


@pytest.fixture
def start(packages: Callable[[str], Path], tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Starts the service as a process; whatever the test leaves running is killed."""
    started: list[Running] = []

    def run(
        kind: str | Path = "digits",
        *,
        ready: bool = True,
        app: str | None = "serving.app:app",
        **environment: str,
    ) -> Running:
        folder = packages(kind) if isinstance(kind, str) else kind
        running = Running(folder, tmp_path, app=app, **environment)
        started.append(running)
        if ready:
            running.wait_ready()
        return running

    yield run
    for running in started:
        if running.process.poll() is None:
            running.process.kill()
        running.process.communicate()
