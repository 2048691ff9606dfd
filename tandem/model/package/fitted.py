"""Estimators after loading, before they are asked: what scikit-learn's compiled code relies on.

Compiled code follows indices and widths without looking: what does not fit would read or write
foreign memory, or never end. Checked is each type of scikit-learn's that does so when it predicts,
and of all types the parameters that open files, start processes or call what the file names.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from tandem.errors import PackageError, one_line

MAX_HASHED = 2**26
"""Columns that texts may be hashed into: the default is 2**20."""
MAX_POLYNOMIAL = 10_000_000
"""Columns that polynomials may make."""

_PLAIN = frozenset({str, bytes, int, float, bool, type(None)})


class _Unfit(Exception):
    """What does not fit, in a few words."""


def check_fitted(estimator: Any, name: str) -> None:
    """Refuse an estimator whose fitted values do not fit together, or whose parameters do more than
    compute; raises `PackageError` that begins with `name`.
    """
    try:
        for owner, key, value in _values(estimator):
            _check_value(owner, key, value)
    except _Unfit as problem:
        raise PackageError(f"{name}: {problem}") from None
    except Exception as problem:  # noqa: BLE001 - a crafted value may be of any type; it is refused all the same
        raise PackageError(
            f"{name}: its fitted values do not fit together: {one_line(problem)}"
        ) from None


def _need(condition: Any, owner: Any, what: str) -> None:
    if not condition:
        raise _Unfit(f"{type(owner).__name__}: {what}")


def _values(root: Any) -> Iterator[tuple[Any, str, Any]]:
    """Every object with the estimator that holds it, and the name that it has there."""
    seen: set[int] = set()
    waiting: list[tuple[Any, str, Any]] = [(None, "", root)]
    while waiting:
        owner, key, value = waiting.pop()
        yield owner, key, value
        if id(value) in seen:
            continue
        seen.add(id(value))
        inside: Iterable[Any] = ()
        if isinstance(value, Mapping):
            inside = (*value.keys(), *value.values())
        elif isinstance(value, np.ndarray):
            inside = value.ravel().tolist() if value.dtype.hasobject else ()
        elif isinstance(value, list | tuple | set | frozenset):
            inside = value
        # A vocabulary has millions of these.
        waiting.extend((owner, key, item) for item in inside if type(item) not in _PLAIN)
        if type(value).__module__.startswith("sklearn.") and hasattr(value, "__dict__"):
            waiting.extend((value, name, item) for name, item in vars(value).items())


def _check_value(owner: Any, key: str, value: Any) -> None:
    if isinstance(value, types.FunctionType | types.BuiltinFunctionType | type | np.ufunc):
        _check_callable(owner, key, value)
        return
    kind = type(value)
    if kind.__module__ == "sklearn.tree._tree":
        tree = key == "tree_" and "BaseDecisionTree" in _names(owner)
        _need(tree and owner.tree_ is value, value, f"has no business as {key!r}")
    elif kind.__name__ == "TreePredictor":
        boosting = key == "_predictors" and "BaseHistGradientBoosting" in _names(owner)
        _need(boosting, value, f"has no business as {key!r}")
    elif isinstance(value, np.random.RandomState | np.random.Generator):
        _check_random(value)
    elif hasattr(value, "check_format"):
        value.check_format(full_check=True)  # a sparse matrix's indices, one by one
    if kind.__module__.startswith("sklearn.") and hasattr(value, "__dict__"):
        _check_parameters(value)
        for name in _names(value):
            if name in _CHECKS and (name in _UNFITTED or _is_fitted(value)):
                _CHECKS[name](value)


def _is_fitted(value: Any) -> bool:
    """Whether it has learned anything: ensembles keep what they copied, and cannot ask it."""
    learned = {name for name in vars(value) if name.startswith("_") or name.endswith("_")}
    return bool(learned - {"_sklearn_output_config", "_metadata_request"})


def _names(value: Any) -> list[str]:
    return [kind.__name__ for kind in type(value).__mro__]


def _check_callable(owner: Any, key: str, value: Any) -> None:
    """Functions are called with whatever they are given: only those that compute, where they
    belong.
    """
    if isinstance(value, type):
        allowed = key.endswith("dtype") and (
            issubclass(value, np.generic) or value in (int, float, bool, str)
        )
    elif isinstance(value, np.ufunc):
        allowed = key in ("func", "inverse_func") and (value.nin, value.nout) == (1, 1)
    else:
        allowed = key == "score_func" and value.__module__.startswith("sklearn.feature_selection.")
    _need(allowed, owner, f"{key}={getattr(value, '__name__', value)} is called; not in a package")


def _check_parameters(value: Any) -> None:
    """What opens files, starts processes or prints; and attributes that stand in for methods."""
    held = vars(value)
    for name in held:
        # A method, a property or a constant of the class, which the class counts on.
        own = getattr(type(value), name, None)
        _need(own is None or isinstance(own, bool), value, f"has its {name!r} replaced")
    _need(
        held.get("n_jobs") in (None, 1),
        value,
        f"n_jobs={held.get('n_jobs')!r}: want None, a service has its own workers",
    )
    _need(
        held.get("memory") is None,
        value,
        f"memory={str(held.get('memory'))[:60]!r} keeps files: want None",
    )
    _need(not held.get("verbose"), value, f"verbose={held.get('verbose')!r}: want 0")
    _need(
        held.get("input", "content") == "content",
        value,
        f"input={str(held.get('input'))[:60]!r} opens files: want 'content'",
    )
    _need(
        not (held.get("kw_args") or held.get("inv_kw_args")),
        value,
        "hands arguments to its function: want none",
    )


def _check_random(value: Any) -> None:
    state = (
        value.get_state(legacy=False)
        if isinstance(value, np.random.RandomState)
        else value.bit_generator.state
    )
    # Places in buffers, which are not looked at again.
    _need(0 <= state.get("buffer_pos", 0) <= 4, value, "its buffer is shorter")
    if state.get("bit_generator") == "MT19937":
        _need(0 <= state["state"]["pos"] <= 624, value, "its state is shorter")


def _integer(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _width(value: Any) -> int:
    """How many columns scikit-learn lets through: without the attribute it would not look."""
    width: Any = vars(value).get("n_features_in_")
    _need(_integer(width) and width > 0, value, f"n_features_in_={str(width)[:60]}")
    return int(width)


def _check_array(owner: Any, name: str, shape: tuple[int, ...], kinds: str = "f") -> Any:
    """The attribute, when it is an array of that shape and kind of numbers."""
    array = vars(owner).get(name)
    _need(type(array) is np.ndarray and array.dtype.kind in kinds, owner, f"{name} is no array")
    _need(
        array.shape == shape,
        owner,
        f"{name} has shape {str(list(array.shape))[:60]}, want {list(shape)}",
    )
    return array


# --- trees


def _check_tree(owner: Any) -> None:
    width = _width(owner)
    tree = vars(owner).get("tree_")
    _need(type(tree).__module__ == "sklearn.tree._tree", owner, "has no tree")
    # Before its arrays are looked at: they are as long as it says, whatever there is.
    _need(1 <= tree.node_count <= tree.capacity, owner, f"a tree of {tree.node_count} nodes")
    _need(tree.n_features == width, owner, f"a tree of {tree.n_features} features, not {width}")
    _need(tree.n_outputs >= 1 and tree.max_n_classes >= 1, owner, "a tree without answers")
    _check_nodes(owner, tree.children_left, tree.children_right, tree.feature, width)


def _check_nodes(owner: Any, left: Any, right: Any, column: Any, width: int) -> None:
    """Children come after their parents and are there, columns are there; a leaf has -1 twice."""
    count = len(left)
    inner = left != -1
    places = np.arange(count)[inner]
    fits = bool(np.array_equal(inner, right != -1))
    for child in (left[inner], right[inner]):
        fits = fits and bool(np.all(child > places) and np.all(child < count))
    fits = fits and bool(np.all((column[inner] >= 0) & (column[inner] < width)))
    _need(fits, owner, "a decision tree points outside of itself")


def _check_forest(owner: Any) -> None:
    # It looks at the rows once, for all of its trees.
    width = _width(owner)
    for member in owner.estimators_:
        _need("BaseDecisionTree" in _names(member), owner, f"holds a {type(member).__name__}")
        _need(_width(member) == width, owner, f"a tree of {_width(member)} features, not {width}")


def _check_isolation_forest(owner: Any) -> None:
    width = _width(owner)
    _need(len(owner.estimators_) == len(owner.estimators_features_), owner, "lacks features")
    for member, columns in zip(owner.estimators_, owner.estimators_features_, strict=True):
        _need("BaseDecisionTree" in _names(member), owner, f"holds a {type(member).__name__}")
        wanted = width if owner._max_features == width else len(columns)
        _need(_width(member) == wanted, owner, f"a tree of {_width(member)} features")


def _check_boosting(owner: Any) -> None:
    width = _width(owner)
    trees = vars(owner).get("estimators_")
    _need(type(trees) is np.ndarray and trees.ndim == 2, owner, "estimators_ is no table of trees")
    count = trees.shape[1]
    _need(trees.size and count == owner.n_trees_per_iteration_, owner, f"{count} trees a round")
    for member in trees.ravel():
        _need("BaseDecisionTree" in _names(member), owner, f"holds a {type(member).__name__}")
        _need(_width(member) == width, owner, f"a tree of {_width(member)} features, not {width}")
    # Trees add to what `init_` answers, one column each, whatever it has.
    start, names = owner.init_, _names(owner.init_)
    if "DummyClassifier" in names and "ClassifierMixin" in _names(owner):
        classes = len(owner.classes_)
        _need(count == (1 if classes == 2 else classes), owner, f"{count} trees a round")
        _need(owner._loss.is_multiclass == (count > 1), owner, "another loss than its classes need")
        _need(start.strategy == "prior" and start.n_outputs_ == 1, start, "starts otherwise")
        _check_array(start, "class_prior_", (classes,))
    elif "DummyRegressor" in names:
        _need(count == 1 and start.n_outputs_ == 1, start, "starts with several values")
        _need(np.size(start.constant_) == 1, start, "starts with several values")
    else:
        _need(
            isinstance(start, str) and start == "zero",
            owner,
            f"init={type(start).__name__}: want None or 'zero'",
        )


def _check_histogram_boosting(owner: Any) -> None:
    width = _width(owner)
    # Categories need a preprocessor that no package holds.
    held = vars(owner)
    _need(held.get("_preprocessor") is None, owner, "categories are not served; encode them")
    _need(not np.any(owner._bin_mapper.is_categorical_), owner, "categories are not served")
    _need(np.shape(owner._bin_mapper.is_categorical_) == (width,), owner, "another width's bins")
    for members in owner._predictors:
        for member in members:
            _need(_names(member)[0] == "TreePredictor", owner, f"holds a {type(member).__name__}")
            _check_predictor(owner, member, width)


def _check_predictor(owner: Any, tree: Any, width: int) -> None:
    nodes = tree.nodes
    _need(type(nodes) is np.ndarray and nodes.ndim == 1 and len(nodes), owner, "an empty tree")
    inner = nodes["is_leaf"] == 0
    _need(not np.any(nodes["is_categorical"][inner]), owner, "categories are not served")
    left, right = (
        np.where(inner, nodes[side].astype(np.int64), np.int64(-1)) for side in ("left", "right")
    )
    _check_nodes(owner, left, right, nodes["feature_idx"].astype(np.int64), width)


# --- support vectors, neighbours, centres


def _check_libsvm(owner: Any) -> None:
    width = _width(owner)
    _need(owner._sparse is False, owner, "fitted on sparse rows, which are not served")
    _need(isinstance(owner.kernel, str), owner, "kernel is called; want its name")
    vectors = len(_check_array(owner, "support_", np.shape(vars(owner).get("support_"))[:1], "i"))
    classes = 2
    if owner._impl in ("c_svc", "nu_svc"):
        classes = len(owner.classes_)
        _need(classes >= 2, owner, "has no two classes")
        counts = _check_array(owner, "_n_support", (classes,), "i")
        _need(
            np.all(counts >= 0) and counts.sum(dtype=np.int64) == vectors,
            owner,
            f"_n_support does not count {vectors} vectors",
        )
        weights = vars(owner).get("class_weight_")
        _need(weights is None or np.shape(weights) == (classes,), owner, "other classes' weights")
    else:
        _check_array(owner, "_n_support", (2,), "i")
    pairs = classes * (classes - 1) // 2
    _check_array(owner, "_dual_coef_", (classes - 1, vectors))
    _check_array(owner, "_intercept_", (pairs,))
    for name in ("_probA", "_probB"):
        _check_array(owner, name, (pairs,) if len(owner._probA) else (0,))
    if owner.kernel == "precomputed":
        _need(owner.shape_fit_[0] == width, owner, f"kernel of {owner.shape_fit_[0]} rows")
        fits = np.all((owner.support_ >= 0) & (owner.support_ < width))
        _need(fits, owner, "support_ points outside of the rows")
    else:
        _check_array(owner, "support_vectors_", (vectors, width))


def _check_neighbors(owner: Any) -> None:
    width = _width(owner)
    rows = vars(owner).get("_fit_X")
    _need(type(rows) is np.ndarray and rows.ndim == 2, owner, "_fit_X is no table")
    _check_array(owner, "_fit_X", (len(rows), width), "fiub")
    _need(len(rows) and owner.n_samples_fit_ == len(rows), owner, f"holds {len(rows)} rows")
    _need(vars(owner).get("_tree") is None, owner, "a search tree cannot be checked; want 'brute'")
    count = vars(owner).get("n_neighbors")
    if count is not None:
        _need(_integer(count) and 1 <= count <= len(rows), owner, f"n_neighbors={count!r}")
    for name in ("metric", "effective_metric_", "weights"):
        said = vars(owner).get(name)
        _need(said is None or isinstance(said, str), owner, f"{name} is called; want its name")
    for name in ("metric_params", "effective_metric_params_"):
        for key, value in (vars(owner).get(name) or {}).items():
            # scipy looks at the shape of all but the inverse of a covariance.
            shapes = ((width, width),) if key == "VI" else ((), (width,))
            _need(np.shape(value) in shapes, owner, f"{name}: {key} is not of {width} columns")
    labels = vars(owner).get("_y")
    if labels is not None:
        _need(type(labels) is np.ndarray and labels.dtype.kind in "fiub", owner, "_y is no array")
        _need(labels.shape[:1] == (len(rows),), owner, f"{len(rows)} rows, {len(labels)} answers")
    if "ClassifierMixin" in _names(owner):
        _check_classes(owner, labels)


def _check_classes(owner: Any, labels: Any) -> None:
    several = owner.outputs_2d_
    _need(labels is not None and labels.dtype.kind in "iu", owner, "has no classes")
    _need(labels.ndim == (2 if several else 1), owner, f"_y has {labels.ndim} dimensions")
    columns = labels.T if several else [labels]
    classes = owner.classes_ if several else [owner.classes_]
    _need(len(columns) == len(classes), owner, "other classes than answers")
    for column, known in zip(columns, classes, strict=True):
        fits = np.ndim(known) == 1 and np.all((column >= 0) & (column < len(known)))
        _need(fits, owner, "_y points outside of its classes")


def _check_covariance(owner: Any) -> None:
    width = _width(owner)
    _check_array(owner, "location_", (width,))
    for name in ("covariance_", "precision_"):
        if vars(owner).get(name) is not None:
            _check_array(owner, name, (width, width))


def _check_centers(owner: Any) -> None:
    centers: Any = vars(owner).get("cluster_centers_")
    _need(np.ndim(centers) == 2 and len(centers), owner, "has no centres")
    _check_array(owner, "cluster_centers_", (len(centers), _width(owner)))
    threads = owner._n_threads
    _need(_integer(threads) and 1 <= threads <= 1024, owner, f"_n_threads={threads!r}")


# --- columns


def _check_one_hot(owner: Any) -> None:
    """Codes become columns of a sparse matrix, whose indices nobody looks at again."""
    categories, outs = owner.categories_, owner._n_features_outs
    dropped = owner._drop_idx_after_grouping
    _need(len(categories) == len(outs) == _width(owner), owner, "categories of another width")
    _need(dropped is None or np.shape(dropped) == (len(outs),), owner, "drops other columns")
    mapped = owner._default_to_infrequent_mappings if owner._infrequent_enabled else None
    groups = owner._infrequent_indices if owner._infrequent_enabled else None
    for told in (mapped, groups):
        _need(told is None or len(told) == len(outs), owner, "other groups")
    for at, known in enumerate(categories):
        _need(type(known) is np.ndarray and known.ndim == 1, owner, "categories are no list")
        if known.dtype.kind not in "OUS":
            # Found by bisection, which needs them in order; NaN is last.
            found = known[~np.isnan(known)] if known.dtype.kind == "f" else known
            _need(np.all(found[1:] > found[:-1]), owner, "categories are not in order")
            _need(np.array_equal(found, known[: len(found)]), owner, "categories are not in order")
            _need(len(known) - len(found) <= 1, owner, "a category is there twice")
        count = len(known)
        if mapped is not None and groups is not None and mapped[at] is not None:
            codes, group = np.asarray(mapped[at]), np.asarray(groups[at])
            _need(codes.shape == (count,) and codes.dtype.kind in "iu", owner, "other groups")
            _need(np.all(codes >= 0), owner, "groups categories outside of its columns")
            inside = group.size and np.all((group >= 0) & (group < count))
            _need(inside, owner, "groups categories that it does not have")
            count = int(codes.max()) + 1
        elif groups is not None:
            _need(groups[at] is None, owner, "groups categories into none")
        if dropped is not None and dropped[at] is not None:
            place = dropped[at]
            _need(_integer(place) and 0 <= place < count, owner, "drops what it does not have")
            count -= 1
        _need(outs[at] == count, owner, f"{outs[at]} columns for {count} categories")


def _check_vocabulary(owner: Any) -> None:
    words = vars(owner).get("vocabulary_")
    if words is None:
        return  # made from `vocabulary`, which scikit-learn checks
    _need(type(words) is dict, owner, "vocabulary_ is no mapping")
    places = list(words.values())
    fits = all(map(_integer, places)) and sorted(places) == list(range(len(places)))
    _need(fits, owner, "vocabulary_ points outside of its columns")


def _check_hashing(owner: Any) -> None:
    count: Any = vars(owner).get("n_features")
    _need(
        _integer(count) and 1 <= count <= MAX_HASHED,
        owner,
        f"n_features={str(count)[:60]}, want 1 to {MAX_HASHED}",
    )


def _check_polynomial(owner: Any) -> None:
    # Columns that are not filled would hold whatever was in memory.
    width, low, high = _width(owner), owner._min_degree, owner._max_degree
    _need(_integer(low) and _integer(high) and 0 <= low <= high <= 64, owner, "absurd degrees")
    rest = (owner.interaction_only, owner.include_bias)
    made = type(owner)._num_combinations(width, low, high, *rest)
    full = type(owner)._num_combinations(width, 0, high, *rest)
    _need(full <= MAX_POLYNOMIAL, owner, f"makes {full} columns, at most {MAX_POLYNOMIAL}")
    fits = (owner.n_output_features_, owner._n_out_full) == (made, full)
    _need(fits, owner, f"says {owner.n_output_features_} columns and makes {made}")


# Other types compute with numpy and scipy, which look at what they are given: so says fuzzing
# (tests/unit/skops_mutants.py).
_CHECKS: dict[str, Callable[[Any], None]] = {
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
_UNFITTED = frozenset({"FeatureHasher", "HashingVectorizer"})
"""Those that learn nothing, and answer all the same."""
