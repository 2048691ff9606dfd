"""What each scikit-learn type must hold, for compiled code that looks at nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

MAX_HASHED = 2**26
"""Columns that texts may be hashed into: the default is 2**20."""
MAX_POLYNOMIAL = 10_000_000
"""Columns that polynomials may make."""


class Unfit(Exception):
    """What does not fit, in a few words."""


def need(condition: Any, owner: Any, what: str) -> None:
    """Raise `Unfit` unless the condition holds."""
    if not condition:
        raise Unfit(f"{type(owner).__name__}: {what}")


def type_names(value: Any) -> list[str]:
    """The names of its type and of all that this inherits from."""
    return [kind.__name__ for kind in type(value).__mro__]


def _integer(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _width(value: Any) -> int:
    """How many columns scikit-learn lets through; without it, it would not look."""
    width: Any = vars(value).get("n_features_in_")
    need(_integer(width) and width > 0, value, f"n_features_in_={str(width)[:60]}")
    return int(width)


def _check_array(owner: Any, name: str, shape: tuple[int, ...], kinds: str = "f") -> Any:
    """The attribute, when it is an array of that shape and kind of numbers."""
    array = vars(owner).get(name)
    need(type(array) is np.ndarray and array.dtype.kind in kinds, owner, f"{name} is not an array")
    need(
        array.shape == shape,
        owner,
        f"{name} has shape {str(list(array.shape))[:60]}, expected {list(shape)}",
    )
    return array


# --- trees


def _check_tree(owner: Any) -> None:
    width = _width(owner)
    tree = vars(owner).get("tree_")
    need(type(tree).__module__ == "sklearn.tree._tree", owner, "has no tree")
    # Before its arrays are looked at: they are as long as it says, whatever there is.
    need(1 <= tree.node_count <= tree.capacity, owner, f"a tree of {tree.node_count} nodes")
    need(tree.n_features == width, owner, f"a tree of {tree.n_features} features, not {width}")
    need(tree.n_outputs >= 1 and tree.max_n_classes >= 1, owner, "a tree without answers")
    _check_nodes(owner, tree.children_left, tree.children_right, tree.feature, width)


def _check_nodes(owner: Any, left: Any, right: Any, column: Any, width: int) -> None:
    """Children come after their parents, columns are there; a leaf has -1 twice."""
    count = len(left)
    inner = left != -1
    places = np.arange(count)[inner]
    fits = bool(np.array_equal(inner, right != -1))
    for child in (left[inner], right[inner]):
        fits = fits and bool(np.all(child > places) and np.all(child < count))
    fits = fits and bool(np.all((column[inner] >= 0) & (column[inner] < width)))
    need(fits, owner, "a decision tree points outside of itself")


def _check_forest(owner: Any) -> None:
    # It looks at the rows once, for all of its trees.
    width = _width(owner)
    for member in owner.estimators_:
        need("BaseDecisionTree" in type_names(member), owner, f"holds a {type(member).__name__}")
        need(_width(member) == width, owner, f"a tree of {_width(member)} features, not {width}")


def _check_isolation_forest(owner: Any) -> None:
    width = _width(owner)
    need(len(owner.estimators_) == len(owner.estimators_features_), owner, "lacks features")
    for member, columns in zip(owner.estimators_, owner.estimators_features_, strict=True):
        need("BaseDecisionTree" in type_names(member), owner, f"holds a {type(member).__name__}")
        wanted = width if owner._max_features == width else len(columns)
        need(_width(member) == wanted, owner, f"a tree of {_width(member)} features")


def _check_boosting(owner: Any) -> None:
    width = _width(owner)
    trees = vars(owner).get("estimators_")
    need(
        type(trees) is np.ndarray and trees.ndim == 2, owner, "estimators_ is not a table of trees"
    )
    count = trees.shape[1]
    need(trees.size and count == owner.n_trees_per_iteration_, owner, f"{count} trees a round")
    for member in trees.ravel():
        need("BaseDecisionTree" in type_names(member), owner, f"holds a {type(member).__name__}")
        need(_width(member) == width, owner, f"a tree of {_width(member)} features, not {width}")
    # Trees add to what `init_` answers, one column each, whatever it has.
    start, names = owner.init_, type_names(owner.init_)
    if "DummyClassifier" in names and "ClassifierMixin" in type_names(owner):
        classes = len(owner.classes_)
        need(count == (1 if classes == 2 else classes), owner, f"{count} trees a round")
        need(owner._loss.is_multiclass == (count > 1), owner, "another loss than its classes need")
        need(start.strategy == "prior" and start.n_outputs_ == 1, start, "starts otherwise")
        _check_array(start, "class_prior_", (classes,))
    elif "DummyRegressor" in names:
        need(count == 1 and start.n_outputs_ == 1, start, "starts with several values")
        need(np.size(start.constant_) == 1, start, "starts with several values")
    else:
        need(
            isinstance(start, str) and start == "zero",
            owner,
            f"init={type(start).__name__}: expected None or 'zero'",
        )


def _check_histogram_boosting(owner: Any) -> None:
    width = _width(owner)
    # Categories need a preprocessor that no package holds.
    held = vars(owner)
    need(held.get("_preprocessor") is None, owner, "categories are not served; encode them")
    need(not np.any(owner._bin_mapper.is_categorical_), owner, "categories are not served")
    need(np.shape(owner._bin_mapper.is_categorical_) == (width,), owner, "another width's bins")
    for members in owner._predictors:
        for member in members:
            need(
                type_names(member)[0] == "TreePredictor", owner, f"holds a {type(member).__name__}"
            )
            _check_predictor(owner, member, width)


def _check_predictor(owner: Any, tree: Any, width: int) -> None:
    nodes = tree.nodes
    need(type(nodes) is np.ndarray and nodes.ndim == 1 and len(nodes), owner, "an empty tree")
    inner = nodes["is_leaf"] == 0
    need(not np.any(nodes["is_categorical"][inner]), owner, "categories are not served")
    left, right = (
        np.where(inner, nodes[side].astype(np.int64), np.int64(-1)) for side in ("left", "right")
    )
    _check_nodes(owner, left, right, nodes["feature_idx"].astype(np.int64), width)


# --- support vectors, neighbours, centres


def _check_libsvm(owner: Any) -> None:
    width = _width(owner)
    need(owner._sparse is False, owner, "fitted on sparse rows, which are not served")
    need(isinstance(owner.kernel, str), owner, "kernel is called; expected its name")
    vectors = len(_check_array(owner, "support_", np.shape(vars(owner).get("support_"))[:1], "i"))
    classes = 2
    if owner._impl in ("c_svc", "nu_svc"):
        classes = len(owner.classes_)
        need(classes >= 2, owner, "has no two classes")
        counts = _check_array(owner, "_n_support", (classes,), "i")
        need(
            np.all(counts >= 0) and counts.sum(dtype=np.int64) == vectors,
            owner,
            f"_n_support does not count {vectors} vectors",
        )
        weights = vars(owner).get("class_weight_")
        need(weights is None or np.shape(weights) == (classes,), owner, "other classes' weights")
    else:
        _check_array(owner, "_n_support", (2,), "i")
    pairs = classes * (classes - 1) // 2
    _check_array(owner, "_dual_coef_", (classes - 1, vectors))
    _check_array(owner, "_intercept_", (pairs,))
    for name in ("_probA", "_probB"):
        _check_array(owner, name, (pairs,) if len(owner._probA) else (0,))
    if owner.kernel == "precomputed":
        need(owner.shape_fit_[0] == width, owner, f"kernel of {owner.shape_fit_[0]} rows")
        fits = np.all((owner.support_ >= 0) & (owner.support_ < width))
        need(fits, owner, "support_ points outside of the rows")
    else:
        _check_array(owner, "support_vectors_", (vectors, width))


def _check_neighbors(owner: Any) -> None:
    width = _width(owner)
    rows = vars(owner).get("_fit_X")
    need(type(rows) is np.ndarray and rows.ndim == 2, owner, "_fit_X is not a table")
    _check_array(owner, "_fit_X", (len(rows), width), "fiub")
    need(len(rows) and owner.n_samples_fit_ == len(rows), owner, f"holds {len(rows)} rows")
    need(
        vars(owner).get("_tree") is None, owner, "a search tree cannot be checked; expected 'brute'"
    )
    count = vars(owner).get("n_neighbors")
    if count is not None:
        need(_integer(count) and 1 <= count <= len(rows), owner, f"n_neighbors={count!r}")
    for name in ("metric", "effective_metric_", "weights"):
        said = vars(owner).get(name)
        need(said is None or isinstance(said, str), owner, f"{name} is called; expected its name")
    for name in ("metric_params", "effective_metric_params_"):
        for key, value in (vars(owner).get(name) or {}).items():
            # scipy looks at the shape of all but the inverse of a covariance.
            shapes = ((width, width),) if key == "VI" else ((), (width,))
            need(np.shape(value) in shapes, owner, f"{name}: {key} is not of {width} columns")
    labels = vars(owner).get("_y")
    if labels is not None:
        need(
            type(labels) is np.ndarray and labels.dtype.kind in "fiub", owner, "_y is not an array"
        )
        need(labels.shape[:1] == (len(rows),), owner, f"{len(rows)} rows, {len(labels)} answers")
    if "ClassifierMixin" in type_names(owner):
        _check_classes(owner, labels)


def _check_classes(owner: Any, labels: Any) -> None:
    several = owner.outputs_2d_
    need(labels is not None and labels.dtype.kind in "iu", owner, "has no classes")
    need(labels.ndim == (2 if several else 1), owner, f"_y has {labels.ndim} dimensions")
    columns = labels.T if several else [labels]
    classes = owner.classes_ if several else [owner.classes_]
    need(len(columns) == len(classes), owner, "other classes than answers")
    for column, known in zip(columns, classes, strict=True):
        fits = np.ndim(known) == 1 and np.all((column >= 0) & (column < len(known)))
        need(fits, owner, "_y points outside of its classes")


def _check_covariance(owner: Any) -> None:
    width = _width(owner)
    _check_array(owner, "location_", (width,))
    for name in ("covariance_", "precision_"):
        if vars(owner).get(name) is not None:
            _check_array(owner, name, (width, width))


def _check_centers(owner: Any) -> None:
    centers: Any = vars(owner).get("cluster_centers_")
    need(np.ndim(centers) == 2 and len(centers), owner, "has no centres")
    _check_array(owner, "cluster_centers_", (len(centers), _width(owner)))
    threads = owner._n_threads
    need(_integer(threads) and 1 <= threads <= 1024, owner, f"_n_threads={threads!r}")


# --- columns


def _check_one_hot(owner: Any) -> None:
    """Codes become columns of a sparse matrix, whose indices nobody looks at again."""
    categories, outs = owner.categories_, owner._n_features_outs
    dropped = owner._drop_idx_after_grouping
    need(len(categories) == len(outs) == _width(owner), owner, "categories of another width")
    need(dropped is None or np.shape(dropped) == (len(outs),), owner, "drops other columns")
    mapped = owner._default_to_infrequent_mappings if owner._infrequent_enabled else None
    groups = owner._infrequent_indices if owner._infrequent_enabled else None
    for told in (mapped, groups):
        need(told is None or len(told) == len(outs), owner, "other groups")
    for at, known in enumerate(categories):
        need(type(known) is np.ndarray and known.ndim == 1, owner, "categories are no list")
        if known.dtype.kind not in "OUS":
            # Found by bisection, which needs them in order; NaN is last.
            found = known[~np.isnan(known)] if known.dtype.kind == "f" else known
            need(np.all(found[1:] > found[:-1]), owner, "categories are not in order")
            need(np.array_equal(found, known[: len(found)]), owner, "categories are not in order")
            need(len(known) - len(found) <= 1, owner, "a category is there twice")
        count = len(known)
        if mapped is not None and groups is not None and mapped[at] is not None:
            codes, group = np.asarray(mapped[at]), np.asarray(groups[at])
            need(codes.shape == (count,) and codes.dtype.kind in "iu", owner, "other groups")
            need(np.all(codes >= 0), owner, "groups categories outside of its columns")
            inside = group.size and np.all((group >= 0) & (group < count))
            need(inside, owner, "groups categories that it does not have")
            count = int(codes.max()) + 1
        elif groups is not None:
            need(groups[at] is None, owner, "groups categories into none")
        if dropped is not None and dropped[at] is not None:
            place = dropped[at]
            need(_integer(place) and 0 <= place < count, owner, "drops what it does not have")
            count -= 1
        need(outs[at] == count, owner, f"{outs[at]} columns for {count} categories")


def _check_vocabulary(owner: Any) -> None:
    words = vars(owner).get("vocabulary_")
    if words is None:
        return  # made from `vocabulary`, which scikit-learn checks
    need(type(words) is dict, owner, "vocabulary_ is not a mapping")
    places = list(words.values())
    fits = all(map(_integer, places)) and sorted(places) == list(range(len(places)))
    need(fits, owner, "vocabulary_ points outside of its columns")


def _check_hashing(owner: Any) -> None:
    count: Any = vars(owner).get("n_features")
    need(
        _integer(count) and 1 <= count <= MAX_HASHED,
        owner,
        f"n_features={str(count)[:60]}, expected 1 to {MAX_HASHED}",
    )


def _check_polynomial(owner: Any) -> None:
    # Columns that are not filled would hold whatever was in memory.
    width, low, high = _width(owner), owner._min_degree, owner._max_degree
    need(_integer(low) and _integer(high) and 0 <= low <= high <= 64, owner, "absurd degrees")
    rest = (owner.interaction_only, owner.include_bias)
    made = type(owner)._num_combinations(width, low, high, *rest)
    full = type(owner)._num_combinations(width, 0, high, *rest)
    need(full <= MAX_POLYNOMIAL, owner, f"makes {full} columns, at most {MAX_POLYNOMIAL}")
    fits = (owner.n_output_features_, owner._n_out_full) == (made, full)
    need(fits, owner, f"says {owner.n_output_features_} columns and makes {made}")


# Other types compute with numpy and scipy, which look at what they are given: so says fuzzing
# (tests/unit/skops_mutants.py).
CHECKS: dict[str, Callable[[Any], None]] = {
    "BaseDecisionTree": _check_tree,
    "BaseForest": _check_forest,
    "IsolationForest": _check_isolation_forest,
    "BaseGradientBoosting": _check_boosting,
    "BaseHistGradientBoosting": _check_histogram_boosting,
    "BaseLibSVM": _check_libsvm,
    "NeighborsBase": _check_neighbors,
    "EmpiricalCovariance": _check_covariance,
    "_BaseKMeans": _check_centers,
    "OneHotEncoder": _check_one_hot,
    "CountVectorizer": _check_vocabulary,
    "DictVectorizer": _check_vocabulary,
    "FeatureHasher": _check_hashing,
    "HashingVectorizer": _check_hashing,
    "PolynomialFeatures": _check_polynomial,
}
UNFITTED = frozenset({"FeatureHasher", "HashingVectorizer"})
"""Those that learn nothing, and answer all the same."""
