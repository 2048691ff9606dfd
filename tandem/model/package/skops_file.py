"""Estimators from skops files, checked inside first; none is unpickled."""

from __future__ import annotations

import io
import json
import math
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from tandem.errors import PackageError, one_line
from tandem.model.package.fitted import check_fitted

PICKLES = frozenset(
    {".pkl", ".pickle", ".p", ".joblib", ".sav", ".pt", ".pth", ".bin", ".h5", ".npy", ".npz"}
)

MAX_SCHEMA = 512 * 2**20
MAX_MEMBERS = 200_000
MAX_UNPACKED = 64 * 2**30
MAX_RATIO = 100
"""What a packed member may grow by: real estimators stay below 20, a zip bomb is near 1000."""

TRUSTED = frozenset(
    {
        # Reviewed one by one. Their content is checked after loading where scikit-learn does not
        # check it (check_fitted).
        "sklearn.tree._tree.Tree",
        "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
        # Plain Python objects that hold arrays and numbers.
        "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
        "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
        "sklearn.calibration._CalibratedClassifier",
        "sklearn.calibration._SigmoidCalibration",
        "sklearn.gaussian_process._gpc._BinaryGaussianProcessClassifierLaplace",
        "sklearn.gaussian_process.kernels.CompoundKernel",
        "sklearn.gaussian_process.kernels.ConstantKernel",
        "sklearn.gaussian_process.kernels.DotProduct",
        "sklearn.gaussian_process.kernels.Exponentiation",
        "sklearn.gaussian_process.kernels.Hyperparameter",
        "sklearn.gaussian_process.kernels.Matern",
        "sklearn.gaussian_process.kernels.Product",
        "sklearn.gaussian_process.kernels.RBF",
        "sklearn.gaussian_process.kernels.RationalQuadratic",
        "sklearn.gaussian_process.kernels.Sum",
        "sklearn.gaussian_process.kernels.WhiteKernel",
        "sklearn.utils._bunch.Bunch",
        # numpy.dtype is made from an empty array's; the score functions are pure and not called
        # when predicting.
        "numpy.dtype",
        "sklearn.feature_selection._univariate_selection.chi2",
        "sklearn.feature_selection._univariate_selection.f_classif",
        "sklearn.feature_selection._univariate_selection.f_regression",
        "sklearn.feature_selection._mutual_info.mutual_info_classif",
        "sklearn.feature_selection._mutual_info.mutual_info_regression",
    }
)
"""Types that a skops file may hold besides skops' own list of scikit-learn estimators, numpy arrays
and plain values.

The list belongs to the application. Never fill it from what a file asks for.
"""

_LOADERS = frozenset(
    [
        "BytearrayNode",
        "BytesNode",
        "CachedNode",
        "DTypeNode",
        "DefaultDictNode",
        "DictNode",
        "FunctionNode",
        "JsonNode",
        "ListNode",
        "LossNode",
        "MaskedArrayNode",
        "NdArrayNode",
        "ObjectNode",
        "RandomGeneratorNode",
        "RandomStateNode",
        "SetNode",
        "SliceNode",
        "SparseMatrixNode",
        "TreeNode",
        "TupleNode",
        "TypeNode",
    ]
)
"""skops node kinds that estimators are made of. Those that call something (methods, partials,
operators) are not.
"""


def load_skops(path: Path, trusted: Iterable[str] = TRUSTED) -> Any:
    """The object in a skops file, when all that it holds is known and sane.

    Raises `PackageError`.
    """
    check_skops(path)
    import skops.io
    from skops.io.exceptions import UntrustedTypesFoundException

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            estimator = skops.io.load(path, trusted=sorted(trusted))
    except UntrustedTypesFoundException:
        names = ", ".join(sorted({*skops.io.get_untrusted_types(file=path)}.difference(trusted)))
        raise PackageError(
            f"{path.name}: holds what this application does not trust: {names}; add them to trust "
            "in [tool.tandem.app], with their modules in its image"
        ) from None
    except Exception as problem:  # noqa: BLE001 - a crafted file may fail anywhere in there; it is refused all the same
        raise PackageError(f"{path.name}: cannot be loaded: {one_line(problem)}") from None
    check_fitted(estimator, path.name)
    return estimator


