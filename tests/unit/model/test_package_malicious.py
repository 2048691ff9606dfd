"""Packages made to do harm: each is refused with one line, and none of what they carry is run."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tandem import publish
from tandem.errors import PackageError
from tandem.model import package as packages
from tandem.model.package import Package, load_estimator, open_predictor, read
from tandem.model.writing import write

X = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
Y = (X[:, 0] > 0).astype(int)


class Harm:
    """Unpickled, it makes a file."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.proof),)


@pytest.fixture
def proof(tmp_path: Path) -> Any:
    """A folder that exists once a payload ran; checked after each test that uses it."""
    place = tmp_path / "harmed"
    yield place
    assert not place.exists(), "the payload was run"


@pytest.fixture
def made(tmp_path: Path) -> Package:
    from sklearn.linear_model import LogisticRegression

    return write(tmp_path / "package", LogisticRegression().fit(X, Y), name="tiny", sample=X)


def forged(made: Package, name: str, data: bytes) -> Package:
    """The package with another file in it, and a manifest that fits: as an attacker would do."""
    (made.folder / name).write_bytes(data)
    change_manifest(
        made,
        lambda told: [
            file.update(sha256=hashlib.sha256(data).hexdigest(), size=len(data))
            for file in told["files"]
            if file["path"] == name
        ],
    )
    return read(made.folder)


def change_manifest(made: Package, change: Callable[[dict[str, Any]], Any]) -> None:
    path = made.folder / "manifest.json"
    told = json.loads(path.read_bytes())
    change(told)
    path.write_text(json.dumps(told))


def refused(made: Package, name: str, data: bytes) -> str:
    with pytest.raises(PackageError) as raised:
        package = forged(made, name, data)
        if name == "model.skops":
            load_estimator(package)
        else:
            open_predictor(package, runtime="onnx")
    assert "\n" not in str(raised.value)
    return str(raised.value)


# --- pickles


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", ["model.skops", "model.onnx"])
def test_a_pickle_under_another_name_is_not_opened(
    made: Package, proof: Path, name: str, protocol: int
) -> None:
    assert "pickle" in refused(made, name, pickle.dumps(Harm(proof), protocol))


