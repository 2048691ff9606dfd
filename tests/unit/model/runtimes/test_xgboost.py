"""XGBoost: published in its own JSON, answered by it, and refused where trees point anywhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tandem.errors import PackageError
from tandem.model.package import check_libraries, open_predictor, read
from tandem.model.package.runtimes import xgboost as runtime
from tandem.model.writing import write

RNG = np.random.default_rng(0)
X = RNG.normal(size=(150, 4))
THREE = np.digitize(X[:, 0] + X[:, 1], [-0.7, 0.7])


def fitted(truth: Any = THREE, **parameters: Any) -> Any:
    from xgboost import XGBClassifier

    return XGBClassifier(n_estimators=5, max_depth=3, n_jobs=1, **parameters).fit(X, truth)


def test_a_classifier_answers_as_it_did_in_the_notebook(tmp_path: Path) -> None:
    estimator = fitted()
    made = write(tmp_path / "package", estimator, name="tiny", sample=X)
    assert made.manifest.runtime == "xgboost"
    assert [file.path for file in made.manifest.files] == ["model.xgboost.json", "golden.json"]
    answers = open_predictor(read(made.folder)).predict(X)
    np.testing.assert_allclose(answers, estimator.predict_proba(X), atol=1e-6)


def test_two_classes_have_two_probabilities(tmp_path: Path) -> None:
    made = write(tmp_path / "package", fitted(THREE > 0), name="tiny", sample=X)
    assert open_predictor(made).predict(X[:5]).shape == (5, 2)


@pytest.mark.parametrize("targets", [1, 2])
def test_a_regression_answers_its_values(tmp_path: Path, targets: int) -> None:
    from xgboost import XGBRegressor

    values = np.stack([X[:, 0] * n for n in range(1, targets + 1)], axis=1)
    estimator = XGBRegressor(n_estimators=5).fit(X, values if targets > 1 else values[:, 0])
    made = write(tmp_path / "package", estimator, name="tiny", sample=X)
    answers = open_predictor(made).predict(X)
    np.testing.assert_allclose(answers, estimator.predict(X), rtol=1e-5, atol=1e-5)


def test_the_steps_of_a_pipeline_come_before_it(tmp_path: Path) -> None:
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from xgboost import XGBClassifier

    estimator = make_pipeline(StandardScaler(), XGBClassifier(n_estimators=5)).fit(X, THREE)
    made = write(tmp_path / "package", estimator, name="tiny", sample=X)
    assert made.has("model.skops")
    answers = open_predictor(made).predict(X)
    np.testing.assert_allclose(answers, estimator.predict_proba(X), atol=1e-6)
    with pytest.raises(PackageError, match="scikit-learn"):
        check_libraries(made.manifest, {"xgboost": "3.2.0", "scikit-learn": "0.1"})


def test_trees_after_the_best_iteration_are_left_out(tmp_path: Path) -> None:
    from xgboost import XGBClassifier

    noise = RNG.integers(0, 2, len(X))
    estimator = XGBClassifier(n_estimators=50, early_stopping_rounds=2)
    estimator.fit(X, noise, eval_set=[(X[::-1], noise)], verbose=False)
    made = write(tmp_path / "package", estimator, name="tiny", sample=X)
    model = json.loads((made.folder / runtime.FILE).read_bytes())
    trees = model["learner"]["gradient_booster"]["model"]["trees"]
    assert len(trees) == estimator.best_iteration + 1


def test_a_data_frame_of_several_kinds_of_numbers_is_taken(tmp_path: Path) -> None:
    import pandas
    from xgboost import XGBClassifier

    frame = pandas.DataFrame(
        {"a": np.arange(100), "b": np.arange(100) / 3, "c": [True, False] * 50}
    )
    estimator = XGBClassifier(n_estimators=5).fit(frame, frame.b > 20)
    made = write(tmp_path / "package", estimator, name="tiny", sample=frame)
    rows = [[1, 0.5, True], [90, 30.0, False]]
    assert made.manifest.layout == "table"
    answers = open_predictor(made).predict(np.array(rows, dtype=object))
    assert answers.argmax(axis=1).tolist() == [0, 1]


def test_equal_models_have_equal_digests(tmp_path: Path) -> None:
    first = write(tmp_path / "a", fitted(), name="tiny", sample=X)
    second = write(tmp_path / "b", fitted(), name="tiny", sample=X)
    assert first.digest == second.digest


def test_an_application_without_the_library_is_named_before_it_is_released(
    tmp_path: Path,
) -> None:
    made = write(tmp_path / "package", fitted(), name="tiny", sample=X)
    check_libraries(made.manifest, {"xgboost-cpu": "3.2.0"})
    with pytest.raises(PackageError, match="needs xgboost or xgboost-cpu"):
        check_libraries(made.manifest, {"flask": "3"})


def test_another_mark_for_missing_numbers_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="missing=-1: expected NaN"):
        write(tmp_path / "package", fitted(missing=-1), name="tiny", sample=X)


def test_linear_boosters_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="'gblinear' is not supported"):
        write(tmp_path / "package", fitted(booster="gblinear"), name="tiny", sample=X)


def model_of(learner: Any) -> Any:
    return learner["gradient_booster"]["model"]


def set_item(at: Callable[[Any], Any], key: Any, value: Any) -> Callable[[Any], None]:
    def change(learner: Any) -> None:
        at(learner)[key] = value

    return change


def first_tree(name: str) -> Callable[[Any], Any]:
    return lambda learner: model_of(learner)["trees"][0][name]


CHANGES = {
    "a child far outside": set_item(first_tree("left_children"), 0, 10**9),
    "a child before its parent": set_item(first_tree("left_children"), 1, 0),
    "one child alone": set_item(first_tree("right_children"), 0, -1),
    "a column that is not there": set_item(first_tree("split_indices"), 0, 4),
    "a column below none": set_item(first_tree("split_indices"), 0, -3),
    "a number that is none": set_item(first_tree("split_indices"), 0, "x"),
    "a list that is cut": lambda learner: model_of(learner)["trees"][0]["split_type"].pop(),
    "a category": set_item(first_tree("split_type"), 0, 1),
    "a class that is not there": set_item(lambda learner: model_of(learner)["tree_info"], 0, 3),
    "a tree too many": lambda learner: model_of(learner)["trees"].append({}),
    "rounds without end": set_item(model_of, "iteration_indptr", [0, 10**6]),
    "many classes": set_item(
        lambda learner: learner["learner_model_param"], "num_class", "9999999"
    ),
    "another objective": set_item(
        lambda learner: learner["objective"]["softmax_multiclass_param"], "num_class", "300"
    ),
    "too few starts": set_item(
        lambda learner: learner["learner_model_param"], "base_score", "[0.5,0.5]"
    ),
    "a parent far outside": set_item(first_tree("parents"), 1, 10**6),
    "another booster": set_item(lambda learner: learner["gradient_booster"], "name", "evil"),
    "no booster": lambda learner: learner.pop("gradient_booster"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
def test_a_file_whose_trees_do_not_fit_is_refused_before_it_is_loaded(
    tmp_path: Path, change: Callable[[Any], None]
) -> None:
    runtime.save(fitted(), tmp_path)
    path = tmp_path / runtime.FILE
    assert runtime.check_trees(path) == (4, True)
    model = json.loads(path.read_bytes())
    change(model["learner"])
    path.write_text(json.dumps(model))
    with pytest.raises(PackageError, match=r"model\.xgboost\.json"):
        runtime.check_trees(path)


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b"\x80\x04pickle", b'{"learner": 1}'])
def test_what_is_no_model_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / runtime.FILE).write_bytes(data)
    with pytest.raises(PackageError, match="not a model of XGBoost's"):
        runtime.check_trees(tmp_path / runtime.FILE)
