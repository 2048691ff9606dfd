"""The app image without any engine: locked wheels, the commit's files, byte code, as layers."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from tandem.errors import BuildError
from tandem.oci import Layer, Progress, Registry
from tandem.oci.app_image.wheels import Component, Runtime, alone, host_runtime, tidy
from tandem.oci.app_image.wheels import install as install
from tandem.oci.image import Image, Platform, compose, pull, registry_source
from tandem.oci.layer import (
    Built,
    Compression,
    Entry,
    Source,
    file_entry,
    folder_entries,
    link_entry,
    make_layer,
    writing,
)
from tandem.util.folders import scratch

RECIPE = 3
"""Goes up when the same lock file gives another layer than before."""

APP = "app"
LIB = "app/lib"
USER = "10001:10001"
PORT = 8080
COMMAND = ("python3", "-m", "serving")


class Dependencies(msgspec.Struct, frozen=True, kw_only=True):
    """The layer of a lock file's wheels."""

    layer: Layer
    components: tuple[Component, ...]
    key: str
    open: Source | None = None
    """Reads the blob; None when it was found in the registry."""


class AppImage(msgspec.Struct, frozen=True, kw_only=True):
    """An image with everything but a model, and how to read the layers that were made here."""

    image: Image
    sources: dict[str, Source]
    """Opens the layers that may not be in the registry yet, by digest."""
    mount_from: dict[str, str] = {}
    """The repository of the same registry that has a layer."""
    components: tuple[Component, ...] = ()
    base: str = ""
    """The digest of the base image; empty without one."""
    builder: str = "assemble"


# --- byte code ------------------------------------------------------------------------------------


def compile_python(
    root: Path, out: Path, prefix: str, files: Sequence[str], *, python: str = sys.executable
) -> None:
    """Write reproducible `.pyc` files for `files` of `root` to the same places under `out`."""
    workers = min(os.cpu_count() or 1, 1 + len(files) // 100)
    # Large files last long; dealt out in turn by size, the workers end together.
    by_size = sorted(files, key=lambda file: (-(root / file).stat().st_size, file))

    def work(share: Sequence[str]) -> subprocess.CompletedProcess[str]:
        order = {"root": str(root), "out": str(out), "prefix": prefix, "files": share}
        program = Path(__file__).with_name("bytecode.py")
        return subprocess.run(
            [python, "-I", "-S", str(program)],
            input=json.dumps(order),
            capture_output=True,
            text=True,
            umask=0o022,
        )

    with ThreadPoolExecutor(workers) as pool:
        for done in pool.map(work, [by_size[n::workers] for n in range(workers)]):
            if done.returncode:
                last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
                raise BuildError(f"compiling for Python {python}: {last}")


def interpreter(version: str) -> str:
    """A Python on this machine whose byte code that version reads, or `BuildError`."""
    if version == host_runtime().version:
        return sys.executable
    if found := shutil.which(f"python{version}"):
        return found
    raise BuildError(
        f"the base image has Python {version}, this machine has {host_runtime().version} and no "
        f"python{version}: take a base image with Python {host_runtime().version}, install "
        f"python{version} here, or set TANDEM_BUILDER=docker"
    )


# --- layers ---------------------------------------------------------------------------------------


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    """What the cache remembers of a dependency layer."""

    layer: Layer
    components: tuple[Component, ...]


def dependencies_key(lock: Path, runtime: Runtime, compression: Compression = "small") -> str:
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
    runtime: Runtime | None = None,
    progress: Callable[[str], None] | None = None,
    uploaded: Progress | None = None,
) -> Dependencies:
    """The layer with a lock file's wheels at /app/lib; made once per lock file and Python.

    The folder `cache` remembers what the layer is called. With a `registry`, the layer is put there
    and the cache holds no copy; a registry that no longer has it gets it again.
    """
    wanted = runtime or host_runtime()
    # What goes over a wire, and to every node, is made small; a folder on this disk is made fast.
    local = registry is not None and registry.url.startswith("oci:")
    compression: Compression = "fast" if local else "small"
    key = dependencies_key(lock, wanted, compression)
    cache.mkdir(parents=True, exist_ok=True)
    with alone(cache / f".{key}.lock"):
        found = _remembered(cache / f"{key}.json")
        if found:
            blob = cache / found.layer.descriptor.digest.removeprefix("sha256:")
            if registry and registry.head_blob(found.layer.descriptor.digest) is not None:
                return Dependencies(layer=found.layer, components=found.components, key=key)
            if registry is None and blob.exists():
                return Dependencies(
                    layer=found.layer,
                    components=found.components,
                    key=key,
                    open=lambda: blob.open("rb"),
                )
        built, components = _make_dependencies(lock, wanted, cache, compression, progress)
        record = _Record(layer=built.layer, components=components)
        blob = cache / built.layer.descriptor.digest.removeprefix("sha256:")
        source: Source | None = built.open
        if registry:
            registry.put_blob(built.layer.descriptor, built.open, progress=uploaded)
            blob.unlink(missing_ok=True)
            source = None
        with writing(cache, f"writing to {cache}") as (file, name):
            file.write(msgspec.json.encode(record))
            name(f"{key}.json")
        return Dependencies(layer=built.layer, components=components, key=key, open=source)