@pytest.mark.parametrize("suffix", [".pkl", ".pickle", ".joblib", ".sav", ".pt"])
def test_a_pickle_is_refused_by_its_name_unread(tmp_path: Path, proof: Path, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(pickle.dumps(Harm(proof)))
    path.chmod(0)
    with pytest.raises(PackageError, match="never opened"):
        publish(path, name="tiny", store=f"file:{tmp_path}/store")


def test_a_compressed_joblib_file_is_not_opened(made: Package, proof: Path) -> None:
    import joblib

    stream = io.BytesIO()
    joblib.dump(Harm(proof), stream, compress=3)
    assert "never opened" in refused(made, "model.skops", stream.getvalue())


def test_an_array_of_pickled_objects_in_skops_is_not_opened(made: Package, proof: Path) -> None:
    stream = io.BytesIO()
    np.save(stream, np.array([Harm(proof)], dtype=object), allow_pickle=True)
    data = archive({"schema.json": array_schema(), "1.npy": stream.getvalue()})
    assert "pickled objects" in refused(made, "model.skops", data)


# --- skops files


def archive(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as target:
        for name, data in members.items():
            target.writestr(name, data)
    return stream.getvalue()


def schema(node: dict[str, Any], protocol: int | None = None) -> bytes:
    from skops.io._protocol import PROTOCOL

    told = {"protocol": PROTOCOL if protocol is None else protocol, "_skops_version": "0.16.0"}
    return json.dumps({**node, **told}).encode()


def array_schema() -> bytes:
    return schema(
        {
            "__class__": "ndarray",
            "__module__": "numpy",
            "__loader__": "NdArrayNode",
            "type": "numpy",
            "file": "1.npy",
        }
    )


def text(value: str) -> dict[str, Any]:
    return {
        "__class__": "str",
        "__module__": "builtins",
        "__loader__": "JsonNode",
        "content": json.dumps(value),
        "is_json": True,
    }


def arguments(*values: dict[str, Any]) -> dict[str, Any]:
    return {
        "__class__": "tuple",
        "__module__": "builtins",
        "__loader__": "TupleNode",
        "content": list(values),
    }


def payloads(proof: Path) -> dict[str, dict[str, Any]]:
    """Ways to have something called while a file is loaded, one per kind of node that could."""
    shell = {"__class__": "mkdir", "__module__": "os"}
    nothing = {
        "__class__": "dict",
        "__module__": "builtins",
        "__loader__": "DictNode",
        "content": {},
        "key_types": {
            "__class__": "list",
            "__module__": "builtins",
            "__loader__": "ListNode",
            "content": [],
        },
    }
    call = arguments(text(str(proof)))
    return {
        "constructor": {**shell, "__loader__": "ConstructorFromReduceNode", "content": call},
        "function": {**shell, "__loader__": "FunctionNode"},
        "type": {**shell, "__loader__": "TypeNode"},
        "object": {
            "__class__": "Popen",
            "__module__": "subprocess",
            "__loader__": "ObjectNode",
            "content": nothing,
        },
        "list": {**shell, "__loader__": "ListNode", "content": [text(str(proof))]},
        "partial": {
            "__class__": "partial",
            "__module__": "functools",
            "__loader__": "PartialNode",
            "content": {
                "func": {**shell, "__loader__": "FunctionNode"},
                "args": call,
                "kwds": nothing,
                "namespace": nothing,
            },
        },
        "operator": {
            "__class__": "methodcaller",
            "__module__": "operator",
            "__loader__": "OperatorFuncNode",
            "attrs": arguments(text("mkdir")),
        },
        "method": {
            "__class__": "str",
            "__module__": "builtins",
            "__loader__": "MethodNode",
            "content": {"func": "format", "obj": text("x")},
        },
        "defaultdict": {
            "__class__": "defaultdict",
            "__module__": "collections",
            "__loader__": "DefaultDictNode",
            "content": {"main": nothing, "default_factory": {**shell, "__loader__": "TypeNode"}},
        },
        "generator": {
            "__class__": "Generator",
            "__module__": "numpy.random",
            "__loader__": "RandomGeneratorNode",
            "content": {"bit_generator": nothing, "seed_seq": nothing},
        },
        "unknown": {**shell, "__loader__": "QuantileForestNode"},
    }


@pytest.mark.parametrize("kind", sorted(payloads(Path())))
def test_a_skops_file_that_calls_something_is_refused(
    made: Package, proof: Path, kind: str
) -> None:
    refused(made, "model.skops", archive({"schema.json": schema(payloads(proof)[kind])}))


@pytest.mark.parametrize("kind", ["constructor", "function", "type", "list"])
def test_no_file_can_add_to_the_allow_list(made: Package, proof: Path, kind: str) -> None:
    data = archive({"schema.json": schema(payloads(proof)[kind])})
    change_manifest(made, lambda told: told.update(trusted=["os.mkdir"]))
    assert "os.mkdir" not in packages.TRUSTED
    refused(made, "model.skops", data)


def test_the_names_of_untrusted_types_are_told(made: Package, proof: Path) -> None:
    data = archive({"schema.json": schema(payloads(proof)["type"])})
    assert "os.mkdir" in refused(made, "model.skops", data)


@pytest.mark.parametrize("protocol", [0, 1, 99, -1])
def test_another_protocol_of_skops_is_refused(made: Package, protocol: int) -> None:
    data = archive({"schema.json": schema(text("x"), protocol)})
    assert "protocol" in refused(made, "model.skops", data)


@pytest.mark.parametrize(
    "name",
    ["../evil.npy", "/etc/evil.npy", "..\\evil.npy", "a/b.npy", "evil.py", "x" * 200 + ".npy"],
)
def test_a_member_with_another_path_is_refused(made: Package, name: str) -> None:
    data = archive({"schema.json": schema(text("x")), name: b""})
    assert "does not belong" in refused(made, "model.skops", data)


def test_a_member_that_is_there_twice_is_refused(made: Package) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as target, pytest.warns(UserWarning, match="Duplicate"):
        for content in (schema(text("x")), schema(text("y"))):
            target.writestr("schema.json", content)
    assert "twice" in refused(made, "model.skops", stream.getvalue())


def test_a_zip_bomb_is_refused_unpacked(made: Package) -> None:
    bomb = bytes(50 * 2**20)
    members = {"schema.json": schema(text("x")), "1.npy": bomb}
    data = archive(members, zipfile.ZIP_DEFLATED)
    assert len(data) < 2**20
    assert "zip bomb" in refused(made, "model.skops", data)


def test_a_schema_that_is_a_zip_bomb_is_refused_unpacked(made: Package) -> None:
    data = archive({"schema.json": b" " * (50 * 2**20)}, zipfile.ZIP_DEFLATED)
    assert "zip bomb" in refused(made, "model.skops", data)


def test_a_zip_bomb_inside_of_a_sparse_array_is_refused(made: Package) -> None:
    inner = archive({"data.npy": bytes(80 * 2**20)}, zipfile.ZIP_DEFLATED)
    members = {"schema.json": schema(text("x")), "1.npz": inner}
    refused(made, "model.skops", archive(members))


def test_too_many_members_are_refused(made: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tandem.model.package.skops_file.MAX_MEMBERS", 10)
    data = archive({f"{number}.npy": b"" for number in range(11)})
    assert "11 members" in refused(made, "model.skops", data)


def test_an_array_of_absurd_shape_is_refused_unallocated(made: Package) -> None:
    stream = io.BytesIO()
    header = {"descr": "<f8", "fortran_order": False, "shape": (10**6, 10**6)}
    np.lib.format.write_array_header_1_0(stream, header)
    data = archive({"schema.json": array_schema(), "1.npy": stream.getvalue() + bytes(64)})
    assert "absurd shape" in refused(made, "model.skops", data)


def test_a_schema_nested_without_end_is_refused(made: Package) -> None:
    deep = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
    refused(made, "model.skops", archive({"schema.json": deep}))
    nested = text("x")
    for _ in range(450):
        nested = arguments(nested)
    assert "nested" in refused(made, "model.skops", archive({"schema.json": schema(nested)}))


@pytest.mark.parametrize(
    "data",
    [b"", b"PK\x03\x04", b"PK\x05\x06" + bytes(18), b"\x7fELF", b"GIF89a", archive({"x.npy": b""})],
)
def test_what_is_no_skops_file_is_refused(made: Package, data: bytes) -> None:
    refused(made, "model.skops", data)


def test_an_encrypted_member_is_refused(made: Package) -> None:
    data = bytearray(archive({"schema.json": schema(text("x"))}))
    directory = data.rindex(b"PK\x01\x02")
    data[directory + 8] |= 1
    assert "encrypted" in refused(made, "model.skops", bytes(data))


# --- trees that lead out of themselves


@pytest.mark.parametrize(
    ("field", "value"),
    [("left_child", 10**6), ("right_child", -7), ("left_child", 0), ("feature", 10**6)],
)
def test_a_tree_that_points_outside_of_itself_is_refused(
    tmp_path: Path, field: str, value: int
) -> None:
    from sklearn.tree import DecisionTreeClassifier

    estimator = DecisionTreeClassifier(random_state=0).fit(X, Y)
    made = write(tmp_path / "tree", estimator, name="tiny", sample=X)
    with zipfile.ZipFile(made.folder / "model.skops") as source:
        members = {name: source.read(name) for name in source.namelist()}
    for name, content in members.items():
        if field.encode() in content[:500] and name.endswith(".npy"):
            nodes = np.load(io.BytesIO(content))
            nodes[field][0] = value
            stream = io.BytesIO()
            np.save(stream, nodes)
            members[name] = stream.getvalue()
    assert "points outside" in refused(made, "model.skops", archive(members))


def test_a_boosted_tree_that_points_outside_of_itself_is_refused(tmp_path: Path) -> None:
    from sklearn.ensemble import HistGradientBoostingClassifier

    rows = np.repeat(X, 3, axis=0)
    estimator = HistGradientBoostingClassifier(max_iter=2).fit(rows, np.repeat(Y, 3))
    made = write(tmp_path / "boosted", estimator, name="tiny", sample=X)
    with zipfile.ZipFile(made.folder / "model.skops") as source:
        members = {name: source.read(name) for name in source.namelist()}
    for name, content in members.items():
        if b"feature_idx" in content[:900] and name.endswith(".npy"):
            nodes = np.load(io.BytesIO(content))
            nodes["left"][0] = 10**6
            stream = io.BytesIO()
            np.save(stream, nodes)
            members[name] = stream.getvalue()
    assert "points outside" in refused(made, "model.skops", archive(members))


# --- ONNX files


def onnx_model(**change: Any) -> Any:
    from onnx import TensorProto, helper, numpy_helper

    weights = numpy_helper.from_array(np.eye(3, 2, dtype=np.float32), "weights")
    nodes = [
        helper.make_node("MatMul", ["rows", "weights"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["probabilities"], domain=change.get("domain", "")),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, [None, 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, 2])],
        [weights],
    )
    opsets = [helper.make_opsetid("", 21)]
    if change.get("domain"):
        opsets.append(helper.make_opsetid(change["domain"], 1))
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def test_an_honest_onnx_file_is_opened(made: Package) -> None:
    package = forged(made, "model.onnx", onnx_model().SerializeToString())
    assert open_predictor(package).predict(X[:2]).shape == (2, 2)


@pytest.mark.parametrize("location", ["../../../etc/passwd", "/etc/passwd", "weights.bin"])
@pytest.mark.parametrize("marked", [True, False], ids=["marked", "unmarked"])
def test_onnx_weights_in_another_file_are_refused(
    made: Package, location: str, marked: bool
) -> None:
    from onnx import TensorProto

    model = onnx_model()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    if marked:
        tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", location
    assert "external data" in refused(made, "model.onnx", model.SerializeToString())


def test_onnx_weights_in_another_file_are_found_in_a_subgraph(made: Package) -> None:
    from onnx import TensorProto, helper

    tensor = TensorProto(name="w", dims=[1], data_type=TensorProto.FLOAT)
    tensor.data_location = TensorProto.EXTERNAL
    inner = helper.make_graph([helper.make_node("Constant", [], ["c"], value=tensor)], "g", [], [])
    model = onnx_model()
    model.graph.node.append(
        helper.make_node("If", ["rows"], ["q"], then_branch=inner, else_branch=inner)
    )
    assert "external data" in refused(made, "model.onnx", model.SerializeToString())


def test_onnx_operators_of_somebody_else_are_refused(made: Package) -> None:
    data = onnx_model(domain="evil.example").SerializeToString()
    assert "evil.example" in refused(made, "model.onnx", data)


def test_onnx_graphs_nested_without_end_are_refused(made: Package) -> None:
    def field(number: int, content: bytes) -> bytes:
        size, head = len(content), bytes([number << 3 | 2])
        length = b""
        while size >= 0x80:
            length += bytes([size & 0x7F | 0x80])
            size >>= 7
        return head + length + bytes([size]) + content

    graph = b""
    for _ in range(80):
        graph = field(1, field(5, field(6, graph)))
    assert "nested" in refused(made, "model.onnx", field(7, graph))


@pytest.mark.parametrize(
    "data",
    [
        b"x",
        b"\xff" * 64,
        b"\x3a\xff\xff\xff\xff\x0f",
        struct.pack("<Q", 1 << 60),
        onnx_model().SerializeToString()[:-7],
        archive({"schema.json": b"{}"}),
    ],
)
def test_what_is_no_onnx_file_is_refused(made: Package, data: bytes) -> None:
    refused(made, "model.onnx", data)


# --- manifests and other files


@pytest.mark.parametrize("path", ["../model.skops", "/etc/passwd", "sub/model.skops", "run.py"])
def test_a_manifest_that_names_another_file_is_refused(made: Package, path: str) -> None:
    change_manifest(made, lambda told: told["files"][0].update(path=path))
    with pytest.raises(PackageError, match="not a file of a model package"):
        read(made.folder)


def test_a_link_to_a_file_elsewhere_is_refused(made: Package, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    (made.folder / "model.skops").rename(target)
    (made.folder / "model.skops").symlink_to(target)
    with pytest.raises(PackageError, match=r"model\.skops: not a plain file"):
        read(made.folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"features": [{"name": "x", "dtype": "float32", "shape": [10**9]}]}, "absurd shape"),
        ({"features": [{"name": "x", "dtype": "float32", "shape": [-1]}]}, "absurd shape"),
        ({"features": []}, "0 features"),
        ({"features": [{"name": "x", "dtype": "object", "shape": [3]}]}, "dtype 'object'"),
        ({"labels": ["0"]}, "1 labels"),
        ({"labels": ["0", "0"]}, "twice"),
        ({"format": 99}, "format 99"),
        ({"runtime": "pickle"}, "runtime 'pickle': not known"),
        ({"name": "../../x"}, "model name"),
        ({"files": []}, "missing from the manifest"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(
    made: Package, change: dict[str, Any], words: str
) -> None:
    change_manifest(made, lambda told: told.update(change))
    with pytest.raises(PackageError, match=words):
        read(made.folder)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"a":' * 5000])
def test_what_is_no_manifest_is_refused(made: Package, data: bytes) -> None:
    (made.folder / "manifest.json").write_bytes(data)
    with pytest.raises(PackageError, match=r"manifest\.json"):
        read(made.folder)


def test_an_endless_manifest_is_not_read(made: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tandem.model.package.reading.MAX_MANIFEST", 1000)
    with pytest.raises(PackageError, match="larger than 1000 bytes"):
        read(made.folder)


@pytest.mark.parametrize(
    ("golden", "words"),
    [
        ({"inputs": [[0, 0]]}, "expected .3."),
        ({"inputs": []}, "not of one length"),
        ({"answers": [[1.0]]}, "1 numbers for 2 labels"),
    ],
)
def test_golden_rows_of_another_shape_are_refused(
    made: Package, golden: dict[str, Any], words: str
) -> None:
    told = json.loads((made.folder / "golden.json").read_bytes())
    told = {key: value[:1] if isinstance(value, list) else value for key, value in told.items()}
    package = forged(made, "golden.json", json.dumps(told | golden).encode())
    with pytest.raises(PackageError, match=words):
        package.golden()
