"""Mutants of skops files: whatever is in one, it is refused or asked; the process never dies of it.

A process of its own, for it may die: `python skops_mutants.py SEED FIRST LAST PACKAGE…` loads each
mutant, asks it the package's golden rows, and prints `NUMBER OUTCOME` a line, before and after.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import resource
import signal
import sys
import tempfile
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

ODD = [-1, 0, 1, 2, 3, 7, 64, 255, 256, 1000, 2**15, 2**31 - 1, 2**31, -(2**31), 2**40, 2**62]
TEXTS = ["", "brute", "rbf", "precomputed", "linear", "c_svc", "epsilon_svr", "onehot", "uniform"]


def mutant(data: bytes, draw: random.Random) -> bytes:
    """The file with one to three of its arrays, numbers, keys or references changed."""
    with zipfile.ZipFile(io.BytesIO(data)) as source:
        members = {name: source.read(name) for name in source.namelist()}
    schema = json.loads(members["schema.json"])
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        arrays = [name for name in members if name.endswith(".npy")]
        if arrays and draw.random() < 0.6:
            name = draw.choice(arrays)
            members[name] = _array(members[name], draw)
        else:
            _node(schema, draw)
    members["schema.json"] = json.dumps(schema).encode()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as target:
        for name, content in members.items():
            target.writestr(name, content)
    return out.getvalue()


def _array(data: bytes, draw: random.Random) -> bytes:
    array = np.load(io.BytesIO(data), allow_pickle=False)
    kind = draw.randrange(9)
    with np.errstate(all="ignore"):
        if kind == 0 and array.ndim:
            array = array[: draw.randrange(len(array) + 1)]
        elif kind == 1 and array.ndim:
            array = np.concatenate([array, array, array])
        elif kind == 2 and array.ndim == 2:
            array = array[:, : draw.randrange(array.shape[1] + 1)]
        elif kind == 3:
            array = array.T.copy() if draw.random() < 0.5 else array.reshape(-1)
        elif kind == 4:
            array = array.reshape(*array.shape, 1) if draw.random() < 0.5 else array[None]
        elif kind == 5 and not array.dtype.names:
            array = array.astype(draw.choice(["f4", "f8", "i4", "i8", "u1", "?", ">f8", "c16"]))
        elif array.size:
            array = array.copy()
            flat = array.reshape(-1)
            if array.dtype.names:
                flat = flat[draw.choice(array.dtype.names)]
            if flat.dtype.kind in "fiub":
                places = [draw.randrange(len(flat)) for _ in range(draw.choice([1, 1, 3]))]
                odd = draw.choice([*ODD, 1e308, float("nan"), float("inf"), 0.5])
                flat[places] = np.asarray(odd, dtype=np.float64).astype(flat.dtype)
    out = io.BytesIO()
    np.save(out, array, allow_pickle=False)
    return out.getvalue()


def _node(schema: Any, draw: random.Random) -> None:
    nodes: list[Any] = []
    holders: list[tuple[Any, Any]] = []
    waiting = [schema]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict) and "__loader__" in value:
            nodes.append(value)
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in list(items):
            if isinstance(item, dict | list):
                waiting.append(item)
            if isinstance(item, dict) and "__loader__" in item and key != "key_types":
                holders.append((value, key))
    kind = draw.randrange(7)
    plain = [node for node in nodes if node["__loader__"] == "JsonNode"]
    files = [node for node in nodes if "file" in node]
    if kind <= 2 and plain:
        node = draw.choice(plain)
        value = json.loads(node["content"])
        odd: Any = draw.choice([*ODD, 0.5, 1e300, None, True, False, *TEXTS])
        if isinstance(value, str) and draw.random() < 0.7:
            odd = draw.choice(TEXTS)
        elif isinstance(value, int | float) and draw.random() < 0.7:
            odd = draw.choice(ODD)
        node["content"] = json.dumps(odd)
    elif kind == 3 and len(files) > 1:
        one, other = draw.sample(files, 2)
        one["file"], other["file"] = other["file"], one["file"]
    elif kind == 4 and len(holders) > 1:
        (one_in, one_at), (other_in, other_at) = draw.sample(holders, 2)
        other_in[other_at] = json.loads(json.dumps(one_in[one_at]))
    elif kind == 5 and holders:
        inside, at = draw.choice(holders)
        if isinstance(inside, dict):
            del inside[at]
    elif kind == 6 and len(nodes) > 1:
        # A node with another's id is that other one, whatever it holds.
        one, other = draw.sample(nodes, 2)
        if draw.random() < 0.5:
            other = draw.choice([node for node in nodes if "__id__" in node] or nodes)
        one["__id__"] = other.setdefault("__id__", 10**6)
        if draw.random() < 0.2:
            one["__loader__"] = "CachedNode"


def outcome(package: Any, data: bytes, path: Path) -> str:
    """`refused …`, `fails …` (an exception when asked) or a hash of the answers."""
    from tandem.errors import PackageError
    from tandem.model.package import as_array, load_skops

    path.write_bytes(data)
    try:
        estimator = load_skops(path)
    except PackageError as problem:
        return f"refused {problem}"
    rows = as_array(package.manifest, package.golden().inputs)
    if package.manifest.layout == "series":
        rows = rows[:, 0]
    out = []
    for name in ("predict", "predict_proba", "decision_function"):
        try:
            answers = np.asarray(getattr(estimator, name)(rows))
            # Numbers as they print: compiled code adds in another order on other addresses.
            said = str(np.round(answers, 4)) if answers.dtype.kind == "f" else str(answers)
            out.append(hashlib.sha256(said.encode()).hexdigest()[:12])
        except Exception as problem:
            out.append(f"{type(problem).__name__}")
    return "answers " + " ".join(out)


def main() -> None:
    from tandem.model.package import read

    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    resource.setrlimit(resource.RLIMIT_AS, (6 * 2**30, 6 * 2**30))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    seed, first, last = map(int, sys.argv[1:4])
    packages = [read(folder) for folder in sys.argv[4:]]
    files = [(package.folder / "model.skops").read_bytes() for package in packages]
    with tempfile.TemporaryDirectory() as folder:
        for number in range(first, last):
            draw = random.Random(f"{seed} {number}")
            at = draw.randrange(len(packages))
            print(number, packages[at].folder.name, flush=True)
            data = mutant(files[at], draw)
            signal.alarm(30)
            print(number, outcome(packages[at], data, Path(folder) / "m.skops"), flush=True)
            signal.alarm(0)


if __name__ == "__main__":
    main()