def _remembered(path: Path) -> _Record | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Record)
    except (OSError, msgspec.MsgspecError):
        return None


def _make_dependencies(
    lock: Path,
    runtime: Runtime,
    cache: Path,
    compression: Compression,
    progress: Callable[[str], None] | None,
) -> tuple[Built, tuple[Component, ...]]:
    python = interpreter(runtime.version)
    foreign = None if runtime == host_runtime() else runtime
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
) -> Built:
    """The layer with a commit's `paths` (relative to `folder`) at /app, and their byte code.

    The blob is written to the folder `into`. Raises `BuildError` for a path that is not there or
    leads elsewhere.
    """
    entries: list[Entry] = []
    for path in sorted(set(paths)):
        clean = path.strip("/")
        if not clean or any(part in ("", ".", "..") for part in clean.split("/")):
            raise BuildError(
                f"{path!r} in the app's paths: a path inside the repository would be right"
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
        have = {entry.path for entry in entries}
        compiled = [one for one in folder_entries(out, APP) if one.path not in have]
        return make_layer([*entries, *compiled], kind="application", compression="fast", into=into)


def _leftover(path: str) -> bool:
    """What tools leave in a folder and no commit means to ship."""
    name = path.rpartition("/")[2]
    return name in ("__pycache__", ".git", ".pytest_cache") or name.endswith((".pyc", ".pyo"))


# --- the image ------------------------------------------------------------------------------------


def image_settings(
    *,
    app: str,
    commit: str,
    command: Sequence[str] = COMMAND,
    python: str = "",
    created: str | None = None,
) -> dict[str, object]:
    """The configuration that both builders give an app image, as keyword arguments of `compose`."""
    labels = {
        "org.opencontainers.image.title": app,
        "org.opencontainers.image.revision": commit,
        "tandem.app": app,
        "tandem.python": python,
    }
    environment = {"TANDEM_APP_COMMIT": commit} if commit else {}
    return {
        "env": {
            "PYTHONPATH": f"/{LIB}:/{APP}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
            "TANDEM_MODEL": "/model",
            "TANDEM_APP_NAME": app,
            **environment,
        },
        "labels": {name: value for name, value in labels.items() if value},
        "created": created,
        "Cmd": list(command),
        "Entrypoint": None,
        "User": USER,
        "WorkingDir": f"/{APP}",
        "ExposedPorts": {f"{PORT}/tcp": {}},
        "StopSignal": "SIGTERM",
    }


def build_app_image(
    folder: Path,
    paths: Iterable[str],
    lock: Path,
    *,
    cache: Path,
    registry: Registry,
    app: str,
    commit: str,
    command: Sequence[str] = COMMAND,
    created: str | None = None,
    base: str = "",
    progress: Callable[[str], None] | None = None,
) -> AppImage:
    """An app image from a checked-out commit: dependencies, then the application, on `base`.

    `base` is an image reference (`HOST/REPOSITORY:TAG`); its layers are taken over as they are.

    Without a base the image holds no Python: it is run by the host's. `cache` keeps what can be
    made again. Push it with
    `push(registry, made.image, made.sources, mount_from=made.mount_from)`.
    """
    below = find_base(base) if base else None
    runtime = below.runtime if below else host_runtime()
    dependencies = dependencies_layer(
        lock, cache=cache / "layers", registry=registry, runtime=runtime, progress=progress
    )
    application = application_layer(
        folder, paths, into=cache / "layers", python=interpreter(runtime.version)
    )
    settings = image_settings(
        app=app,
        commit=commit,
        command=command,
        python=runtime.version,
        created=created,
    )
    image = compose(
        below.image if below else None,
        [dependencies.layer, application.layer],
        platform=runtime.platform,
        annotations={"org.opencontainers.image.title": app},
        **settings,  # type: ignore[arg-type]
    )
    sources = {application.layer.descriptor.digest: application.open}
    if dependencies.open:
        sources[dependencies.layer.descriptor.digest] = dependencies.open
    made = AppImage(image=image, sources=sources, components=dependencies.components)
    return on_base(made, below, registry) if below else made


def on_base(made: AppImage, below: Base, registry: Registry) -> AppImage:
    """An app image that also knows where the layers of its base are."""
    from tandem.oci.remote import RemoteRegistry, open_reference

    home, _ = open_reference(below.reference)
    digests = [layer.descriptor.digest for layer in below.image.layers]
    near = isinstance(registry, RemoteRegistry) and registry.host == home.host
    return msgspec.structs.replace(
        made,
        base=below.digest,
        sources=made.sources | {digest: registry_source(home, digest) for digest in digests},
        mount_from=dict.fromkeys(digests, home.repository) if near else {},
    )


class Base(msgspec.Struct, frozen=True, kw_only=True):
    """A base image as its registry has it."""

    reference: str
    digest: str
    image: Image
    runtime: Runtime

    @property
    def pinned(self) -> str:
        """The reference by digest, so that what was checked is what is built on."""
        from tandem.oci.remote import open_reference

        return open_reference(self.reference)[0].reference(self.digest)


def find_base(reference: str) -> Base:
    """The base image that a reference names, for this machine's architecture.

    Raises `RegistryError` when it is not there, `BuildError` when it is of the wrong kind.
    """
    from tandem.oci.remote import open_reference

    registry, name = open_reference(reference)
    found = registry.get_manifest(name)
    if found is None:
        raise BuildError(f"TANDEM_BASE_IMAGE={reference}: there is no such image")
    wanted = Platform("linux", host_runtime().platform.architecture)
    image = pull(registry, found[0].digest, platform=wanted)
    return Base(
        reference=reference,
        digest=found[0].digest,
        image=image,
        runtime=base_runtime(image),
    )


def base_runtime(base: Image) -> Runtime:
    """The Python that a base image says it has (PYTHON_VERSION, as the official images set it).

    Raises `BuildError` when it is for another kind of machine than this one's containers, or has
    none.
    """
    where = "TANDEM_BASE_IMAGE"
    wanted = host_runtime().platform.architecture
    if base.platform.os != "linux" or base.platform.architecture not in ("amd64", "arm64"):
        raise BuildError(f"{where} is for {base.platform}: linux/{wanted} would be right")
    if base.platform.architecture != wanted:
        raise BuildError(
            f"{where} is for {base.platform}, this machine builds and checks linux/{wanted}: "
            "take a base image for that"
        )
    stated = base.environment.get("PYTHON_VERSION") or base.labels.get("tandem.python", "")
    match = re.match(r"(\d+\.\d+)", stated)
    if not match:
        raise BuildError(
            f"{where} does not say which Python it has: a base with PYTHON_VERSION in its "
            "environment (as the official python images) would be right"
        )
    if any("apk add" in str(step.get("created_by")) for step in base.settings.get("history") or []):
        raise BuildError(
            f"{where} is an Alpine image: the locked wheels are for glibc, so a Debian-based one "
            "(python:3.11-slim) would be right"
        )
    # The oldest that the wheels of today are made for; a base may say that it has a newer one.
    libc = base.labels.get("tandem.libc") or "glibc2.28"
    return Runtime(version=match[1], platform=base.platform, libc=libc)
