"""What opens a package's model and asks it: one module a runtime, known by its name.

A runtime is a module with the names of `Runtime` and its line in `RUNTIMES`. Each imports its own
library only when it opens a model, so that a service needs no more than its package's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from tandem.errors import PackageError
from tandem.model.package.format import Manifest
from tandem.model.package.runtimes import files, lightgbm, onnx, sklearn, xgboost


class Predictor(Protocol):
    """Answers for rows; safe to call from several threads."""

    runtime: str

    def predict(self, rows: Any) -> NDArray[Any]:
        """Probabilities (rows x labels), or values (rows) or (rows x targets)."""


class Runtime(Protocol):
    """How models of one kind are opened; each module in this folder is one."""

    NAME: str
    """As the manifest has it."""
    FILE: str
    """The file that such a package must have; empty where it may be any."""
    FILES: Mapping[str, int]
    """All model files that it may have, each with the most bytes that are read; `*`: any other."""
    SAME_VERSION: tuple[str, ...]
    """Libraries that must have the version the package was made with."""
    NEEDED: tuple[str, ...]
    """Distributions, one of which has to be there in any version; none where all have it."""

    def open_model(
        self, folder: Path, manifest: Manifest, *, trusted: Iterable[str], threads: int
    ) -> Predictor:
        """What answers with the model in `folder`; raises `PackageError`."""


class NativeRuntime(Runtime, Protocol):
    """One whose library writes a format of its own, for a pipeline's last step."""

    def handles(self, estimator: Any) -> bool:
        """Whether the estimator is of this library."""

    def save(self, estimator: Any, folder: Path) -> None:
        """Write `FILE` to `folder`; raises `PackageError`."""


NATIVE: tuple[NativeRuntime, ...] = (xgboost, lightgbm)
_ALL: tuple[Runtime, ...] = (onnx, sklearn, *NATIVE, files)
RUNTIMES: Mapping[str, Runtime] = {runtime.NAME: runtime for runtime in _ALL}


def runtime_of(name: str) -> Runtime:
    """The runtime of that name; raises `PackageError`."""
    if name not in RUNTIMES:
        raise PackageError(f"runtime {name[:80]!r}: not known, expected {', '.join(RUNTIMES)}")
    return RUNTIMES[name]