def check_skops(path: Path) -> None:
    """Refuse, without constructing anything, what no honest skops file has.

    Raises `PackageError`.
    """
    refuse_pickle(path)
    try:
        with zipfile.ZipFile(path) as archive:
            sides = _check_archive(archive, path)
            schema = json.loads(archive.read("schema.json"))
    except PackageError:
        raise
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, EOFError) as problem:
        raise PackageError(f"{path.name}: not a skops file: {one_line(problem)}") from None
    except KeyError:
        raise PackageError(f"{path.name}: not a skops file: no schema.json inside") from None
    except (ValueError, RecursionError, OSError, RuntimeError) as problem:
        raise PackageError(f"{path.name}: not a skops file: {one_line(problem)}") from None
    _check_schema(schema, path.name, sides)


def refuse_pickle(path: Path) -> None:
    """Refuse a pickle by its name or first bytes, before anything opens it.

    Raises `PackageError`.
    """
    if path.suffix.lower() in PICKLES:
        raise PackageError(
            f"{path.name}: pickle and joblib files are never opened; publish a package or an .onnx"
        )
    try:
        with path.open("rb") as stream:
            start = stream.read(16)
    except OSError as problem:
        raise PackageError(f"{path}: {problem.strerror}") from None
    # Protocols 2 to 5 begin with PROTO; 0 and 1 with a MARK, GLOBAL or container opcode; joblib may
    # compress.
    compressed = (
        b"\x1f\x8b",
        b"BZh",
        b"\xfd7zXZ",
        b"\x78\x9c",
        b"\x78\x5e",
        b"\x78\x01",
        b"\x78\xda",
        b"\x04\x22\x4d\x18",
    )
    if re.match(rb"\x80[\x00-\x10]|[\(\]\}c]", start) or start.startswith(compressed):
        raise PackageError(f"{path.name}: a pickle, or packed like one, is never opened")


def _check_archive(archive: zipfile.ZipFile, path: Path) -> dict[str, int]:
    """Refuse members that do not belong there; the arrays' numbers of dimensions."""
    members = archive.infolist()
    if len(members) > MAX_MEMBERS:
        raise PackageError(f"{path.name}: {len(members)} members, at most {MAX_MEMBERS} are read")
    names = set()
    total = 0
    for member in members:
        if not re.fullmatch(r"schema\.json|[0-9A-Za-z_-]{1,80}\.(npy|npz|bin)", member.filename):
            raise PackageError(
                f"{path.name}: member {member.filename[:80]!r} does not belong there"
            )
        if member.filename in names:
            raise PackageError(f"{path.name}: member {member.filename!r} is there twice")
        names.add(member.filename)
        if member.flag_bits & 0x1:
            raise PackageError(f"{path.name}: member {member.filename!r} is encrypted")
        if member.file_size > MAX_RATIO * max(member.compress_size, 1024):
            raise PackageError(
                f"{path.name}: member {member.filename!r} unpacks from {member.compress_size} to "
                f"{member.file_size} bytes: a zip bomb"
            )
        total += member.file_size
        if total > min(MAX_UNPACKED, MAX_RATIO * path.stat().st_size) or (
            member.filename == "schema.json" and member.file_size > MAX_SCHEMA
        ):
            raise PackageError(f"{path.name}: unpacks to more than is read: a zip bomb")
    dimensions = {}
    for member in members:
        if member.filename.endswith(".npy"):
            with archive.open(member) as stream:
                where = f"{path.name}: {member.filename}"
                dimensions[member.filename] = check_array(stream, member.file_size, where)  # type: ignore[arg-type]
        elif member.filename.endswith(".npz"):
            _check_sparse(archive.read(member), f"{path.name}: {member.filename}")
    return dimensions


