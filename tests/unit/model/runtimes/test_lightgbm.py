"""LightGBM: published in its own text, answered by it, and refused where trees point anywhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tandem.errors import PackageError
from tandem.model.package import check_libraries, open_predictor, read
from tandem.model.package.runtimes import lightgbm as runtime
from tandem.model.writing import write

RNG = np.random.default_rng(0)
X = RNG.normal(size=(150, 4))
THREE = np.digitize(X[:, 0] + X[:, 1], [-0.7, 0.7])
QUIET = {"verbose": -1, "n_jobs": 1}


def fitted(truth: Any = THREE, **parameters: Any) -> Any:
    from lightgbm import LGBMClassifier

    return LGBMClassifier(n_estimators=5, **QUIET, **parameters).fit(X, truth)


def test_a_classifier_answers_as_it_did_in_the_notebook(tmp_path: Path) -> None:
    estimator = fitted(np.array(["low", "middle", "high"])[THREE])
    made = write(tmp_path / "package", estimator, name="tiny", sample=X)
    assert made.manifest.runtime == "lightgbm"
    assert made.manifest.labels == ["high", "low", "middle"]
    assert [file.path for file in made.manifest.files] == ["model.lightgbm.txt", "golden.json"]
    answers = open_predictor(read(made.folder)).predict(X)
    np.testing.assert_allclose(answers, estimator.predict_proba(X), atol=1e-9)


def test_two_classes_have_two_probabilities(tmp_path: Path) -> None:
    made = write(tmp_path / "package", fitted(THREE > 0), name="tiny", sample=X)
    assert open_predictor(made).predict(X[:5]).shape == (5, 2)


def test_a_regression_answers_its_values(tmp_path: Path) -> None:
    from lightgbm import LGBMRegressor

    estimator = LGBMRegressor(n_estimators=5, **QUIET).fit(X, X[:, 0])
    made = write(tmp_path / "package", estimator, name="tiny", sample=X)
    np.testing.assert_allclose(open_predictor(made).predict(X), estimator.predict(X))


def test_a_text_column_with_missing_values_is_encoded_by_the_steps_before_it(
    tmp_path: Path,
) -> None:
    import pandas
    from lightgbm import LGBMClassifier
    from sklearn.compose import make_column_transformer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    frame = pandas.DataFrame({"colour": ["red", "green", None] * 50, "weight": X[:, 0]})
    encode = make_column_transformer(
        (OneHotEncoder(sparse_output=False), ["colour"]), remainder="passthrough"
    )
    estimator = make_pipeline(encode, LGBMClassifier(n_estimators=5, **QUIET))
    estimator.fit(frame, X[:, 0] > 0)
    made = write(tmp_path / "package", estimator, name="tiny", sample=frame)
    assert made.has("model.skops")
    rows = frame.to_numpy(dtype=object)
    answers = open_predictor(made).predict(rows)
    np.testing.assert_allclose(answers, estimator.predict_proba(frame), atol=1e-9)


def test_equal_models_have_equal_digests(tmp_path: Path) -> None:
    first = write(tmp_path / "a", fitted(), name="tiny", sample=X)
    second = write(tmp_path / "b", fitted(), name="tiny", sample=X)
    assert first.digest == second.digest
    assert b"parameters:" not in (first.folder / runtime.FILE).read_bytes()


def test_an_application_without_the_library_is_named_before_it_is_released(
    tmp_path: Path,
) -> None:
    made = write(tmp_path / "package", fitted(), name="tiny", sample=X)
    with pytest.raises(PackageError, match="needs lightgbm"):
        check_libraries(made.manifest, {"flask": "3"})


def test_categories_of_pandas_are_refused_with_the_remedy(tmp_path: Path) -> None:
    import pandas
    from lightgbm import LGBMClassifier

    frame = pandas.DataFrame({"a": pandas.Categorical(["x", "y", "z"] * 50), "b": X[:, 0]})
    estimator = LGBMClassifier(n_estimators=5, **QUIET).fit(frame, X[:, 0] > 0)
    with pytest.raises(PackageError, match="encode them in a Pipeline"):
        write(tmp_path / "package", estimator, name="tiny", sample=frame)


CHANGES = {
    "a child far outside": (rb"(?m)^left_child=\S+", b"left_child=999"),
    "a child before its parent": (rb"(?m)^right_child=\S+", b"right_child=0"),
    "a leaf that is not there": (rb"(?m)^left_child=\S+", b"left_child=-999"),
    "a column that is not there": (rb"(?m)^split_feature=\S+", b"split_feature=4"),
    "a number that is none": (rb"(?m)^split_feature=\S+", b"split_feature=x"),
    "a category": (rb"(?m)^decision_type=\S+", b"decision_type=1"),
    "categories": (rb"(?m)^num_cat=0", b"num_cat=1"),
    "a list that is cut": (rb"(?m)^threshold=\S+ ", b"threshold="),
    "leaves that are cut": (rb"(?m)^leaf_value=\S+ ", b"leaf_value="),
    "a linear tree": (rb"is_linear=0", b"is_linear=1"),
    "another objective": (rb"num_class:3", b"num_class:300"),
    "one tree a round": (rb"num_tree_per_iteration=3", b"num_tree_per_iteration=1"),
    "many classes": (rb"num_class=3", b"num_class=99999999"),
    "one column": (rb"max_feature_idx=3", b"max_feature_idx=0"),
    "a field twice": (rb"(?m)^num_cat=0", b"num_cat=0\nnum_cat=0"),
    "no end": (rb"end of trees", b""),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
def test_a_file_whose_trees_do_not_fit_is_refused_before_it_is_loaded(
    tmp_path: Path, change: tuple[bytes, bytes]
) -> None:
    runtime.save(fitted(), tmp_path)
    path = tmp_path / runtime.FILE
    assert runtime.check_trees(path) == 4
    data, count = re.subn(*change, path.read_bytes(), count=1)
    assert count
    path.write_bytes(with_right_sizes(data))
    with pytest.raises(PackageError, match=r"model\.lightgbm\.txt"):
        runtime.check_trees(path)


def with_right_sizes(data: bytes) -> bytes:
    """The file with the sizes of its trees as they are, so that something else has to be seen."""
    end = data.find(b"\nend of trees") + 1
    starts = [match.start() for match in re.finditer(rb"(?m)^Tree=", data)]
    sizes = np.diff([*starts, end or len(data)])
    line = b"tree_sizes=" + b" ".join(b"%d" % size for size in sizes)
    return re.sub(rb"(?m)^tree_sizes=.*$", line, data, count=1)


def test_sizes_of_trees_that_are_none_are_refused(tmp_path: Path) -> None:
    runtime.save(fitted(), tmp_path)
    path = tmp_path / runtime.FILE
    path.write_bytes(re.sub(rb"tree_sizes=\d+", b"tree_sizes=99999", path.read_bytes()))
    with pytest.raises(PackageError, match="other sizes"):
        runtime.check_trees(path)


@pytest.mark.parametrize("data", [b"", b"tree\n", b"\x80\x04pickle"])
def test_what_is_no_model_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / runtime.FILE).write_bytes(data)
    with pytest.raises(PackageError, match="not a model of LightGBM's"):
        runtime.check_trees(tmp_path / runtime.FILE)
