"""The Python packages in an image's layers, by their own METADATA."""

from __future__ import annotations

import contextlib
import re
import tarfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import msgspec

from tandem.errors import RegistryError
from tandem.oci import LAYER_GZIP, LAYER_TAR, Layer, Registry
from tandem.oci.blobs import CHUNK, reader
from tandem.oci.components import Component, component_of
from tandem.oci.image import Image
from tandem.oci.spool import writing
from tandem.oci.unpack import MOST_ENTRIES, OPAQUE, WHITEOUT, decompressed

METADATA = re.compile(r"(?:app/lib|.*/(?:site|dist)-packages)/[^/]+\.dist-info/METADATA")
LARGEST = 1 << 20


class _Packages(msgspec.Struct, frozen=True):
    """What one layer does to the installed packages: by the path of their METADATA."""

    found: dict[str, Component] = {}
    deleted: list[str] = []
    """Paths with a slash at the end: a file, or all that is in a folder."""


def packages_in(
    registry: Registry, image: Image, *, cache: Path, locked: Sequence[Component] = ()
) -> tuple[Component, ...]:
    """The packages installed in an image's layers above its base, by name.

    A package of `locked` that is not found is listed as it is there. The folder `cache` remembers
    what is in a layer: each is read once. Raises `RegistryError`.
    """
    installed: dict[str, Component] = {}
    for layer in image.layers:
        # What is compressed in a way that is not read here stays unknown: the lock file is left.
        if layer.kind == "base" or layer.descriptor.media_type not in (LAYER_TAR, LAYER_GZIP):
            continue
        packages = _remembered(registry, layer, cache)
        for gone in packages.deleted:
            installed = {
                path: component
                for path, component in installed.items()
                if not f"{path}/".startswith(gone)
            }
        installed |= packages.found
    known = {_canonical(component.name): component for component in (*locked, *installed.values())}
    return tuple(known[name] for name in sorted(known))


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _remembered(registry: Registry, layer: Layer, cache: Path) -> _Packages:
    name = f"packages-{layer.diff_id.removeprefix('sha256:')}.json"
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        return msgspec.json.decode((cache / name).read_bytes(), type=_Packages)
    packages = _read(registry, layer)
    with writing(cache, f"writing to {cache}") as (file, keep):
        file.write(msgspec.json.encode(packages))
        keep(name)
    return packages


def _read(registry: Registry, layer: Layer) -> _Packages:
    found: dict[str, Component] = {}
    deleted: list[str] = []
    stream = reader(decompressed(registry, layer))
    where = f"layer {layer.descriptor.digest}"
    try:
        with tarfile.open(fileobj=stream, mode="r|", bufsize=CHUNK) as archive:
            for number, member in enumerate(archive):
                if number >= MOST_ENTRIES:
                    raise RegistryError(f"{where} has more than {MOST_ENTRIES} entries: refused")
                path = PurePosixPath(member.name.removeprefix("./"))
                if path.name.startswith(WHITEOUT):
                    name = "" if path.name == OPAQUE else path.name.removeprefix(WHITEOUT) + "/"
                    deleted.append(f"{path.parent}/{name}".removeprefix("./"))
                elif METADATA.fullmatch(str(path)) and member.isreg() and member.size <= LARGEST:
                    content = archive.extractfile(member)
                    text = content.read().decode("utf-8", "replace") if content else ""
                    found[str(path)] = component_of(text, path.parent.name)
    except (tarfile.TarError, ValueError, OverflowError, EOFError) as problem:
        raise RegistryError(f"{where} is not a tar archive: {problem}") from None
    # To the end, where the registry compares the digest.
    while stream.read(CHUNK):
        pass
    return _Packages(found, deleted)
