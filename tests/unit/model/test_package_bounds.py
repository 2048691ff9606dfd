"""Manifests and golden answers by a hostile publisher: bounded, and at one with themselves."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tandem import publish
from tandem.errors import PackageError
from tandem.model.package import Package, Picture, read
from tandem.model.writing import write

X = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
THREE = np.digitize(X[:, 0] + X[:, 1], [-0.7, 0.7])
VALUES = X @ np.array([1.0, -2.0, 0.5, 3.0])


@pytest.fixture
def made(tmp_path: Path) -> Package:
    from sklearn.linear_model import LogisticRegression

    estimator = LogisticRegression().fit(X, THREE)
    return write(tmp_path / "package", estimator, name="tiny", sample=X)


def regression(tmp_path: Path, values: Any = VALUES) -> Package:
    from sklearn.tree import DecisionTreeRegressor

    estimator = DecisionTreeRegressor(random_state=0).fit(X, values)
    return write(tmp_path / "package", estimator, name="tiny", sample=X, onnx=False)


def changed(made: Package, change: Callable[[dict[str, Any]], Any]) -> Package:
    path = made.folder / "manifest.json"
    told = json.loads(path.read_bytes())
    change(told)
    path.write_text(json.dumps(told))
    return read(made.folder)


def with_golden(made: Package, change: Callable[[dict[str, Any]], Any]) -> Package:
    """The package with other golden rows, and a manifest that fits: as a publisher would do."""
    path = made.folder / "golden.json"
    told = json.loads(path.read_bytes())
    change(told)
    data = json.dumps(told).encode()
    path.write_bytes(data)
    fits = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    return changed(made, lambda m: [f.update(fits) for f in m["files"] if f["path"] == path.name])


# --- the manifest


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ({"width": 100_000, "height": 100_000}, "image of 100000 x 100000"),
        ({"width": 4, "height": 0}, "image of 4 x 0"),
        ({"width": -2, "height": -2}, "image of -2 x -2"),
        ({"width": 3, "height": 3}, "3 x 3 pixels for a matrix whose rows have 4"),
        ({"width": 2, "height": 2, "mode": "RGB"}, "image mode 'RGB', expected 'L'"),
        ({"width": 2, "height": 2, "maximum": 0}, "image maximum 0"),
        ({"width": 2, "height": 2, "maximum": -1e308}, "image maximum"),
        ({"width": 2, "height": 2, "background": "plaid"}, "background 'plaid'"),
        ({"width": 2, "height": 2, "ink": "invisible"}, "ink 'invisible'"),
    ],
)
def test_a_picture_that_rows_are_not_made_of_is_refused(
    made: Package, image: dict[str, Any], words: str
) -> None:
    with pytest.raises(PackageError, match=words):
        changed(made, lambda told: told.update(image=image))


def test_a_picture_of_a_row_is_taken(made: Package) -> None:
    package = changed(made, lambda told: told.update(image={"width": 4, "height": 1}))
    assert package.manifest.image == Picture(width=4, height=1)


def test_a_picture_of_another_size_is_refused_when_it_is_written(tmp_path: Path) -> None:
    from sklearn.linear_model import LogisticRegression

    with pytest.raises(PackageError, match="image of 8 x 8 pixels"):
        write(
            tmp_path / "package",
            LogisticRegression().fit(X, THREE),
            name="tiny",
            sample=X,
            image=Picture(width=8, height=8),
        )
    assert not (tmp_path / "package").exists()


def many(count: int) -> list[str]:
    return [f"entry {number}" for number in range(count)]


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels": many(25_001)}, "25001 labels, expected 2 to 25000"),
        ({"labels": ["a", "b", "c" * 1001]}, "a label has 1001 characters"),
        ({"features": [{"name": "x" * 1001, "dtype": "float32", "shape": [4]}]}, "1001 characters"),
        ({"features": [{"name": n, "dtype": "float32"} for n in many(10_001)]}, "10001 features"),
        ({"features": [{"name": "x", "dtype": "float32", "shape": [1] * 9}]}, "absurd shape"),
        ({"features": [{"name": "x", "dtype": "float32", "shape": [4000001]}]}, "absurd shape"),
        ({"metrics": dict.fromkeys(many(10_001), 1.0)}, "10001 metrics"),
        ({"metrics": {"x" * 1001: 1.0}}, "a metric's name has 1001 characters"),
        ({"libraries": dict.fromkeys(many(10_001), "1")}, "10001 libraries"),
        ({"libraries": {"numpy": "1" * 1001}}, "1001 characters"),
        ({"parameters": {"x": nested(40)}}, "nested deeper than 32"),
        ({"parameters": {"x": [0] * 10_001}}, "more than 10000 values"),
        ({"publisher": "x" * 1001}, "1001 characters"),
        ({"runtime_reason": "x" * 1001}, "1001 characters"),
        ({"evaluation": {"rows": -1}}, "an evaluation on -1 rows"),
        ({"evaluation": {"description": "x" * 10_001}}, "10001 characters"),
        ({"evaluation": {"rows": 1, "confusion": [[1, 2], [3, 4]]}}, "other than 3 x 3"),
        ({"evaluation": {"rows": 1, "confusion": [[-1] * 3] * 3}}, "a count that is none"),
        ({"task": "regression"}, "3 labels for a regression"),
    ],
)
def test_a_manifest_that_asks_for_too_much_is_refused(
    made: Package, change: dict[str, Any], words: str
) -> None:
    with pytest.raises(PackageError, match=words) as raised:
        changed(made, lambda told: told.update(change))
    assert len(str(raised.value)) < 500
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mean": [1.0]}, "statistics of 4 elements have 1 means"),
        ({"quantiles": []}, "0 quantiles"),
        ({"quantiles": [[1.0]] * 4}, "as many quantiles for each element"),
        ({"levels": [0.5] * 101}, "101 levels"),
        ({"answers": dict.fromkeys(many(10_001), 1.0)}, "10001 categories"),
        ({"categories": {"x": {"y" * 1001: 1.0}}}, "a category has 1001 characters"),
    ],
)
def test_statistics_that_do_not_fit_together_are_refused(
    made: Package, change: dict[str, Any], words: str
) -> None:
    with pytest.raises(PackageError, match=words):
        changed(made, lambda told: told["statistics"].update(change))


# --- golden answers


@pytest.mark.parametrize("tolerance", [1e9, 0.5, 1.1e-3, -1e-9])
def test_a_tolerance_that_lets_wrong_answers_pass_is_not_believed(
    made: Package, tolerance: float
) -> None:
    with pytest.raises(PackageError, match=r"golden\.json: tolerance"):
        with_golden(made, lambda told: told.update(tolerance=tolerance)).golden()


@pytest.mark.parametrize("factor", [0.001, 1000, -1])
def test_golden_answers_that_are_no_probabilities_are_refused(made: Package, factor: float) -> None:
    def change(told: dict[str, Any]) -> None:
        told["answers"] = [[value * factor for value in row] for row in told["answers"]]

    with pytest.raises(PackageError, match="answer 0 is not made of probabilities"):
        with_golden(made, change).golden()


@pytest.mark.parametrize("factor", [1.1e-3, 1.0, 1e9])
def test_a_regressor_tolerance_is_bounded_by_its_answers(tmp_path: Path, factor: float) -> None:
    made = regression(tmp_path)
    largest = max(abs(value) for answer in made.golden().answers for value in answer)
    with pytest.raises(PackageError, match=r"golden\.json: tolerance"):
        with_golden(made, lambda told: told.update(tolerance=factor * largest)).golden()


@pytest.mark.parametrize("scale", [0.0, 1e-12, 1.0, 1e9, 1e30])
def test_a_regressor_of_any_size_is_published(tmp_path: Path, scale: float) -> None:
    assert regression(tmp_path, VALUES * scale).golden().tolerance >= 0


def test_a_regressor_with_one_huge_answer_shows_it_in_its_golden_rows(tmp_path: Path) -> None:
    values = np.where(np.arange(60) == 7, 1e9, VALUES)
    golden = regression(tmp_path, values).golden()
    assert [1e9] in golden.answers
    assert golden.tolerance == pytest.approx(2e-4 * 1e9)


def swap(told: dict[str, Any]) -> None:
    labels = told["predictions"][0]["labels"]
    labels[0], labels[1] = labels[1], labels[0]


@pytest.mark.parametrize(
    "change",
    [
        swap,
        lambda told: told["predictions"][0].update(labels=["no", "such", "label"]),
        lambda told: told["predictions"][0].update(labels=["0", "0", "0"]),
        lambda told: told["predictions"][0].update(probabilities=[0.4, 0.3, 0.3]),
        lambda told: told["predictions"][0].update(labels=[], probabilities=[]),
        lambda told: told["predictions"][0].update(value=1.0),
        lambda told: told["answers"][0].reverse(),
        lambda told: told["predictions"].reverse(),
    ],
    ids=["swapped", "unknown", "twice", "other", "none", "value", "answers", "order"],
)
def test_golden_answers_that_contradict_themselves_are_refused(
    made: Package, tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    package = with_golden(made, change)
    with pytest.raises(PackageError, match=r"golden\.json: prediction \d+ contradicts its answer"):
        package.golden()
    with pytest.raises(PackageError, match="contradicts its answer"):
        publish(made.folder, name="tiny", store=f"file:{tmp_path}/store", progress=False)
    assert not list((tmp_path / "store").rglob("*.json"))


@pytest.mark.parametrize("prediction", [{"value": 1e6}, {}, {"value": [1.0]}, {"labels": ["0"]}])
def test_golden_values_that_contradict_themselves_are_refused(
    tmp_path: Path, prediction: dict[str, Any]
) -> None:
    def change(told: dict[str, Any]) -> None:
        told["predictions"][3] = prediction

    with pytest.raises(PackageError, match="prediction 3 contradicts its answer"):
        with_golden(regression(tmp_path), change).golden()


def test_equally_probable_labels_may_stand_in_any_order(made: Package) -> None:
    def change(told: dict[str, Any]) -> None:
        told["answers"][0] = [0.2, 0.4, 0.4]
        told["predictions"][0] = {"labels": ["2", "1", "0"], "probabilities": [0.4, 0.4, 0.2]}

    assert with_golden(made, change).golden().predictions[0].labels[0] == "2"


@pytest.mark.parametrize("count", [0, 1001])
def test_golden_rows_are_some_but_not_without_end(made: Package, count: int) -> None:
    def change(told: dict[str, Any]) -> None:
        for name in ("inputs", "answers", "predictions"):
            told[name] = (told[name] * 60)[:count]

    with pytest.raises(PackageError, match=f"{count} rows, expected 1 to 1000"):
        with_golden(made, change).golden()
