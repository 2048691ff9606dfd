"""Fitted estimators of impossible shapes, and parameters that do more than compute: refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tandem.errors import PackageError
from tandem.model.package import load_skops, open_predictor
from tandem.model.writing import write
from tandem.model.writing.skops_export import dump_skops

ROOT = Path(__file__).parents[3]
RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 4))
TWO = (X[:, 0] > 0).astype(int)
THREE = np.digitize(X[:, 0] + X[:, 1], [-0.7, 0.7])
VALUES = X @ np.array([1.0, -2.0, 0.5, 3.0])
KINDS = np.array([["red"], ["green"], ["blue"]] * 20, dtype=object)
TEXTS = ["red fish", "blue fish", "one bird"] * 20


def loaded(estimator: Any, folder: Path) -> Any:
    """The estimator, through a file: as a publisher would send it."""
    dump_skops(estimator, folder / "model.skops")
    return load_skops(folder / "model.skops")


def refused(estimator: Any, folder: Path) -> str:
    with pytest.raises(PackageError) as raised:
        loaded(estimator, folder)
    said = str(raised.value)
    assert said.startswith("model.skops: ")
    assert "\n" not in said
    return said


# --- parameters


def vectorizer(**changes: Any) -> Any:
    from sklearn.feature_extraction.text import CountVectorizer

    return CountVectorizer(**changes)


def test_a_vectorizer_that_opens_files_is_refused(tmp_path: Path) -> None:
    from sklearn.feature_extraction import text

    for kind in (text.CountVectorizer, text.TfidfVectorizer, text.HashingVectorizer):
        for source in ("filename", "file"):
            estimator = _set(kind().fit(TEXTS), input=source)
            assert f"input='{source}' opens files" in refused(estimator, tmp_path)


@pytest.mark.parametrize("where", ["outside", "inside"])
@pytest.mark.parametrize(
    ("parameter", "value", "words"),
    [
        ("memory", "cache", "memory='cache' keeps files: expected None"),
        ("verbose", 1, "verbose=1: expected 0"),
        ("verbose", True, "verbose=True: expected 0"),
        ("n_jobs", -1, "n_jobs=-1: expected None"),
        ("n_jobs", 64, "n_jobs=64: expected None"),
        ("n_jobs", [1], "n_jobs=.1.: expected None"),
    ],
)
def test_parameters_that_do_more_than_compute_are_refused(
    tmp_path: Path, parameter: str, value: Any, words: str, where: str
) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    estimator = make_pipeline(LogisticRegression()).fit(X, THREE)
    vars(estimator if where == "outside" else estimator[0])[parameter] = value
    with pytest.raises(PackageError, match=words):
        loaded(estimator, tmp_path)


def test_what_training_had_of_processes_and_caches_is_left_behind(tmp_path: Path) -> None:
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    def pipeline(**more: Any) -> Any:
        forest = RandomForestClassifier(3, random_state=0, **more)
        return Pipeline([("scale", StandardScaler()), ("forest", forest)])

    plain = pipeline().fit(X, THREE)
    busy = pipeline(n_jobs=2, verbose=0)
    busy.set_params(memory=str(tmp_path / "cache"))
    busy.fit(X, THREE)
    busy.set_params(verbose=True)
    made = write(tmp_path / "busy", busy, name="tiny", sample=X, onnx=False)
    same = write(tmp_path / "plain", plain, name="tiny", sample=X, onnx=False)
    assert made.digest == same.digest
    assert busy.memory == str(tmp_path / "cache"), "the caller's own is left alone"
    assert open_predictor(made).predict(X[:2]).shape == (2, 3)


def test_equal_text_models_are_one_package_whichever_process_made_them(tmp_path: Path) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    def made(name: str, words: list[str]) -> Any:
        estimator = make_pipeline(vectorizer(stop_words=words), LogisticRegression())
        return write(tmp_path / name, estimator.fit(TEXTS, THREE), name="tiny", sample=TEXTS)

    assert made("one", ["a"]).digest == made("other", ["a"]).digest


def test_what_would_be_refused_later_is_refused_when_it_is_written(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="init=LogisticRegression: expected None or 'zero'"):
        write(tmp_path / "package", boosting(init=logistic()), name="tiny", sample=X)


def called(**changes: Any) -> list[tuple[str, Any]]:
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.preprocessing import FunctionTransformer
    from sklearn.svm import SVC

    return [
        ("two arguments", FunctionTransformer(np.add).fit(X)),
        ("hands arguments", FunctionTransformer(np.abs, kw_args={"where": True}).fit(X)),
        ("a tokenizer", vectorizer(tokenizer=np.abs)),
        ("an analyzer", vectorizer(analyzer=np.abs)),
        ("a type", vectorizer(preprocessor=np.float64)),
        ("weights", _set(KNeighborsClassifier(algorithm="brute").fit(X, TWO), weights=np.abs)),
        ("kernel", _set(SVC().fit(X, TWO), kernel=np.abs)),
        ("kernel", _set(SVC().fit(X, TWO), kernel=np.float64)),
    ]


def _set(estimator: Any, **values: Any) -> Any:
    vars(estimator).update(values)
    return estimator


@pytest.mark.parametrize("number", range(8))
def test_a_parameter_that_is_called_is_refused(tmp_path: Path, number: int) -> None:
    said = refused(called()[number][1], tmp_path)
    assert "is called" in said or "hands arguments" in said


@pytest.mark.parametrize("name", ["predict", "_impl", "_validate_for_predict", "n_support_"])
def test_a_method_that_the_file_replaces_is_refused(tmp_path: Path, name: str) -> None:
    from sklearn.svm import SVC

    estimator = SVC().fit(X, THREE)
    vars(estimator)[name] = "epsilon_svr"
    assert f"has its '{name}' replaced" in refused(estimator, tmp_path)


def test_types_of_numbers_and_functions_of_one_number_are_taken(tmp_path: Path) -> None:
    from sklearn.feature_selection import SelectKBest
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, OneHotEncoder

    loaded(vectorizer(dtype=np.float32).fit(TEXTS), tmp_path)
    loaded(OneHotEncoder(dtype=np.float64).fit(KINDS), tmp_path)
    steps = make_pipeline(
        FunctionTransformer(np.abs, inverse_func=np.sqrt, check_inverse=False), SelectKBest(k=2)
    )
    loaded(steps.fit(X, THREE), tmp_path)


def test_an_id_that_is_no_number_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.skops"
    for odd in (1.0, True, "1", None, [1]):
        dump_skops(logistic(), path)
        change_schema(path, lambda told, odd=odd: told["content"].update(__id__=odd))
        with pytest.raises(PackageError, match="is not an object's id"):
            load_skops(path)


def change_schema(path: Path, change: Callable[[Any], Any]) -> None:
    with zipfile.ZipFile(path) as source:
        members = {name: source.read(name) for name in source.namelist()}
    told = json.loads(members["schema.json"])
    change(told)
    members["schema.json"] = json.dumps(told).encode()
    with zipfile.ZipFile(path, "w") as target:
        for name, content in members.items():
            target.writestr(name, content)


@pytest.mark.parametrize("loader", [["NdArrayNode"], {}, 3, True, [[]]])
def test_a_loader_that_is_no_text_is_one_line(tmp_path: Path, loader: Any) -> None:
    from sklearn.linear_model import LogisticRegression

    path = tmp_path / "model.skops"
    dump_skops(LogisticRegression().fit(X, THREE), path)
    change_schema(path, lambda told: told["content"].update(__loader__=loader))
    with pytest.raises(PackageError, match="does not belong in an estimator"):
        load_skops(path)


# --- fitted values


def svc(**changes: Any) -> Any:
    from sklearn.svm import SVC

    return _set(SVC(**changes).fit(X @ X.T if changes else X, THREE))


def svr() -> Any:
    from sklearn.svm import SVR

    return SVR().fit(X, VALUES)


def neighbors() -> Any:
    from sklearn.neighbors import KNeighborsClassifier

    return KNeighborsClassifier(algorithm="brute").fit(X, THREE)


def envelope() -> Any:
    from sklearn.covariance import EllipticEnvelope

    return EllipticEnvelope(random_state=0).fit(X)


def forest() -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(2, random_state=0).fit(X, THREE)


def boosting(**changes: Any) -> Any:
    from sklearn.ensemble import GradientBoostingClassifier

    return GradientBoostingClassifier(n_estimators=2, **changes).fit(X, THREE)


def regressor_boosting() -> Any:
    from sklearn.ensemble import GradientBoostingRegressor

    return GradientBoostingRegressor(n_estimators=2).fit(X, VALUES)


def histogram() -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier

    rows = np.repeat(X, 3, axis=0)
    return HistGradientBoostingClassifier(max_iter=2).fit(rows, np.repeat(THREE, 3))


def isolation(**changes: Any) -> Any:
    from sklearn.ensemble import IsolationForest

    return IsolationForest(n_estimators=2, random_state=0, **changes).fit(X)


def centres() -> Any:
    from sklearn.cluster import KMeans

    return KMeans(3, n_init=1, random_state=0).fit(X)


def one_hot(rows: Any = KINDS, **changes: Any) -> Any:
    from sklearn.preprocessing import OneHotEncoder

    return OneHotEncoder(**changes).fit(rows)


def polynomial() -> Any:
    from sklearn.preprocessing import PolynomialFeatures

    return PolynomialFeatures(2).fit(X)


def hashing(count: int) -> Any:
    from sklearn.feature_extraction.text import HashingVectorizer

    return _set(HashingVectorizer(), n_features=count)


def dummy(position: int) -> Any:
    from sklearn.dummy import DummyClassifier

    generator = np.random.RandomState(0)
    told = generator.get_state(legacy=False)
    told["state"]["pos"] = position  # type: ignore[index, call-overload]
    generator.set_state(told)
    return DummyClassifier(strategy="stratified", random_state=generator).fit(X, THREE)


def put(name: str, change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A change of one attribute."""

    def apply(estimator: Any) -> Any:
        vars(estimator)[name] = change(vars(estimator).get(name))
        return estimator

    return apply


