"""The model package: written, read back; equal models are equal packages; a change is noticed."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from tandem.errors import PackageError
from tandem.model.package import (
    Package,
    Picture,
    as_array,
    as_rows,
    check_libraries,
    load_estimator,
    locked_versions,
    open_predictor,
    predictions_of,
    read,
)
from tandem.model.writing import write
from tandem.model.writing.portable import portable

RNG = np.random.default_rng(0)
X = RNG.normal(size=(120, 4)).astype(np.float32)
THREE = np.digitize(X[:, 0] + X[:, 1], [-0.7, 0.7])
TWO = (X[:, 0] > 0).astype(int)
VALUES = X @ np.array([1.0, -2.0, 0.5, 3.0]) + 10


def fitted(estimator: Any, rows: Any = X, truth: Any = THREE) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return estimator.fit(rows, truth)


def logistic() -> Any:
    from sklearn.linear_model import LogisticRegression

    return fitted(LogisticRegression())


@pytest.fixture
def made(tmp_path: Path) -> Package:
    return write(tmp_path / "package", logistic(), name="tiny", sample=X)


# --- reading back


def test_a_written_package_is_read_back(made: Package) -> None:
    again = read(made.folder)
    assert again.digest == made.digest
    assert again.manifest == made.manifest
    assert {path.name for path in made.folder.iterdir()} == {
        "manifest.json",
        "model.onnx",
        "model.skops",
        "golden.json",
    }


def test_the_manifest_says_what_the_model_is(tmp_path: Path) -> None:
    made = write(
        tmp_path / "package",
        logistic(),
        name="tiny",
        sample=X,
        labels=["low", "middle", "high"],
        metrics={"accuracy": 0.5},
        parameters={"C": 1.0, "of": np.float64(2), "who": Path("x")},
        training_commit="a" * 40,
        data_digest="sha256:1",
        image=Picture(width=2, height=2),
        publisher="Ann",
    )
    manifest = read(made.folder).manifest
    assert manifest.task == "classification"
    assert manifest.labels == ["low", "middle", "high"]
    assert [(f.name, f.dtype, f.shape) for f in manifest.features] == [("row", "float32", [4])]
    assert manifest.metrics == {"accuracy": 0.5}
    assert manifest.parameters["of"] == 2.0
    assert manifest.libraries["scikit-learn"]
    assert manifest.image is not None
    assert manifest.publisher == "Ann"
    statistics = manifest.statistics
    assert statistics is not None
    assert statistics.mean == pytest.approx(X.mean(axis=0), rel=1e-4)
    assert sum(statistics.answers.values()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", ["manifest.json", "model.onnx", "model.skops", "golden.json"])
def test_a_changed_file_is_refused_by_name(made: Package, name: str) -> None:
    path = made.folder / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    # A changed manifest is not JSON any more, or another package: either way not the one it was.
    try:
        assert read(made.folder).digest != made.digest
        assert name == "manifest.json"
    except PackageError as refused:
        assert name in str(refused)


@pytest.mark.parametrize("name", ["manifest.json", "model.onnx", "model.skops", "golden.json"])
def test_a_missing_file_is_refused_by_name(made: Package, name: str) -> None:
    (made.folder / name).unlink()
    with pytest.raises(PackageError, match=rf"^{re.escape(name)}: missing"):
        read(made.folder)


def test_a_cut_off_file_is_refused_by_name(made: Package) -> None:
    path = made.folder / "model.skops"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(PackageError, match=r"model\.skops: \d+ bytes, the manifest says"):
        read(made.folder)


@pytest.mark.parametrize("name", ["model.pkl", "notes.txt", "__init__.py", ".hidden"])
def test_a_surplus_file_is_refused_by_name(made: Package, name: str) -> None:
    (made.folder / name).write_bytes(b"x")
    with pytest.raises(PackageError, match=re.escape(name)):
        read(made.folder)


def test_a_folder_that_is_no_package_says_so(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="not a model package"):
        read(tmp_path / "nowhere")


# --- one model, one digest


def test_the_same_model_packed_twice_is_one_package(tmp_path: Path) -> None:
    first = write(tmp_path / "a", logistic(), name="tiny", sample=X, publisher="Ann")
    second = write(
        tmp_path / "b", logistic(), name="tiny", sample=X, publisher="Bob", training_commit="b" * 40
    )
    assert first.digest == second.digest


def test_the_same_model_packed_by_another_process_is_one_package(
    made: Package, tmp_path: Path
) -> None:
    script = (
        "import sys; sys.path[:0] = sys.argv[2:]\n"
        "from test_package import *\n"
        "print(write(sys.argv[1], logistic(), name='tiny', sample=X).digest)"
    )
    paths = [str(Path(__file__).parent), *(path for path in sys.path if path)]
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "other"), *paths],
        capture_output=True,
        text=True,
        env={"PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"},
    )
    assert done.stdout.strip() == made.digest, done.stderr


def test_a_loaded_estimator_packed_again_is_the_same_package(made: Package, tmp_path: Path) -> None:
    again = write(tmp_path / "again", load_estimator(made), name="tiny", sample=X)
    assert again.digest == made.digest


def test_other_metadata_is_another_package(made: Package, tmp_path: Path) -> None:
    other = write(tmp_path / "o", logistic(), name="tiny", sample=X, metrics={"accuracy": 1.0})
    assert other.digest != made.digest


# --- every common kind


def kinds() -> dict[str, Any]:
    from sklearn import ensemble, linear_model, naive_bayes, neighbors, svm
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.gaussian_process import GaussianProcessClassifier
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.tree import DecisionTreeClassifier

    return {
        "logistic": linear_model.LogisticRegression(),
        "ridge": linear_model.RidgeClassifier(),
        "sgd": linear_model.SGDClassifier(random_state=0),
        "svc": svm.SVC(),
        "linear svc": svm.LinearSVC(),
        "tree": DecisionTreeClassifier(random_state=0),
        "forest": ensemble.RandomForestClassifier(5, random_state=0),
        "extra trees": ensemble.ExtraTreesClassifier(5, random_state=0),
        "boosting": ensemble.GradientBoostingClassifier(n_estimators=3, random_state=0),
        "histogram boosting": ensemble.HistGradientBoostingClassifier(max_iter=3),
        "ada boost": ensemble.AdaBoostClassifier(n_estimators=3, random_state=0),
        "bagging": ensemble.BaggingClassifier(n_estimators=3, random_state=0),
        "voting": ensemble.VotingClassifier([("nb", naive_bayes.GaussianNB())], voting="soft"),
        "naive bayes": naive_bayes.GaussianNB(),
        "neighbours": neighbors.KNeighborsClassifier(),
        "network": make_pipeline(StandardScaler(), MLPClassifier((8,), max_iter=5, random_state=0)),
        "calibrated": CalibratedClassifierCV(svm.LinearSVC(), cv=2),
        "gaussian process": GaussianProcessClassifier(random_state=0),
    }


@pytest.mark.parametrize("kind", sorted(kinds()))
@pytest.mark.parametrize("truth", [TWO, THREE], ids=["two", "three"])
def test_a_classifier_answers_as_it_was_recorded(kind: str, truth: Any, tmp_path: Path) -> None:
    estimator = fitted(kinds()[kind], X, truth)
    made = write(tmp_path / "package", estimator, name="tiny", sample=X)
    golden = made.golden()
    rows = as_array(made.manifest, golden.inputs)
    for runtime in ("onnx", "sklearn"):
        if not made.has(f"model.{runtime.replace('sklearn', 'skops')}"):
            assert re.match("no ONNX form|the ONNX form", made.manifest.runtime_reason)
            assert str(tmp_path) not in made.manifest.runtime_reason
            continue
        answers = open_predictor(made, runtime=runtime).predict(rows)  # type: ignore[arg-type]
        assert answers.shape == (len(rows), len(set(truth)))
        assert np.abs(answers - golden.answers).max() <= golden.tolerance
        assert answers.sum(axis=1) == pytest.approx(1, abs=1e-3)
    # The label with the highest probability is what the estimator itself says.
    said = [int(p.labels[0]) for p in predictions_of(made.manifest, np.asarray(golden.answers))]
    assert said == estimator.predict(rows).tolist()


def regressors() -> dict[str, Any]:
    from sklearn import ensemble, linear_model, svm
    from sklearn.neighbors import KNeighborsRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, PolynomialFeatures

    return {
        "linear": linear_model.LinearRegression(),
        "ridge": make_pipeline(PolynomialFeatures(2), linear_model.Ridge()),
        "forest": ensemble.RandomForestRegressor(5, random_state=0),
        "histogram boosting": ensemble.HistGradientBoostingRegressor(max_iter=3),
        "svr": svm.SVR(),
        "neighbours": KNeighborsRegressor(),
        "absolute": make_pipeline(FunctionTransformer(np.abs), linear_model.Ridge()),
    }


@pytest.mark.parametrize("kind", sorted(regressors()))
def test_a_regressor_answers_as_it_was_recorded(kind: str, tmp_path: Path) -> None:
    estimator = fitted(regressors()[kind], X, VALUES)
    made = write(tmp_path / "package", estimator, name="tiny", sample=X)
    assert made.manifest.task == "regression"
    golden = made.golden()
    rows = as_array(made.manifest, golden.inputs)
    answers = open_predictor(made).predict(rows)
    assert answers.shape == (len(rows),)
    assert answers == pytest.approx(estimator.predict(rows), abs=golden.tolerance)
    assert golden.predictions[0].value == pytest.approx(float(golden.answers[0][0]))


def test_a_regressor_may_have_several_targets(tmp_path: Path) -> None:
    from sklearn.linear_model import LinearRegression

    estimator = fitted(LinearRegression(), X, np.stack([VALUES, -VALUES], axis=1))
    made = write(tmp_path / "package", estimator, name="tiny", sample=X)
    assert open_predictor(made).predict(X[:3]).shape == (3, 2)
    assert len(made.golden().predictions[0].value) == 2  # type: ignore[arg-type]


def columns() -> dict[str, Any]:
    return {
        "colour": np.array(["red", "green", "blue", "red"] * 30, dtype=object),
        "weight": X[:, 0].astype(np.float64),
        "count": np.arange(120) % 7,
        "new": X[:, 1] > 0,
    }


def column_pipeline() -> Any:
    from sklearn.compose import ColumnTransformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    steps = ColumnTransformer(
        [
            ("kind", OneHotEncoder(handle_unknown="ignore"), [0]),
            ("size", StandardScaler(), [1, 2, 3]),
        ]
    )
    return make_pipeline(steps, LogisticRegression())


def test_named_columns_of_several_types_are_a_table(tmp_path: Path) -> None:
    table = np.stack([np.asarray(c, dtype=object) for c in columns().values()], axis=1)
    estimator = fitted(column_pipeline(), table, TWO)
    made = write(tmp_path / "package", estimator, name="tiny", sample=columns())
    features = [(f.name, f.dtype) for f in made.manifest.features]
    assert features == [
        ("colour", "str"),
        ("weight", "float64"),
        ("count", "int64"),
        ("new", "bool"),
    ]
    assert made.manifest.layout == "table"
    rows = as_array(made.manifest, [["red", 0.5, 3, True], ["mauve", -1.0, 0, False]])
    answers = open_predictor(made).predict(rows)
    assert answers == pytest.approx(estimator.predict_proba(rows), abs=1e-4)
    statistics = made.manifest.statistics
    assert statistics is not None
    assert statistics.categories["colour"] == {"red": 0.5, "blue": 0.25, "green": 0.25}


def test_an_estimator_fitted_on_named_columns_needs_no_data_frame_later(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(columns())
    pipeline = column_pipeline()
    pipeline[0].transformers = [
        ("kind", pipeline[0].transformers[0][1], ["colour"]),
        ("size", pipeline[0].transformers[1][1], ["weight", "count", "new"]),
    ]
    estimator = fitted(pipeline, frame, TWO)
    made = write(tmp_path / "package", estimator, name="tiny", sample=frame)
    rows = as_array(made.manifest, [["red", 0.5, 3, True]])
    wanted = estimator.predict_proba(
        pandas.DataFrame([["red", 0.5, 3, True]], columns=list(columns()))
    )
    for runtime in ("onnx", "sklearn"):
        answers = open_predictor(made, runtime=runtime).predict(rows)  # type: ignore[arg-type]
        assert answers == pytest.approx(wanted, abs=1e-4)


def test_names_that_columns_were_fitted_with_become_positions() -> None:
    # As a data frame leaves an estimator behind, without the library that makes data frames.
    table = np.stack([np.asarray(c, dtype=object) for c in columns().values()], axis=1)
    pipeline = fitted(column_pipeline(), table, TWO)
    names = np.array(list(columns()), dtype=object)
    first = pipeline[0]
    first.feature_names_in_ = names
    first._columns = [["colour"], ["weight", "count", "new"]]
    first.transformers_ = [
        (key, step, [names[at] for at in where]) for key, step, where in first.transformers_
    ]
    served = portable(pipeline)
    assert served.predict_proba(table[:5]).shape == (5, 2)
    assert [where for _, _, where in served[0].transformers_] == [[0], [1, 2, 3]]
    assert first._columns[0] == ["colour"]  # the notebook's own stays as it was


def test_texts_are_a_series(tmp_path: Path) -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    texts = ["a good day", "a bad night", "good night", "bad day"] * 5
    estimator = fitted(make_pipeline(TfidfVectorizer(), LogisticRegression()), texts, [1, 0] * 10)
    made = write(tmp_path / "package", estimator, name="tiny", sample=texts)
    assert made.manifest.layout == "series"
    answers = open_predictor(made).predict(as_array(made.manifest, [["good"], ["bad"]]))
    assert answers.argmax(axis=1).tolist() == [1, 0]


def test_where_onnx_answers_otherwise_the_estimator_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tandem.model.writing.onnx_export.TOLERANCE", 0.0)
    made = write(tmp_path / "package", logistic(), name="tiny", sample=X)
    assert made.manifest.runtime == "sklearn"
    assert "differ" in made.manifest.runtime_reason
    assert not made.has("model.onnx")
    assert open_predictor(made).runtime == "sklearn"


# --- ONNX alone


def test_an_onnx_file_alone_is_a_package(made: Package, tmp_path: Path) -> None:
    alone = write(tmp_path / "alone", made.folder / "model.onnx", name="tiny", labels=list("abc"))
    assert {file.path for file in alone.manifest.files} == {"model.onnx", "golden.json"}
    assert alone.manifest.labels == ["a", "b", "c"]
    golden = alone.golden()
    answers = open_predictor(alone).predict(as_array(alone.manifest, golden.inputs))
    assert answers == pytest.approx(np.asarray(golden.answers), abs=golden.tolerance)
    with pytest.raises(PackageError, match="has none"):
        load_estimator(alone)


def test_an_onnx_regressor_alone_is_a_package(tmp_path: Path) -> None:
    from sklearn.linear_model import LinearRegression

    made = write(tmp_path / "package", fitted(LinearRegression(), X, VALUES), name="tiny", sample=X)
    alone = write(tmp_path / "alone", made.folder / "model.onnx", name="tiny")
    assert alone.manifest.task == "regression"
    assert open_predictor(alone).predict(X[:3]).shape == (3,)


def test_a_skops_file_is_a_package_when_rows_come_with_it(made: Package, tmp_path: Path) -> None:
    path = made.folder / "model.skops"
    assert write(tmp_path / "again", path, name="tiny", sample=X).digest == made.digest
    with pytest.raises(PackageError, match="sample: missing"):
        write(tmp_path / "no", path, name="tiny")


def test_another_kind_of_file_says_which_are_taken(tmp_path: Path) -> None:
    (tmp_path / "model.txt").write_text("weights")
    with pytest.raises(PackageError, match=r"expected an \.onnx file"):
        write(tmp_path / "package", tmp_path / "model.txt", name="tiny")
    with pytest.raises(PackageError, match="No such file"):
        write(tmp_path / "package", tmp_path / "nothing.onnx", name="tiny")


# --- refusals for people


@pytest.mark.parametrize(
    ("details", "words"),
    [
        ({"labels": ["only one"]}, "1 for the estimator's 3 classes"),
        ({"labels": ["a", "a", "b"]}, "a label is there twice"),
        ({"sample": X[:, :2]}, "does not answer its sample"),
        ({"sample": []}, "no rows"),
        ({"sample": X[0]}, "one row is not enough"),
        ({"sample": None}, "sample: missing"),
        ({"name": "Ünknown/../name"}, "model name"),
        ({"metrics": {"accuracy": math.nan}}, "metric accuracy is nan"),
        ({"held_out": (X[:5], [0, 1])}, "5 rows with 2 answers"),
        ({"held_out": (X[:2], ["no", "label"])}, "none of the labels"),
        ({"held_out": (X[:2, :2], [0, 1])}, "expected [4]"),
        ({"feature_names": ["one"]}, "1 for 4 columns"),
    ],
)
def test_what_cannot_be_published_says_why(
    details: dict[str, Any], words: str, tmp_path: Path
) -> None:
    given = {"name": "tiny", "sample": X, **details}
    with pytest.raises(PackageError, match=re.escape(words)):
        write(tmp_path / "package", logistic(), **given)
    assert list(tmp_path.iterdir()) == []


def test_an_estimator_that_is_not_fitted_is_refused(tmp_path: Path) -> None:
    from sklearn.linear_model import LogisticRegression

    with pytest.raises(PackageError, match="not fitted yet"):
        write(tmp_path / "package", LogisticRegression(), name="tiny", sample=X)


def test_what_does_not_predict_is_refused(tmp_path: Path) -> None:
    from sklearn.preprocessing import StandardScaler

    with pytest.raises(PackageError, match="cannot predict"):
        write(tmp_path / "package", fitted(StandardScaler(), X, None), name="tiny", sample=X)


def test_a_model_that_answers_nan_is_refused(tmp_path: Path) -> None:
    estimator = logistic()
    estimator.coef_[0, 0] = np.nan
    with pytest.raises(PackageError, match="answers NaN"):
        write(tmp_path / "package", estimator, name="tiny", sample=X)


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(PackageError, match="not empty"):
        write(tmp_path, logistic(), name="tiny", sample=X)


def test_another_scikit_learn_is_refused_with_both_versions(tmp_path: Path) -> None:
    made = write(tmp_path / "package", logistic(), name="tiny", sample=X, onnx=False)
    ours = made.manifest.libraries["scikit-learn"]
    skops = made.manifest.libraries["skops"]
    check_libraries(made.manifest, {"scikit-learn": ours, "skops": skops})
    with pytest.raises(PackageError, match=rf"{re.escape(ours)}.*0\.24\.2"):
        check_libraries(made.manifest, {"scikit-learn": "0.24.2", "skops": skops})


def test_onnx_needs_no_scikit_learn_version(made: Package) -> None:
    assert made.manifest.runtime == "onnx"
    check_libraries(made.manifest, {"scikit-learn": "0.24.2", "skops": "0.1"})


def test_versions_are_read_out_of_a_lock_file() -> None:
    lock = (
        "flask==3.1.3 \\\n    --hash=sha256:ab\n"
        "Scikit_Learn[extra]==1.9.1 ; python_version\n# x==1\n"
    )
    assert locked_versions(lock) == {"flask": "3.1.3", "scikit-learn": "1.9.1"}


# --- rows


def test_rows_are_checked_against_the_features(made: Package) -> None:
    for rows in ([[1, 2, 3]], [[1, 2, 3, "x"]], [[1, 2, 3, [4]]], [1, 2, 3, 4], [{}]):
        with pytest.raises(PackageError):
            as_array(made.manifest, rows)
    assert np.isnan(as_array(made.manifest, [[1, 2, 3, None]])[0, 3])


def test_a_missing_number_survives_json() -> None:
    rows = as_rows(np.array([[1.0, np.nan]]))
    assert json.loads(msgspec.json.encode(rows)) == [[1.0, None]]


def test_golden_rows_cover_every_label_and_are_no_near_ties(tmp_path: Path) -> None:
    made = write(tmp_path / "package", logistic(), name="tiny", sample=X)
    golden = made.golden()
    assert {prediction.labels[0] for prediction in golden.predictions} == {"0", "1", "2"}
    for prediction in golden.predictions:
        first, second = prediction.probabilities[:2]
        assert first - second > golden.tolerance


def test_the_image_needs_neither_scikit_learn_nor_onnx_nor_the_writer(made: Package) -> None:
    script = (
        "import sys; sys.path[:0] = sys.argv[2:]\n"
        "sys.modules['tandem.model.writing'] = None  # as where the file is not there\n"
        "from tandem.model.package import read, open_predictor\n"
        "open_predictor(read(sys.argv[1]))\n"
        "print(sorted({'sklearn', 'skops', 'onnx', 'skl2onnx', 'pandas'} & set(sys.modules)))"
    )
    paths = [path for path in sys.path if path]
    done = subprocess.run(
        [sys.executable, "-c", script, made.folder, *paths], capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]", done.stderr
