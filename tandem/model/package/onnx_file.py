"""ONNX files, walked before onnxruntime sees them: no other files, no foreign operators.

What this reads and what protobuf's own parsers read must be the same, so all that is not in ONNX's
published schema, or not written as protobuf's writers write it, is refused.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import re
from pathlib import Path
from typing import Any

import numpy as np

from tandem.errors import PackageError
from tandem.model.package.format import MAX_ONNX
from tandem.model.package.onnx_schema import SCHEMA
from tandem.model.package.skops_file import refuse_pickle

MAX_NODES = 100_000
"""A forest is one node, and the largest networks have some ten thousand."""
MAX_TENSORS = 100_000
MAX_FIELDS = 10_000_000
"""Fields that are walked one by one, about a second a million; long runs of numbers are not."""
MAX_NESTING = 64
MAX_CONSTANT = 2**26
"""Elements that a constant may be blown up to: 0.25 GB of float32 out of a file of a hundred
bytes.
"""
_SMALL = 256
"""Bytes up to which a value is looked at; shapes and names are shorter."""

_WIRE = {"varint": 0, "8": 1, "4": 5}
_KEPT = {
    "node": {1, 2, 4, 5, 7},
    "attribute": {1, 3, 5, 8},
    "tensor": {1, 2, 7, 8, 9},
    "sparse": {3},
    "opset": {1},
}
"""Fields whose values decide something below."""
# ONNX's own, and those that every onnxruntime brings along (text, for one).
_DOMAINS = (b"", b"ai.onnx", b"ai.onnx.ml", b"com.microsoft")
# Runs of unpacked floats and integers in an attribute: a forest has millions, so the regex engine
# skips them.
_RUNS = re.compile(
    rb"(?s:(?:\x3d.{4})++|"
    rb"(?:\x40(?:[\x00-\x7f]|[\x80-\xff]{1,8}+[\x01-\x7f]|[\x80-\xff]{9}\x01))++)"
)
# Operator → the input that says how large its output is.
_SHAPED = {"ConstantOfShape": 0, "Expand": 1, "Tile": 1, "OneHot": 1}
_SHAPED_BY_ATTRIBUTE = {"RandomNormal", "RandomUniform"}

_Fields = dict[int, list[Any]]


def check_onnx(path: Path) -> None:
    """Refuse a file that is no ONNX model, or does more than compute.

    That is: reads other files, needs foreign operators, or grows out of all proportion. Walks the
    protobuf without building it, so that it costs little memory and needs no `onnx` library. Raises
    `PackageError`.
    """
    refuse_pickle(path)
    try:
        with path.open("rb") as stream:
            if (size := stream.seek(0, 2)) > MAX_ONNX:
                raise PackageError(f"{path.name}: {size} bytes, at most {MAX_ONNX} are read")
            with contextlib.closing(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)) as data:
                _Walk(data, path.name).model()
    except (ValueError, IndexError) as problem:
        raise PackageError(f"{path.name}: not an ONNX model: {problem}") from None
    except OSError as problem:
        raise PackageError(f"{path}: {problem.strerror}") from None


class _Walk:
    """One pass over the file; nothing of it is kept but names and shapes."""

    def __init__(self, data: mmap.mmap, name: str) -> None:
        self._data = data
        self._name = name
        self._fields = 0
        self._nodes: list[_Fields] = []
        self._tensors = 0
        self._constants: dict[bytes, int] = {}

    def model(self) -> None:
        """Walk the whole file; raises `PackageError`."""
        self._message("model", 0, len(self._data), 0)
        for node in self._nodes:
            self._check_size(node)

    def _message(self, kind: str, at: int, end: int, depth: int) -> _Fields:
        if depth > MAX_NESTING:
            raise PackageError(f"{self._name}: graphs nested deeper than any model's")
        data, schema, kept = self._data, SCHEMA[kind], _KEPT.get(kind, ())
        found: _Fields = {}
        single: set[int] = set()
        while at < end:
            if (
                kind == "attribute"
                and (run := _RUNS.match(data, at, end))
                and run.end() - at > _SMALL
            ):
                at = run.end()
                continue
            self._fields += 1
            tag, at = self._varint(at, end)
            field, wire = tag >> 3, tag & 7
            holds = schema.get(field) if tag < 2**32 else None
            if holds is None:
                raise PackageError(
                    f"{self._name}: {kind} has a field {field}, which is not in ONNX's schema"
                )
            repeated = holds.endswith("*")
            if not repeated:
                if field in single:
                    raise PackageError(f"{self._name}: {kind} has its field {field} twice")
                single.add(field)
            holds = holds.removesuffix("*")
            value: Any = None
            if wire == _WIRE.get(holds, 2):
                if wire == 0:
                    value, at = self._varint(at, end)
                elif wire == 2:
                    start, at = self._length(at, end)
                    if holds != "bytes":
                        value = self._message(holds, start, at, depth + 1)
                    elif at - start <= _SMALL:
                        value = data[start:at]
                else:
                    at += 8 if wire == 1 else 4
            elif wire == 2 and repeated and holds in _WIRE:
                start, at = self._length(at, end)
                value = self._packed(holds, start, at)
            else:
                raise ValueError(f"{kind}'s field {field} has wire type {wire}")
            if at > end:
                raise ValueError("cut off")
            if field in kept and value is not None:
                values = found.setdefault(field, [])
                values.extend(value) if isinstance(value, list) else values.append(value)
            self._look(kind, field, value)
        if self._fields > MAX_FIELDS:
            raise PackageError(f"{self._name}: more than {MAX_FIELDS} fields")
        self._done(kind, found)
        if kind == "model" and 7 not in single:
            raise ValueError("no graph")
        return found

    def _look(self, kind: str, field: int, value: Any) -> None:
        if kind == "tensor" and (field == 13 or (field == 14 and value != 0)):
            raise PackageError(f"{self._name}: keeps weights in another file (external data)")
        if kind == "model" and field == 25:
            # They are expanded when they are loaded: ten that call one another twice are a
            # thousand.
            raise PackageError(f"{self._name}: holds functions of its own; inline them")
        if (kind, field) in (("node", 7), ("opset", 1)) and value not in _DOMAINS:
            domain = "…" if value is None else value[:60].decode(errors="replace")
            raise PackageError(f"{self._name}: needs operators of {domain!r}")

    def _done(self, kind: str, found: _Fields) -> None:
        if kind == "node":
            self._nodes.append(found)
            if len(self._nodes) > MAX_NODES:
                raise PackageError(f"{self._name}: more than {MAX_NODES} nodes")
            if found.get(4) == [b"EPContext"]:
                raise PackageError(f"{self._name}: keeps its graph in another file (EPContext)")
            if found.get(4) == [b"Constant"]:
                for attribute in found.get(5, []):
                    numbers = _integers(attribute)
                    for name in found.get(2, []):
                        self._know(name, numbers)
        elif kind == "tensor":
            self._tensors += 1
            if self._tensors > MAX_TENSORS:
                raise PackageError(f"{self._name}: more than {MAX_TENSORS} tensors")
            for name in found.get(8, []):
                self._know(name, _tensor(found))
        elif kind == "sparse" and math.prod(_signed(found.get(3, []))) > MAX_CONSTANT:
            # onnxruntime makes sparse constants dense.
            raise PackageError(
                f"{self._name}: a sparse tensor of more than {MAX_CONSTANT} elements"
            )

    def _know(self, name: bytes, numbers: list[int]) -> None:
        # Names of different graphs are thrown together: what is refused has no honest namesake.
        if numbers:
            size = math.prod(max(number, 1) for number in numbers)
            self._constants[name] = max(size, self._constants.get(name, 0))

    def _check_size(self, node: _Fields) -> None:
        operator = b"".join(node.get(4, [])).decode(errors="replace")
        size = 0
        if (place := _SHAPED.get(operator)) is not None:
            inputs = node.get(1, [])
            size = self._constants.get(inputs[place], 0) if place < len(inputs) else 0
        elif operator in _SHAPED_BY_ATTRIBUTE:
            shapes = [a.get(8, []) for a in node.get(5, []) if a.get(1) == [b"shape"]]
            size = math.prod(_signed(shapes[0])) if shapes else 0
        if size > MAX_CONSTANT:
            raise PackageError(
                f"{self._name}: {operator} makes {size} elements out of nothing, "
                f"at most {MAX_CONSTANT}"
            )

    def _length(self, at: int, end: int) -> tuple[int, int]:
        length, start = self._varint(at, end)
        if start + length > end:
            raise ValueError("cut off")
        return start, start + length

    def _packed(self, holds: str, start: int, end: int) -> list[int] | None:
        """The integers of a packed field when they are few; raises ValueError."""
        if holds != "varint":
            if (end - start) % int(holds):
                raise ValueError("cut off")
            return None
        if end - start <= _SMALL:
            values = []
            while start < end:
                value, start = self._varint(start, end)
                values.append(value)
            return values
        carry = 0
        for part in range(start, end, 2**20):
            # One part at a time, with what the last integer of the part before has had already.
            piece = np.frombuffer(self._data[part : min(part + 2**20, end)], dtype=np.uint8)
            lasts = np.flatnonzero(piece < 0x80)
            if not len(lasts):
                raise ValueError("an integer without an end")
            sizes = np.diff(lasts, prepend=-1 - carry)
            values_at_end = piece[lasts]
            bad = (sizes > 10) | ((sizes == 10) & (values_at_end > 1))
            if np.any(bad | ((sizes > 1) & (values_at_end == 0))):
                raise ValueError("an integer that is not written in the shortest way")
            carry = len(piece) - 1 - int(lasts[-1])
        if carry:
            raise ValueError("cut off")
        return None

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        value = shift = 0
        while at < end and shift < 70:
            byte = self._data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if (byte == 0 and shift) or value >= 2**64:
                    raise ValueError("an integer that is not written in the shortest way")
                return value, at
            shift += 7
        raise ValueError("cut off")


def _integers(attribute: _Fields) -> list[int]:
    """What an attribute of a Constant says, when it is integers."""
    for tensor in attribute.get(5, []):
        return _tensor(tensor)
    return _signed([*attribute.get(8, []), *attribute.get(3, [])])


def _tensor(tensor: _Fields) -> list[int]:
    """The values of a short tensor of 64-bit integers, which shapes are."""
    if tensor.get(2) != [7]:
        return []
    for raw in tensor.get(9, []):
        return [int(value) for value in np.frombuffer(raw[: len(raw) // 8 * 8], dtype="<i8")]
    return _signed(tensor.get(7, []))


def _signed(values: list[int]) -> list[int]:
    return [value - 2**64 if value >= 2**63 else value for value in values]