def without(name: str) -> Callable[[Any], Any]:
    def apply(estimator: Any) -> Any:
        del vars(estimator)[name]
        return estimator

    return apply


def other_width(ensemble: Any) -> Any:
    """A tree of more columns than the ensemble lets through."""
    from sklearn.tree import DecisionTreeClassifier

    wide = np.repeat(X, 50, axis=1)
    tree = DecisionTreeClassifier(random_state=0).fit(wide, THREE)
    if isinstance(ensemble.estimators_, np.ndarray):
        ensemble.estimators_[0, 0] = tree
    else:
        ensemble.estimators_[0] = tree
    return ensemble


IMPOSSIBLE: list[tuple[Callable[[], Any], Callable[[Any], Any], str]] = [
    (svc, put("_dual_coef_", lambda a: a[:, :2].copy()), "_dual_coef_ has shape"),
    (svc, put("_dual_coef_", lambda a: a[:1].copy()), "_dual_coef_ has shape"),
    (svc, put("_intercept_", lambda a: a[:1].copy()), "_intercept_ has shape"),
    (svc, put("support_", lambda a: a[:3].copy()), "_n_support does not count"),
    (svc, put("support_vectors_", lambda a: a[:, :2].copy()), "support_vectors_ has shape"),
    (svc, put("support_vectors_", lambda a: a[:0].copy()), "support_vectors_ has shape"),
    (svc, put("_n_support", lambda a: a[::-1] - np.int32(1)), "_n_support does not count"),
    (svc, put("_n_support", lambda a: np.append(a, a)), "_n_support has shape"),
    (svc, put("_probA", lambda a: np.ones(1)), "_probA has shape"),
    (svc, put("_probB", lambda a: np.ones(3)), "_probB has shape"),
    (svc, put("classes_", lambda a: a[:1]), "has no two classes"),
    (svc, put("class_weight_", lambda a: np.ones(99)), "other classes' weights"),
    (svc, put("_sparse", lambda a: True), "fitted on sparse rows"),
    (svc, without("n_features_in_"), "n_features_in_=None"),
    (svc, without("support_"), "support_ is not an array"),
    (lambda: svc(kernel="precomputed"), put("support_", lambda a: a + np.int32(99)), "points out"),
    (lambda: svc(kernel="precomputed"), put("shape_fit_", lambda a: (9, 9)), "kernel of 9 rows"),
    (svr, put("_dual_coef_", lambda a: a[:, :0].copy()), "_dual_coef_ has shape"),
    (svr, put("_n_support", lambda a: a[:1].copy()), "_n_support has shape"),
    (neighbors, put("_y", lambda a: a + 100), "_y points outside"),
    (neighbors, put("_y", lambda a: a - 1), "_y points outside"),
    (neighbors, put("_y", lambda a: a[:5].copy()), "60 rows, 5 answers"),
    (neighbors, put("_fit_X", lambda a: a[:, :1].copy()), "_fit_X has shape"),
    (neighbors, put("_fit_X", lambda a: a[:3].copy()), "holds 3 rows"),
    (neighbors, put("n_samples_fit_", lambda a: 10**6), "holds 60 rows"),
    (neighbors, put("n_neighbors", lambda a: 10**6), "n_neighbors=1000000"),
    (neighbors, put("metric_params", lambda a: {"w": np.ones(2)}), "w is not of 4 columns"),
    (neighbors, put("metric_params", lambda a: {"VI": np.ones(4)}), "VI is not of 4 columns"),
    (envelope, put("precision_", lambda a: a[0].copy()), "precision_ has shape"),
    (envelope, put("precision_", lambda a: a[:, :0].copy()), "precision_ has shape"),
    (envelope, put("covariance_", lambda a: a[:1].copy()), "covariance_ has shape"),
    (forest, other_width, "a tree of 200 features, not 4"),
    (forest, put("n_features_in_", lambda a: 9), "a tree of 4 features, not 9"),
    (boosting, other_width, "a tree of 200 features, not 4"),
    (boosting, put("estimators_", lambda a: np.hstack([a, a])), "6 trees a round"),
    (boosting, put("estimators_", lambda a: a[:, :1].copy()), "1 trees a round"),
    (boosting, put("estimators_", lambda a: a.ravel()), "not a table of trees"),
    (
        boosting,
        put("init_", lambda a: logistic()),
        "init=LogisticRegression: expected None or 'zero'",
    ),
    (
        lambda: regressor_boosting(),
        lambda estimator: _set(
            estimator, init_=boosting().init_, classes_=np.arange(1), n_classes_=1
        ),
        "init=DummyClassifier: expected None or 'zero'",
    ),
    (isolation, other_width, "a tree of 200 features"),
    (isolation, put("estimators_features_", lambda a: a[:1]), "lacks features"),
    (histogram, put("_preprocessor", lambda a: logistic()), "categories are not served"),
    (histogram, put("n_features_in_", lambda a: 2), "another width's bins"),
    (histogram, put("_predictors", lambda a: [[logistic()]]), "holds a LogisticRegression"),
    (centres, put("cluster_centers_", lambda a: a[:, :1].copy()), "cluster_centers_ has shape"),
    (centres, put("_n_threads", lambda a: 10**9), "_n_threads=1000000000"),
    (one_hot, put("_n_features_outs", lambda a: [1]), "1 columns for 3 categories"),
    (one_hot, put("categories_", lambda a: [np.append(a[0], a[0])]), "3 columns for 6 categories"),
    (one_hot, put("_drop_idx_after_grouping", lambda a: np.array([9], object)), "drops what"),
    (lambda: one_hot(X[:5]), put("categories_", lambda a: [c[::-1] for c in a]), "not in order"),
    (
        lambda: one_hot(max_categories=2),
        put("_default_to_infrequent_mappings", lambda a: [np.array([0, 1, 99])]),
        "2 columns for 100 categories",
    ),
    (
        lambda: one_hot(max_categories=2),
        put("_infrequent_indices", lambda a: [np.array([99])]),
        "that it does not have",
    ),
    (polynomial, put("_n_out_full", lambda a: 10**6), "columns and makes 15"),
    (polynomial, put("_max_degree", lambda a: 64), "columns and makes 814385"),
    (vectorizer, put("vocabulary_", lambda a: {"red": 10**6}), "points outside of its columns"),
    (vectorizer, put("vocabulary_", lambda a: {"red": -1}), "points outside of its columns"),
    (lambda: hashing(0), lambda estimator: estimator, "n_features=0"),
    (lambda: hashing(2**31 - 1), lambda estimator: estimator, "n_features=2147483647"),
    (lambda: dummy(10**6), lambda estimator: estimator, "its state is shorter"),
]


