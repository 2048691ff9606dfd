"""Mutants of ONNX files: what our reader takes, onnx's parser takes, and sees no other file in.

A process of its own, for a parser may die: `python onnx_mutants.py SEED COUNT FILE…` prints how
many were tried and taken, and ends with 1 at the first that the two see differently.
"""

from __future__ import annotations

import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def varint(value: int, longer: int = 0) -> bytes:
    """A varint, by `longer` bytes longer than needed."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    for _ in range(longer):
        out[-1] |= 0x80
        out.append(0)
    return bytes(out)


def field(number: int, content: bytes, wire: int = 2, longer: int = 0) -> bytes:
    """One field of a message, its tag by `longer` bytes too long."""
    head = varint(number << 3 | wire, longer)
    return head + (varint(len(content)) if wire == 2 else b"") + content


def external() -> bytes:
    """A tensor's field that says where its weights are."""
    return field(13, field(1, b"location") + field(2, b"golden.json"))


def mutant(data: bytes, draw: random.Random) -> bytes:
    """The file with one to four changes, of bytes or of whole fields."""
    out = bytearray(data)
    for _ in range(draw.choice([1, 1, 1, 2, 4])):
        at = draw.randrange(len(out) + 1)
        kind = draw.randrange(9)
        if kind == 0 and at < len(out):
            out[at] ^= 1 << draw.randrange(8)
        elif kind == 1 and at < len(out):
            out[at] = draw.randrange(256)
        elif kind == 2:
            del out[at : at + draw.choice([1, 2, 8, 64])]
        elif kind == 3:
            out[at:at] = draw.randbytes(draw.choice([1, 2, 8]))
        elif kind == 4:
            size = draw.choice([2, 8, 32, 256])
            out[at:at] = out[max(0, at - size) : at]
        elif kind == 5:
            out[at:at] = draw.choice([external(), b"\x70\x01", b"\xf0\x80\x80\x80\x80\x01\x01"])
        elif kind == 6:
            number = draw.choice([0, 1, 2, 3, 5, 7, 13, 14, 99, 2**29])
            out[at:at] = field(number, draw.randbytes(3), 2, draw.randrange(3))
        elif kind == 7:
            # Appended to the model, where a parser merges it with what is there.
            graph = field(5, field(8, b"w") + external())
            out += field(draw.choice([7, 7 + 2**29, 20, 25]), graph, 2, draw.randrange(2))
        else:
            end = min(len(out), at + draw.choice([1, 4, 16]))
            other = draw.randrange(len(out) + 1)
            out[other:other] = out[at:end]
    return bytes(out)


def tensors(message: Any) -> Iterator[Any]:
    """All tensors in a message, however deep."""
    if message.DESCRIPTOR.name == "TensorProto":
        yield message
    for about, value in message.ListFields():
        if about.message_type is not None:
            for item in value if about.is_repeated else [value]:
                yield from tensors(item)


def main() -> int:
    import onnx

    from tandem.errors import PackageError
    from tandem.model.package import check_onnx

    draw = random.Random(int(sys.argv[1]))
    files = [Path(name).read_bytes() for name in sys.argv[3:]]
    taken = 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        for number in range(int(sys.argv[2])):
            data = mutant(draw.choice(files), draw)
            path.write_bytes(data)
            try:
                check_onnx(path)
            except PackageError:
                continue
            taken += 1
            try:
                model = onnx.load_model_from_string(data)
            except Exception as problem:
                print(f"mutant {number}: taken, and onnx refuses it: {problem}")
                return 1
            if any(tensor.external_data or tensor.data_location for tensor in tensors(model)):
                print(f"mutant {number}: taken, and onnx sees another file")
                return 1
    print(f"{sys.argv[2]} tried, {taken} taken")
    return 0


if __name__ == "__main__":
    sys.exit(main())
