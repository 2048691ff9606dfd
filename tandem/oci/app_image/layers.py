"""The layers of an app image: locked wheels and a commit's files."""

from __future__ import annotations

import hashlib
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from tandem.errors import BuildError
from tandem.oci import Layer, Progress, Registry
from tandem.oci.app_image.compile_python import compile_python, interpreter
from tandem.oci.app_image.python_runtime import PythonRuntime, host_python
from tandem.oci.app_image.wheels import install, tidy
from tandem.oci.blobs import BlobSource
from tandem.oci.components import Component
from tandem.oci.layer import BuiltLayer, Compression, make_layer
from tandem.oci.spool import writing
from tandem.oci.tar import Entry, file_entry, folder_entries, link_entry
from tandem.util.files import locked
from tandem.util.folders import scratch

RECIPE = 3
"""Goes up when the same lock file gives another layer than before."""

APP = "app"
LIB = "app/lib"


class DependenciesLayer(msgspec.Struct, frozen=True, kw_only=True):
    """The layer of a lock file's wheels."""

    layer: Layer
    components: tuple[Component, ...]
    key: str
    open: BlobSource | None = None
    """Reads the blob; None when it was found in the registry."""


class _KnownLayer(msgspec.Struct, frozen=True, kw_only=True):
    """What the cache remembers of a dependency layer."""

    layer: Layer
    components: tuple[Component, ...]


def dependencies_key(lock: Path, runtime: PythonRuntime, compression: Compression = "small") -> str:
    """Names the layer of a lock file for a runtime: the same bytes, the same name."""
    made_of = [
        f"recipe {RECIPE} {compression}",
        runtime.key,
        hashlib.sha256(lock.read_bytes()).hexdigest(),
    ]
    return hashlib.sha256("\n".join(made_of).encode()).hexdigest()


def dependencies_layer(
    lock: Path,
    *,
    cache: Path,
    registry: Registry | None = None,
    runtime: PythonRuntime | None = None,
    progress: Callable[[str], None] | None = None,
    uploaded: Progress | None = None,
) -> DependenciesLayer:
    """A lock file's wheels at /app/lib; made once per lock file and Python.

    The folder `cache` remembers what the layer is called. With a `registry`, the layer is put there
    and the cache holds no copy; a registry that no longer has it gets it again.
    """
    wanted = runtime or host_python()
    # What goes over a wire, and to every node, is made small; a folder on this disk is made fast.
    local = registry is not None and not registry.host
    compression: Compression = "fast" if local else "small"
    key = dependencies_key(lock, wanted, compression)
    cache.mkdir(parents=True, exist_ok=True)
    with locked(cache / f".{key}.lock"):
        known = _remembered(cache / f"{key}.json")
        if known:
            blob = cache / known.layer.descriptor.digest.removeprefix("sha256:")
            if registry and registry.head_blob(known.layer.descriptor.digest) is not None:
                return DependenciesLayer(layer=known.layer, components=known.components, key=key)
            if registry is None and blob.exists():
                return DependenciesLayer(
                    layer=known.layer,
                    components=known.components,
                    key=key,
                    open=lambda: blob.open("rb"),
                )
        built, components = _make_dependencies(lock, wanted, cache, compression, progress)
        record = _KnownLayer(layer=built.layer, components=components)
        blob = cache / built.layer.descriptor.digest.removeprefix("sha256:")
        source: BlobSource | None = built.open
        if registry:
            registry.put_blob(built.layer.descriptor, built.open, progress=uploaded)
            blob.unlink(missing_ok=True)
            source = None
        with writing(cache, f"writing to {cache}") as (file, name):
            file.write(msgspec.json.encode(record))
            name(f"{key}.json")
        return DependenciesLayer(layer=built.layer, components=components, key=key, open=source)


def _remembered(path: Path) -> _KnownLayer | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_KnownLayer)
    except (OSError, msgspec.MsgspecError):
        return None


def _make_dependencies(
    lock: Path,
    runtime: PythonRuntime,
    cache: Path,
    compression: Compression,
    progress: Callable[[str], None] | None,
) -> tuple[BuiltLayer, tuple[Component, ...]]:
    python = interpreter(runtime.version)
    foreign = None if runtime == host_python() else runtime
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=cache) as temporary:
        lib = Path(temporary) / "lib"
        install(lock, lib, runtime=foreign, progress=progress)
        components = tidy(lib)
        if progress:
            progress(f"compiling {len(components)} packages")
        files = [
            entry.path.removeprefix(f"{LIB}/")
            for entry in folder_entries(lib, LIB)
            # Packages ship their tests, two fifths of all byte code here, and no service runs them.
            if entry.file and entry.path.endswith(".py") and "/tests/" not in entry.path
        ]
        compile_python(lib, lib, f"/{LIB}", files, python=python)
        if progress:
            progress("packing the dependency layer")
        entries = folder_entries(lib, LIB)
        built = make_layer(entries, kind="dependencies", compression=compression, into=cache)
    return built, components


def application_layer(
    folder: Path, paths: Iterable[str], *, into: Path, python: str = sys.executable
) -> BuiltLayer:
    """A commit's `paths` (relative to `folder`) at /app, with their byte code.

    The blob is written to the folder `into`. Raises `BuildError` for a path that is not there or
    leads elsewhere.
    """
    entries: list[Entry] = []
    for path in sorted(set(paths)):
        clean = path.strip("/")
        if not clean or any(part in ("", ".", "..") for part in clean.split("/")):
            raise BuildError(
                f"invalid {path!r} in the app's paths: expected a path inside the repository"
            )
        here = folder / clean
        if here.is_symlink():
            entries.append(link_entry(folder, clean, f"{APP}/{clean}"))
        elif here.is_dir():
            entries.append(Entry(path=f"{APP}/{clean}", mode=0o755))
            entries.extend(folder_entries(here, f"{APP}/{clean}", skip=_leftover))
        elif here.exists():
            entries.append(file_entry(f"{APP}/{clean}", here))
        else:
            raise BuildError(f"the app's paths name {clean}, which this commit does not have")
    files = [
        entry.path.removeprefix(f"{APP}/")
        for entry in entries
        if entry.file and entry.path.endswith(".py")
    ]
    with scratch("bytecode") as out:
        compile_python(folder, out, f"/{APP}", files, python=python)
        present = {entry.path for entry in entries}
        compiled = [entry for entry in folder_entries(out, APP) if entry.path not in present]
        return make_layer([*entries, *compiled], kind="application", compression="fast", into=into)


def _leftover(path: str) -> bool:
    """What tools leave in a folder and no commit means to ship."""
    name = path.rpartition("/")[2]
    return name in ("__pycache__", ".git", ".pytest_cache") or name.endswith((".pyc", ".pyo"))
