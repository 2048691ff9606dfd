"""`tandem.model`: what an app's own code asks the released model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from tandem.errors import PackageError
from tandem.model.package import Feature
from tandem.serving.model import Model, Prediction, Value
from tandem.serving.score import Scoring
from tandem.serving.tabular import as_rows


class Predictions(Sequence[Prediction | Value]):
    """The answers to some rows, in their order.

    As a sequence: for each row its best labels with their probabilities (as POST /score has them),
    or its value.
    """

    def __init__(self, model: Model, output: np.ndarray) -> None:
        self._model = model
        self._output = output

    @property
    def labels(self) -> list[str]:
        """Of each row the most probable label. Raises TypeError for a regression."""
        names = self._model.manifest.labels
        return [names[at] for at in self.probabilities.argmax(axis=1)]

    @property
    def probabilities(self) -> np.ndarray:
        """Rows by `AppModel.labels`. Raises TypeError for a regression."""
        if not self._model.classifies:
            raise TypeError(f"the model {self._model.manifest.name} is a regression: use .values")
        return self._output

    @property
    def values(self) -> np.ndarray:
        """Rows, or rows by targets. Raises TypeError for a classification."""
        if self._model.classifies:
            raise TypeError(
                f"the model {self._model.manifest.name} is a classification: use .labels or "
                ".probabilities"
            )
        return self._output

    def __len__(self) -> int:
        return len(self._output)

    def __getitem__(self, at: Any) -> Any:
        return self._model.answers(self._output)[at]

    def __iter__(self) -> Iterator[Prediction | Value]:
        return iter(self._model.answers(self._output))

    def __repr__(self) -> str:
        return f"Predictions({self._model.answers(self._output)!r})"


class AppModel:
    """The model of the running app; safe to ask from several threads."""

    def __init__(self, scoring: Callable[[], Scoring | None]) -> None:
        # Asked for each time: an app may hold on to this before its model is loaded.
        self._scoring = scoring

    def predict(self, rows: Any) -> Predictions:
        """Answers to rows or one row: a list, dict, numpy array, pandas frame or series.

        Raises Problem: 422 where the rows are not what the model takes, 503 where there is more to
        do than can be done; Tandem answers the request with it unless the app catches it.
        """
        scoring = self._loaded()
        model = scoring.model
        if isinstance(rows, np.ndarray) and model.takes(rows):
            array = rows.astype(model.features[0].dtype, copy=False)
        else:
            array = model.rows(as_rows(rows, model))
        return Predictions(model, scoring.ask(array))

    @property
    def name(self) -> str:
        """The model's name."""
        return self._loaded().model.manifest.name

    @property
    def version(self) -> int | None:
        """The model's version; None outside a release."""
        return self._loaded().name.version

    @property
    def digest(self) -> str:
        """The digest of the model's package."""
        return self._loaded().model.digest

    @property
    def task(self) -> str:
        """Either "classification" or "regression"."""
        return self._loaded().model.manifest.task

    @property
    def labels(self) -> list[str]:
        """The labels in the order of the probabilities' columns; none for a regression."""
        return self._loaded().model.manifest.labels

    @property
    def features(self) -> list[Feature]:
        """The inputs, in the order of a row's values."""
        return self._loaded().model.features

    def _loaded(self) -> Scoring:
        scoring = self._scoring()
        if scoring is None:
            raise PackageError(
                "the app has no model: set TANDEM_MODEL to a model package's folder, or keep a "
                "recorded one beside the app: python3 -m tandem.serving.record PACKAGE "
                "recorded_model"
            )
        return scoring
