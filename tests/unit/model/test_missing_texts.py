"""Texts and categories that are missing: as they were in training, through JSON and back."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from tandem.model.package import as_array, open_predictor, read
from tandem.model.writing import write
from tandem.model.writing.sample import table_of

COLOURS = ["red", "green", None, "red", "blue", None] * 20
WEIGHTS = np.linspace(0, 1, 120)
TRUTH = [
    int(colour is None or weight > 0.5) for colour, weight in zip(COLOURS, WEIGHTS, strict=True)
]


def frame(kind: str) -> Any:
    colours: Any = COLOURS
    if kind == "nan":
        colours = [colour if colour is not None else math.nan for colour in COLOURS]
    elif kind == "category":
        colours = pandas.Categorical(COLOURS)
    elif kind == "string":
        colours = pandas.array(COLOURS, dtype="string")
    return pandas.DataFrame({"colour": colours, "weight": WEIGHTS})


def encoded(rows: Any) -> Any:
    from sklearn.compose import make_column_transformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    encode = make_column_transformer((OneHotEncoder(), ["colour"]), remainder="passthrough")
    return make_pipeline(encode, LogisticRegression()).fit(rows, TRUTH)


@pytest.mark.parametrize("kind", ["none", "nan", "category"])
def test_a_missing_text_is_a_category_of_its_own_as_in_training(tmp_path: Path, kind: str) -> None:
    rows = frame(kind)
    estimator = encoded(rows)
    made = write(tmp_path / "package", estimator, name="tiny", sample=rows)
    golden = made.golden()
    assert any(row[0] is None for row in golden.inputs)
    package = read(made.folder)
    asked = as_array(package.manifest, [[None, 0.1], ["red", 0.1], ["blue", 0.9]])
    given = open_predictor(package).predict(asked)
    missing = rows.colour[2]
    shown = pandas.DataFrame({"colour": [missing, "red", "blue"], "weight": [0.1, 0.1, 0.9]})
    np.testing.assert_allclose(given, estimator.predict_proba(shown), atol=1e-6)
    answers = open_predictor(package).predict(as_array(package.manifest, golden.inputs))
    np.testing.assert_allclose(answers, golden.answers, atol=golden.tolerance)


def test_missing_texts_are_filled_in_by_a_step_before(tmp_path: Path) -> None:
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    rows = frame("nan")[["colour"]]
    estimator = make_pipeline(
        SimpleImputer(strategy="most_frequent"), OneHotEncoder(), LogisticRegression()
    ).fit(rows, TRUTH)
    made = write(tmp_path / "package", estimator, name="tiny", sample=rows)
    given = open_predictor(made).predict(as_array(made.manifest, [[None], ["red"]]))
    np.testing.assert_allclose(given[0], given[1])


def test_pandas_own_mark_for_missing_texts_is_taken() -> None:
    layout, features, rows = table_of(frame("string"))
    assert layout == "table"
    assert features[0].missing == "nan"
    assert math.isnan(rows[2, 0])


def test_numbers_that_are_missing_become_nan_whatever_stood_for_them() -> None:
    sample = {"a": np.array([1, None, 3], dtype=object), "b": np.array(["x", None, "y"])}
    _, features, rows = table_of(sample)
    assert [feature.dtype for feature in features] == ["float64", "str"]
    assert math.isnan(rows[1, 0])
    nullable = pandas.DataFrame({"a": pandas.array([1, None], dtype="Int64"), "b": [0.5, 1.5]})
    layout, _, numbers = table_of(nullable)
    assert layout == "matrix"
    assert numbers.dtype == np.float64
