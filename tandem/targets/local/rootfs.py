"""Images unpacked for this machine: layers once, and a folder of links per image.

Content-addressed and immutable: `layers/HEX` by diff_id, `roots/HEX` by image digest. Whatever is
there is whole, because it is made beside its place and renamed into it.
"""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

import msgspec

from tandem.errors import TargetError
from tandem.oci import Layer, Registry
from tandem.util.folders import beside


class RunConfig(msgspec.Struct, frozen=True):
    """The part of an image that says how to run it here."""

    layers: tuple[Layer, ...]
    """What is above the base, from the bottom up: this machine's system and Python take the
    base's place."""
    command: tuple[str, ...]
    env: Mapping[str, str]
    working_dir: str
    labels: Mapping[str, str]


def read_image(registry: Registry, digest: str) -> RunConfig:
    """How the image `digest` is run.

    Raises `RegistryError` when the registry has no such image.
    """
    from tandem.oci.pull import pull

    image = pull(registry, digest)
    run = image.settings.get("config") or {}
    return RunConfig(
        layers=tuple(layer for layer in image.layers if layer.kind != "base"),
        command=(*(run.get("Entrypoint") or []), *(run.get("Cmd") or [])),
        env=image.environment,
        working_dir=run.get("WorkingDir") or "/",
        labels=image.labels,
    )


def check_python(config: RunConfig, *, where: str) -> None:
    """Refuse an image that was made for another Python than this machine's."""
    wanted = config.labels.get("tandem.python", "")
    here = platform.python_version()
    if wanted and wanted.split(".")[:2] != here.split(".")[:2]:
        raise TargetError(
            f"{where} is made for Python {wanted}, this machine's is {here}: "
            "build it with this Python, or use the docker: target"
        )


def compose(
    registry: Registry,
    digest: str,
    config: RunConfig,
    state: Path,
    *,
    progress: Callable[[str], None],
) -> Path:
    """The root folder of the image `digest`, made where it is not there yet."""
    from tandem.oci.merge import merge
    from tandem.oci.unpack import unpack_layer

    root = state / "roots" / _hex(digest)
    folders = [state / "layers" / _hex(layer.diff_id) for layer in config.layers]
    used = [folder for folder in (root, *folders) if folder.is_dir()]
    for folder in used:
        os.utime(folder)
    if len(used) == len(folders) + 1:
        return root
    for layer, folder in zip(config.layers, folders, strict=True):
        if folder not in used:
            progress(
                f"unpacking {layer.kind or 'layer'} {layer.diff_id[:19]} "
                f"({layer.descriptor.size / 1e6:.1f} MB)"
            )
            unpack_layer(registry, layer, folder, deletions=True)
    if root not in used:
        with beside(root) as making:
            merge(folders, making)
    return root


def prune(state: Path, digests: set[str], *, keep: int = 5, grace: float = 3600.0) -> None:
    """Remove unpacked images but `digests` and the `keep` latest, and unused layers.

    What was used within `grace` seconds stays: somebody may be composing an image of it just now.
    """
    newest_first = sorted(_folders(state / "roots"), key=lambda f: f.stat().st_mtime, reverse=True)
    kept = {_hex(digest) for digest in digests} | {root.name for root in newest_first[:keep]}
    before = time.time() - grace
    used: set[Path] = set()
    for root in newest_first:
        if root.name in kept or root.stat().st_mtime > before:
            used |= _links(root)
        else:
            shutil.rmtree(root)
    for layer in _folders(state / "layers"):
        inside = any(layer in (link, *link.parents) for link in used)
        if not inside and layer.stat().st_mtime < before:
            shutil.rmtree(layer)


def _folders(folder: Path) -> list[Path]:
    return [
        entry for entry in folder.glob("*") if entry.is_dir() and not entry.name.startswith(".")
    ]


def _links(folder: Path) -> set[Path]:
    """Where the links in a composed root lead; it has few, and none is deep."""
    targets = set()
    for entry in os.scandir(folder):
        if entry.is_symlink():
            targets.add(Path(entry.path).readlink())
        elif entry.is_dir():
            targets |= _links(Path(entry.path))
    return targets


def translate(root: Path, text: str) -> str:
    """`text` with the image paths that exist in `root` pointing into it.

    Also in a list with colons.
    """
    return ":".join(_translate_one(root, part) for part in text.split(":"))


def _translate_one(root: Path, part: str) -> str:
    if not part.startswith("/") or part == "/":
        return part
    path = PurePosixPath(part)
    if ".." in path.parts:
        return part
    inside = root.joinpath(*path.parts[1:])
    return str(inside) if inside.exists() else part


def _hex(digest: str) -> str:
    algorithm, _, value = digest.partition(":")
    if algorithm != "sha256" or len(value) != 64 or not set(value) <= set("0123456789abcdef"):
        raise TargetError(f"{digest!r} is not a sha256 digest")
    return value
