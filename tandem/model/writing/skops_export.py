"""An estimator as a skops file: equal estimators make equal bytes."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from tandem.errors import PackageError, one_line


def dump_skops(estimator: Any, path: Path) -> None:
    """Write the estimator so that equal estimators make equal bytes.

    Ids are numbered, there is no clock, members are stored plain. Raises `PackageError`.
    """
    import skops.io

    raw = path.with_suffix(".raw")
    try:
        skops.io.dump(estimator, raw)
        with (
            zipfile.ZipFile(raw) as source,
            zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as target,
        ):
            names: dict[str, str] = {}
            schema = _normal(json.loads(source.read("schema.json")), names, {})
            for old, new in names.items():
                with (
                    source.open(old) as reader,
                    target.open(_member(new), "w", force_zip64=True) as writer,
                ):
                    _copy_array(reader, writer)
            target.writestr(_member("schema.json"), json.dumps(schema, separators=(",", ":")))
    except OSError:
        raise
    except Exception as problem:  # noqa: BLE001 - whatever objects raise when asked for their state
        raise PackageError(f"skops cannot hold this estimator: {one_line(problem)}") from None
    finally:
        raw.unlink(missing_ok=True)


def _copy_array(reader: Any, writer: Any) -> None:
    """Copy a member in chunks; gaps in records are zeroed.

    A tree's nodes have some: padding bytes are uninitialised memory and would change the digest.
    """
    start = reader.read(4096)
    if start.startswith(b"\x93NUMPY") and b"'descr': [" in start:
        array = np.load(io.BytesIO(start + reader.read()), allow_pickle=False)
        clean = np.zeros(array.shape, array.dtype)
        for field in array.dtype.names or ():
            clean[field] = array[field]
        buffer = io.BytesIO()
        np.save(buffer, clean, allow_pickle=False)
        writer.write(buffer.getbuffer())
        return
    writer.write(start)
    shutil.copyfileobj(reader, writer, 2**20)


def _member(name: str) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    member.external_attr = 0o444 << 16
    member.create_system = 3
    return member


def _normal(node: Any, names: dict[str, str], ids: dict[int, int]) -> Any:
    """The schema with ids and file names numbered in the order they are met.

    They are made of memory addresses.
    """
    if isinstance(node, list):
        return [_normal(item, names, ids) for item in node]
    if not isinstance(node, dict) or "__loader__" not in node:
        return (
            {k: _normal(v, names, ids) for k, v in node.items()} if isinstance(node, dict) else node
        )
    loader = node["__loader__"]
    out: dict[str, Any] = {}
    for key, value in node.items():
        if key == "__id__":
            # Whether two equal numbers or texts are one object is up to the interpreter: only
            # others keep identity.
            if loader not in ("JsonNode", "TypeNode", "FunctionNode"):
                out[key] = ids.setdefault(value, len(ids) + 1)
        elif key == "file" and isinstance(value, str):
            out[key] = names.setdefault(value, f"{len(names):06}{Path(value).suffix}")
        elif loader == "SetNode" and key == "content":
            # A set of texts has another order in each process.
            out[key] = [
                _normal(item, names, ids)
                for item in sorted(value, key=lambda v: str(v.get("content")))
            ]
        else:
            out[key] = _normal(value, names, ids)
    return out
