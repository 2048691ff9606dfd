"""Opening a package's model, with the runtime that its manifest chose."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tandem.errors import PackageError
from tandem.model.package.format import MANIFEST, ONNX, SKOPS
from tandem.model.package.reading import Package
from tandem.model.package.runtimes import Predictor, runtime_of
from tandem.model.package.skops_file import TRUSTED, load_skops


def open_predictor(
    package: Package,
    *,
    runtime: str | None = None,
    trusted: Iterable[str] = TRUSTED,
    threads: int = 1,
) -> Predictor:
    """What answers for the package, by default with the manifest's runtime.

    `trusted`: types that a skops file may hold. One thread is fastest for the rows of one request;
    give more for large batches. Raises `PackageError`.
    """
    chosen = runtime_of(runtime or package.manifest.runtime)
    if chosen.FILE and not package.has(chosen.FILE):
        raise PackageError(f"{chosen.FILE}: not in {MANIFEST}, whose runtime is {chosen.NAME}")
    return chosen.open_model(package.folder, package.manifest, trusted=trusted, threads=threads)


def load_estimator(package: Package, trusted: Iterable[str] = TRUSTED) -> Any:
    """The estimator of `model.skops`, checked before and after; raises `PackageError`."""
    if not package.has(SKOPS):
        raise PackageError(f"{SKOPS}: this package has none, only {ONNX}")
    return load_skops(package.folder / SKOPS, trusted)