def logistic() -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression().fit(X, THREE)


@pytest.mark.parametrize("number", range(len(IMPOSSIBLE)))
def test_fitted_values_that_do_not_fit_together_are_refused(tmp_path: Path, number: int) -> None:
    make, change, words = IMPOSSIBLE[number]
    loaded(make(), tmp_path) if "its state" not in words and "n_features=" not in words else None
    assert words in refused(change(make()), tmp_path)


def test_a_tree_that_stands_by_itself_is_refused(tmp_path: Path) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    tree = forest().estimators_[0].tree_
    pipeline = make_pipeline(LogisticRegression()).fit(X, THREE)
    pipeline.steps[-1] = ("tree", tree)
    assert "does not belong as 'steps'" in refused(pipeline, tmp_path)
    assert "does not belong as ''" in refused(tree, tmp_path)


def test_tree_nodes_that_are_no_list_are_refused_before_they_are_loaded(tmp_path: Path) -> None:
    """In a process of its own: scikit-learn would end it."""
    tree = forest().estimators_[0]
    path = tmp_path / "model.skops"
    dump_skops(tree, path)
    with zipfile.ZipFile(path) as source:
        members = {name: source.read(name) for name in source.namelist()}
    told = json.loads(members["schema.json"])
    state = told["content"]["content"]["tree_"]["content"]["content"]
    nothing = {"__class__": "str", "__module__": "builtins", "__loader__": "JsonNode"}
    nothing |= {"content": "null", "is_json": True}
    scalar = told["content"]["content"]["n_classes_"]
    first = told["content"]["content"]["criterion"]
    for replaced in (nothing, scalar, {**state["nodes"], "__id__": 10**6}):
        state["nodes"] = replaced
        first["__id__"] = 10**6  # as the last one: skops would take this text for it
        with zipfile.ZipFile(path, "w") as target:
            for name, content in (members | {"schema.json": json.dumps(told).encode()}).items():
                target.writestr(name, content)
        done = subprocess.run(
            [sys.executable, "-c", LOAD, path],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            check=False,
        )
        assert done.stdout == "model.skops: a decision tree without nodes\n", done


