"""Lay extracted layers over each other, by links."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from tandem.oci.unpack import DELETIONS


class _Part(msgspec.Struct, frozen=True):
    """A folder of one layer, and what that layer deletes."""

    folder: Path
    deleted: frozenset[str]


def merge(layers: Sequence[Path], into: Path) -> None:
    """Compose extracted layers (bottom first) in the folder `into`, by links.

    A folder that comes from one layer alone is a link to it; one that several layers share is made
    and filled name by name, the upper layer winning. What a layer deletes of those below it is not
    there, whatever it puts in its place.
    """
    _merge([_Part(layer, _deletions(layer)) for layer in layers], into, "")


def _deletions(layer: Path) -> frozenset[str]:
    try:
        return frozenset(msgspec.json.decode((layer / DELETIONS).read_bytes(), type=list[str]))
    except FileNotFoundError:
        return frozenset()


def _merge(parts: Sequence[_Part], into: Path, at: str) -> None:
    names: dict[str, list[_Part]] = {}
    for part in parts:
        if part.deleted:
            for name in list(names):
                if at in part.deleted or at + name in part.deleted:
                    del names[name]
        for entry in os.scandir(part.folder):
            if entry.name == DELETIONS:
                continue
            below = names.setdefault(entry.name, [])
            # Only a folder over folders shares its name with them; anything else takes its place.
            if not (entry.is_dir(follow_symlinks=False) and all(map(_is_folder, below))):
                below.clear()
            below.append(_Part(Path(entry.path), part.deleted))
    for name, entries in names.items():
        if len(entries) == 1:
            (into / name).symlink_to(entries[0].folder)
        else:
            (into / name).mkdir()
            _merge(entries, into / name, f"{at}{name}/")


def _is_folder(part: _Part) -> bool:
    return part.folder.is_dir() and not part.folder.is_symlink()