def _check_sparse(data: bytes, where: str) -> None:
    # scipy's sparse arrays are an archive in the archive.
    with zipfile.ZipFile(io.BytesIO(data)) as inner:
        for member in inner.infolist()[:17]:
            if not re.fullmatch(
                r"(data|indices|indptr|row|col|offsets|shape|format|_is_array)\.npy",
                member.filename,
            ):
                raise PackageError(
                    f"{where}: member {member.filename[:80]!r} does not belong there"
                )
            if member.file_size > 1000 * max(len(data), 1024):
                raise PackageError(f"{where}: unpacks to {member.file_size} bytes: a zip bomb")
            with inner.open(member) as stream:
                check_array(stream, member.file_size, f"{where}: {member.filename}")  # type: ignore[arg-type]


def check_array(stream: BinaryIO, size: int, where: str) -> int:
    """The number of dimensions of a .npy, by its header.

    Refused is a header that promises other than the `size` bytes that are there, or Python objects:
    raises `PackageError`.
    """
    from numpy.lib import format as npy

    try:
        version = npy.read_magic(stream)
        if version == (1, 0):
            shape, _, dtype = npy.read_array_header_1_0(stream, max_header_size=10_000)
        elif version == (2, 0):
            shape, _, dtype = npy.read_array_header_2_0(stream, max_header_size=10_000)
        else:
            raise PackageError(f"{where}: .npy format {version} is not read")
    except (ValueError, SyntaxError, RecursionError, MemoryError, OSError) as problem:
        raise PackageError(f"{where}: not an array: {one_line(problem)}") from None
    if dtype.hasobject:
        raise PackageError(f"{where}: an array of pickled objects is never opened")
    header = 10 if version == (1, 0) else 12
    count = math.prod(int(side) for side in shape) if all(side >= 0 for side in shape) else -1
    if count < 0 or size - count * dtype.itemsize - header not in range(0, 10_001):
        raise PackageError(f"{where}: absurd shape {str(shape)[:80]} for {size} bytes")
    return len(shape)


def _check_schema(schema: Any, name: str, dimensions: Mapping[str, int]) -> None:
    import skops.io._protocol

    protocol = schema.get("protocol") if isinstance(schema, dict) else None
    # An older protocol selects older, less strict readers in skops.
    ours = skops.io._protocol.PROTOCOL
    if protocol != ours:
        raise PackageError(f"{name}: skops protocol {protocol!r}, this application reads {ours}")
    waiting = [(schema, 0)]
    trees = []
    ids: Counter[int] = Counter()
    while waiting:
        node, depth = waiting.pop()
        if depth > 400:
            raise PackageError(f"{name}: nested deeper than any estimator")
        if isinstance(node, dict):
            loader = node.get("__loader__")
            if loader is not None and (not isinstance(loader, str) or loader not in _LOADERS):
                raise PackageError(f"{name}: a {str(loader)[:80]} does not belong in an estimator")
            if loader == "TreeNode":
                trees.append(node)
            if "__id__" in node:
                if type(node["__id__"]) is not int:
                    raise PackageError(
                        f"{name}: {str(node['__id__'])[:80]!r} is not an object's id"
                    )
                ids[node["__id__"]] += 1
            waiting.extend(
                (value, depth + 1) for value in node.values() if isinstance(value, dict | list)
            )
        elif isinstance(node, list):
            waiting.extend((value, depth + 1) for value in node if isinstance(value, dict | list))
    for tree in trees:
        if not _has_nodes(tree, dimensions, ids):
            raise PackageError(f"{name}: a decision tree without nodes")


def _has_nodes(tree: Mapping[str, Any], dimensions: Mapping[str, int], ids: Counter[int]) -> bool:
    """Whether a tree's nodes are a list: scikit-learn takes its length unseen."""
    held = tree.get("content")
    if not isinstance(held, dict) or held.get("__loader__") != "DictNode":
        return False
    nodes = held["content"].get("nodes") if isinstance(held.get("content"), dict) else None
    if not isinstance(nodes, dict) or nodes.get("__loader__") != "NdArrayNode":
        return False
    # A node with another's id would be that other one.
    alone = all(ids[part["__id__"]] == 1 for part in (held, nodes) if "__id__" in part)
    is_array = (nodes.get("__module__"), nodes.get("__class__")) == ("numpy", "ndarray")
    from_file = nodes.get("type") == "numpy" and dimensions.get(str(nodes.get("file"))) == 1
    return alone and is_array and from_file
