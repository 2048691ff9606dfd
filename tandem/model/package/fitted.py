"""Estimators after loading, before they are asked: what compiled code relies on.

Compiled code follows indices and widths without looking: what does not fit would read or write
foreign memory, or never end. Checked is each type of scikit-learn's that does so when it predicts,
and of all types the parameters that open files, start processes or call what the file names.
"""

from __future__ import annotations

import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from tandem.errors import PackageError, one_line
from tandem.model.package.fitted_types import CHECKS, UNFITTED, Unfit, need, type_names

_PLAIN = frozenset({str, bytes, int, float, bool, type(None)})
_CODE = (type, types.FunctionType, types.BuiltinFunctionType, types.ModuleType, np.ufunc)


def check_fitted(estimator: Any, name: str) -> None:
    """Refuse an estimator whose fitted values do not fit together.

    Or whose parameters do more than compute. Raises `PackageError` that begins with `name`.
    """
    try:
        for owner, key, value in _values(estimator):
            _check_value(owner, key, value)
    except Unfit as problem:
        raise PackageError(f"{name}: {problem}") from None
    except Exception as problem:  # noqa: BLE001 - a crafted value may be of any type; it is refused all the same
        raise PackageError(
            f"{name}: its fitted values do not fit together: {one_line(problem)}"
        ) from None


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
        if hasattr(value, "__dict__") and not isinstance(value, _CODE):
            # Also into a class of the application's own: it may hold what scikit-learn's do.
            waiting.extend((value, name, item) for name, item in vars(value).items())


def _check_value(owner: Any, key: str, value: Any) -> None:
    if isinstance(value, types.FunctionType | types.BuiltinFunctionType | type | np.ufunc):
        _check_callable(owner, key, value)
        return
    kind = type(value)
    if kind.__module__ == "sklearn.tree._tree":
        tree = key == "tree_" and "BaseDecisionTree" in type_names(owner)
        need(tree and owner.tree_ is value, value, f"does not belong as {key!r}")
    elif kind.__name__ == "TreePredictor":
        boosting = key == "_predictors" and "BaseHistGradientBoosting" in type_names(owner)
        need(boosting, value, f"does not belong as {key!r}")
    elif isinstance(value, np.random.RandomState | np.random.Generator):
        _check_random(value)
    elif hasattr(value, "check_format"):
        value.check_format(full_check=True)  # a sparse matrix's indices, one by one
    if kind.__module__.startswith("sklearn.") and hasattr(value, "__dict__"):
        _check_parameters(value)
        for name in type_names(value):
            if name in CHECKS and (name in UNFITTED or _is_fitted(value)):
                CHECKS[name](value)


def _is_fitted(value: Any) -> bool:
    """Whether it has learned anything: ensembles keep copies that cannot be asked."""
    learned = {name for name in vars(value) if name.startswith("_") or name.endswith("_")}
    return bool(learned - {"_sklearn_output_config", "_metadata_request"})


def _check_callable(owner: Any, key: str, value: Any) -> None:
    """Functions are called as they are: only those that compute, where they belong."""
    if isinstance(value, type):
        allowed = key.endswith("dtype") and (
            issubclass(value, np.generic) or value in (int, float, bool, str)
        )
    elif isinstance(value, np.ufunc):
        allowed = key in ("func", "inverse_func") and (value.nin, value.nout) == (1, 1)
    else:
        allowed = key == "score_func" and value.__module__.startswith("sklearn.feature_selection.")
    need(allowed, owner, f"{key}={getattr(value, '__name__', value)} is called; not in a package")


def _check_parameters(value: Any) -> None:
    """What opens files, starts processes or prints, and what replaces methods."""
    held = vars(value)
    for name in held:
        # A method, a property or a constant of the class, which the class counts on.
        own = getattr(type(value), name, None)
        need(own is None or isinstance(own, bool), value, f"has its {name!r} replaced")
    need(
        held.get("n_jobs") in (None, 1),
        value,
        f"n_jobs={held.get('n_jobs')!r}: expected None, a service has its own workers",
    )
    need(
        held.get("memory") is None,
        value,
        f"memory={str(held.get('memory'))[:60]!r} keeps files: expected None",
    )
    need(not held.get("verbose"), value, f"verbose={held.get('verbose')!r}: expected 0")
    need(
        held.get("input", "content") == "content",
        value,
        f"input={str(held.get('input'))[:60]!r} opens files: expected 'content'",
    )
    need(
        not (held.get("kw_args") or held.get("inv_kw_args")),
        value,
        "hands arguments to its function: expected none",
    )


def _check_random(value: Any) -> None:
    state = (
        value.get_state(legacy=False)
        if isinstance(value, np.random.RandomState)
        else value.bit_generator.state
    )
    # Places in buffers, which are not looked at again.
    need(0 <= state.get("buffer_pos", 0) <= 4, value, "its buffer is shorter")
    if state.get("bit_generator") == "MT19937":
        need(0 <= state["state"]["pos"] <= 624, value, "its state is shorter")
