"""Compile Python files to reproducible byte code, by the interpreter it is for.

Standard library only: the interpreter that runs this may know nothing of Tandem. What goes in is a
JSON object on standard input, `{"root", "out", "prefix", "files"}`; `files` are relative to `root`,
the byte code goes to the same place under `out`, and tracebacks name the file under `prefix`, where
the image will have it.
"""

from __future__ import annotations

import importlib.util
import json
import marshal
import os
import sys
import types
import warnings

UNCHECKED_HASH = (1).to_bytes(4, "little")
"""PEP 552: valid by the source's hash, and the interpreter does not look at the source at all."""


def hold(value: object, held: list[object]) -> None:
    """Keep a second reference to everything in a code object.

    `marshal` marks an object as shareable when anyone else refers to it, so its output would depend
    on what else the process has seen (python/cpython#78274); with a second reference everywhere, it
    always marks.
    """
    held.append(value)
    if isinstance(value, types.CodeType):
        for name in dir(value):
            # `co_code` and its relatives are made anew by each access; touching them would store a
            # copy.
            if name.startswith("co_") and name not in ("co_code", "co_lnotab", "co_lines"):
                hold(getattr(value, name), held)
    elif isinstance(value, (tuple, frozenset)):
        for item in value:
            hold(item, held)
    elif isinstance(value, slice):
        for item in (value.start, value.stop, value.step):
            hold(item, held)


def compiled(source: bytes, name: str) -> bytes | None:
    """The contents of the `.pyc` file, or None for what is no Python of this version."""
    try:
        code = compile(source, name, "exec", dont_inherit=True, optimize=0)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    held: list[object] = []
    hold(code, held)
    magic = importlib.util.MAGIC_NUMBER
    return magic + UNCHECKED_HASH + importlib.util.source_hash(source) + marshal.dumps(code)


def main() -> None:
    """Compile what standard input asks for."""
    warnings.simplefilter("ignore")
    order = json.load(sys.stdin)
    for path in order["files"]:
        with open(os.path.join(order["root"], path), "rb") as file:  # noqa: PTH118, PTH123
            source = file.read()
        if (data := compiled(source, order["prefix"] + "/" + path)) is None:
            continue
        target = importlib.util.cache_from_source(os.path.join(order["out"], path))  # noqa: PTH118
        os.makedirs(os.path.dirname(target), exist_ok=True)  # noqa: PTH103, PTH120
        with open(target, "wb") as file:  # noqa: PTH123
            file.write(data)


if __name__ == "__main__":
    main()
