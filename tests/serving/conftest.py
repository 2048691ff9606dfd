"""Small real packages of every kind that is served, and the app around them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.asking import Client, Running

from tandem.model.package import Picture
from tandem.model.writing import write


def make_package(kind: str, folder: Path) -> None:
    """A small package of that kind in a new folder."""
    from sklearn.datasets import load_diabetes, load_digits, load_iris
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.naive_bayes import GaussianNB
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if kind == "digits":
        rows, truth = load_digits(return_X_y=True)
        rows = rows[:600].astype(np.float32)
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
        model.fit(rows, truth[:600])
        picture = Picture(width=8, height=8)
        write(folder, model, name=kind, sample=rows, metrics={"accuracy": 0.9}, image=picture)
    elif kind == "iris":
        data = load_iris()
        write(
            folder,
            GaussianNB().fit(data.data, data.target),
            name=kind,
            sample=data.data,
            labels=[str(name) for name in data.target_names],
            feature_names=data.feature_names,
            onnx=False,
        )
    elif kind == "diabetes":
        data = load_diabetes()
        model = Ridge().fit(data.data, data.target)
        write(folder, model, name=kind, sample=data.data, feature_names=data.feature_names)
    elif kind == "mixed":
        from sklearn.compose import make_column_transformer
        from sklearn.preprocessing import OneHotEncoder

        rng = np.random.default_rng(1)
        rows = np.empty((200, 2), dtype=object)
        rows[:, 0] = rng.choice(["red", "blue"], 200)
        rows[:, 1] = rng.random(200)
        encode = make_column_transformer(
            (OneHotEncoder(handle_unknown="ignore"), [0]), remainder="passthrough"
        )
        model = make_pipeline(encode, LogisticRegression())
        model.fit(rows, rows[:, 0] == "red")
        names = ["colour", "size"]
        write(folder, model, name=kind, sample=rows, labels=["no", "yes"], feature_names=names)
    elif kind == "words":
        from sklearn.feature_extraction.text import CountVectorizer

        texts = ["good day", "bad day", "good night", "bad night"] * 10
        model = make_pipeline(CountVectorizer(), LogisticRegression())
        model.fit(texts, ["good", "bad"] * 20)
        write(folder, model, name=kind, sample=texts, onnx=False)
    else:
        raise ValueError(kind)


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
    from tandem.serving.app import create_app
    from tandem.serving.model import load
    from tandem.serving.settings import Settings

    loaded: dict[str, Any] = {}

    def client(kind: str = "digits", **settings: Any) -> Client:
        if kind not in loaded:
            loaded[kind] = load(packages(kind))
        return Client(create_app(loaded[kind], Settings(model=packages(kind), **settings)))

    return client


@pytest.fixture
def start(packages: Callable[[str], Path], tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Starts the service as a process; whatever the test leaves running is killed."""
    started: list[Running] = []

    def run(kind: str | Path = "digits", *, ready: bool = True, **environment: str) -> Running:
        folder = packages(kind) if isinstance(kind, str) else kind
        running = Running(folder, tmp_path, **environment)
        started.append(running)
        if ready:
            running.wait_ready()
        return running

    yield run
    for running in started:
        if running.process.poll() is None:
            running.process.kill()
        running.process.communicate()