LOAD = """
import sys
from pathlib import Path
from tandem.errors import PackageError
from tandem.model.package import load_skops
try:
    load_skops(Path(sys.argv[1]))
except PackageError as problem:
    print(problem)
"""


def test_parameters_alone_are_no_fitted_estimator(tmp_path: Path) -> None:
    from sklearn.ensemble import BaggingClassifier
    from sklearn.svm import SVC

    loaded(BaggingClassifier(SVC(), n_estimators=2).fit(X, THREE), tmp_path)


def test_no_mutant_of_a_skops_file_ends_the_process(tmp_path: Path) -> None:
    """A few; `python tests/support/skops_mutants.py` tries as many as one likes."""
    from sklearn.ensemble import HistGradientBoostingRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    estimators = {
        "svc": svc(),
        "neighbors": neighbors(),
        "forest": forest(),
        "boosting": boosting(),
        "histogram": HistGradientBoostingRegressor(max_iter=2).fit(np.repeat(X, 3, axis=0), TWO3),
        "pipeline": make_pipeline(StandardScaler(), svr()).fit(X, VALUES),
    }
    folders = []
    for name, estimator in estimators.items():
        write(tmp_path / name, estimator, name=name, sample=X, onnx=False)
        folders.append(tmp_path / name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        done = subprocess.run(
            [sys.executable, ROOT / "tests/support/skops_mutants.py", "5", "0", "200", *folders],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            check=False,
        )
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-2000:]
    assert done.stdout.splitlines()[-1].startswith("199 ")


TWO3 = np.repeat(VALUES, 3)
