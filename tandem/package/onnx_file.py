"""ONNX files, walked before onnxruntime sees them: no other files, no foreign operators."""

from __future__ import annotations

import contextlib
import mmap
import re
import struct
from pathlib import Path

from tandem.errors import PackageError
from tandem.package.skops_file import refuse_pickle

# Field numbers of onnx.proto (ONNX's published schema): message → field → message inside, or what
# is of interest.
_ONNX_FIELDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 8: "opset", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute", 7: "=domain"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "=external", 14: "=location"},
    "function": {7: "node", 9: "opset", 11: "attribute"},
    "training": {1: "graph", 2: "graph"},
    "opset": {1: "=domain"},
}
# ONNX's own, and those that every onnxruntime brings along (text, for one).
_DOMAINS = (b"", b"ai.onnx", b"ai.onnx.ml", b"com.microsoft")
# Runs of unpacked floats and integers in an attribute: a forest has millions, so the regex engine
# skips them.
_RUNS = re.compile(rb"(?s:(?:\x3d.{4})+|(?:\x40[\x80-\xff]{0,9}[\x00-\x7f])+)")


def check_onnx(path: Path) -> None:
    """Refuse a file that is no ONNX model, or reads other files, or needs foreign operators; raises
    `PackageError`.

    Walks the protobuf without building it, so that it costs little memory and needs no `onnx`
    library.
    """
    refuse_pickle(path)
    try:
        with (
            path.open("rb") as stream,
            contextlib.closing(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)) as data,
        ):
            graphs = _walk_onnx(data, path.name)
    except (ValueError, IndexError, struct.error):
        raise PackageError(f"{path.name}: not an ONNX model") from None
    except OSError as problem:
        raise PackageError(f"{path}: {problem.strerror}") from None
    if graphs != 1:
        raise PackageError(f"{path.name}: not an ONNX model: {graphs} graphs")


def _walk_onnx(data: mmap.mmap, name: str) -> int:
    graphs = 0
    waiting = [("model", 0, len(data), 0)]
    while waiting:
        kind, at, end, depth = waiting.pop()
        if depth > 64:
            raise PackageError(f"{name}: graphs nested deeper than any model's")
        fields = _ONNX_FIELDS[kind]
        while at < end:
            if kind == "attribute" and (run := _RUNS.match(data, at, end)):
                at = run.end()
                continue
            tag, at = _varint(data, at, end)
            field, wire = tag >> 3, tag & 7
            start = at
            if wire == 0:
                value, at = _varint(data, at, end)
                if kind == "tensor" and field == 14 and value == 1:
                    raise PackageError(f"{name}: keeps weights in another file (external data)")
                continue
            if wire == 2:
                length, start = _varint(data, at, end)
                at = start + length
            elif wire in (1, 5):
                at += 8 if wire == 1 else 4
            else:
                raise ValueError("no such wire type")
            if at > end:
                raise ValueError("cut off")
            meaning = fields.get(field)
            if wire != 2 or meaning is None:
                continue
            if meaning == "=external":
                raise PackageError(f"{name}: keeps weights in another file (external data)")
            if meaning == "=domain":
                domain = data[start:at]
                if domain not in _DOMAINS:
                    raise PackageError(
                        f"{name}: needs operators of {domain[:60].decode(errors='replace')!r}"
                    )
            elif not meaning.startswith("="):
                graphs += kind == "model" and meaning == "graph"
                waiting.append((meaning, start, at, depth + 1))
    return graphs


def _varint(data: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError("cut off")
