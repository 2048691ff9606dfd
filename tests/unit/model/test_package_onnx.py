"""ONNX files that are not what they seem: hidden fields, and constants that fill the memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.onnx_mutants import external, field, varint

from tandem.errors import PackageError
from tandem.model.package import check_onnx, onnx_session
from tandem.model.writing import write

X = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
Y = (X[:, 0] > 0).astype(int)


def model(*more: Any, initializers: Any = (), sparse: Any = ()) -> Any:
    weights = numpy_helper.from_array(np.eye(3, 2, dtype=np.float32), "weights")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["rows", "weights"], ["scores"]), *more],
        "tiny",
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, [None, 3])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [None, 2])],
        [weights, *initializers],
        sparse_initializer=list(sparse),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def refused(data: bytes, folder: Path) -> str:
    path = folder / "model.onnx"
    path.write_bytes(data)
    with pytest.raises(PackageError) as raised:
        check_onnx(path)
    assert "\n" not in str(raised.value)
    return str(raised.value)


HIDDEN = 2**29
"""Added to a field's number, it is in bits of the tag that parsers of 32 bits do not look at."""


@pytest.mark.parametrize("number", [7 + HIDDEN, 7 + 8 * HIDDEN, 0, 2**29 - 1, 99])
def test_a_field_that_only_some_parsers_see_is_refused(tmp_path: Path, number: int) -> None:
    graph = field(5, field(8, b"weights") + external())
    data = model().SerializeToString()
    assert "schema" in refused(data + field(number, graph), tmp_path)


def test_a_tag_above_32_bits_hides_no_other_file(tmp_path: Path) -> None:
    (tmp_path / "golden.json").write_bytes(bytes(24))
    tensor = field(1, b"\x03\x02") + b"\x10\x01" + field(8, b"weights")
    hidden = tensor + field(13 + HIDDEN, field(1, b"location") + field(2, b"golden.json"))
    data = model().SerializeToString()
    assert "schema" in refused(data + field(7 + HIDDEN, field(5, hidden)), tmp_path)


@pytest.mark.parametrize("longer", [1, 2, 6])
def test_a_number_that_is_longer_than_needed_is_refused(tmp_path: Path, longer: int) -> None:
    data = model().SerializeToString()
    assert "shortest way" in refused(data + field(2, b"x", longer=longer), tmp_path)
    assert "shortest way" in refused(data + b"\x28" + varint(1, longer), tmp_path)


@pytest.mark.parametrize("ints", [b"\x80\x00", b"\xff" * 9 + b"\x02", b"\x80" * 40_000, b"\x81"])
@pytest.mark.parametrize("before", [0, 300, 2**20 - 1])
def test_a_packed_number_that_is_no_number_is_refused(
    tmp_path: Path, ints: bytes, before: int
) -> None:
    tensor = field(8, b"w") + field(7, b"\x01" * before + ints)
    broken = field(7, model().graph.SerializeToString() + field(5, tensor))
    assert "not an ONNX model" in refused(broken, tmp_path)


def test_long_packed_numbers_are_taken(tmp_path: Path) -> None:
    numbers = [*range(-5, 200_000), 2**62, -(2**62)]
    long = helper.make_tensor("long", TensorProto.INT64, [len(numbers)], numbers)
    path = tmp_path / "model.onnx"
    path.write_bytes(model(initializers=[long]).SerializeToString())
    check_onnx(path)


@pytest.mark.parametrize("wire", [0, 1, 3, 4, 5, 6, 7])
def test_a_known_field_of_another_wire_type_is_refused(tmp_path: Path, wire: int) -> None:
    data = model().SerializeToString()
    assert "wire type" in refused(data + field(2, b"\x01" * 8, wire), tmp_path)


def test_a_field_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    data = model().SerializeToString()
    assert "twice" in refused(data + field(7, b""), tmp_path)


def test_functions_that_could_call_one_another_without_end_are_refused(tmp_path: Path) -> None:
    made = model()
    body = [helper.make_node("Double", ["x"], ["y"], domain="com.microsoft")]
    opsets = [helper.make_opsetid("", 21)]
    made.functions.append(
        helper.make_function("com.microsoft", "Twice", ["x"], ["y"], body, opsets)
    )
    assert "functions of its own" in refused(made.SerializeToString(), tmp_path)


def test_a_graph_that_is_kept_in_another_file_is_refused(tmp_path: Path) -> None:
    node = helper.make_node(
        "EPContext", [], ["q"], domain="com.microsoft", ep_cache_context="golden.json"
    )
    assert "another file" in refused(model(node).SerializeToString(), tmp_path)


GIANT = np.array([40_000, 20_000], dtype=np.int64)


@pytest.mark.parametrize("operator", ["ConstantOfShape", "Expand", "Tile"])
@pytest.mark.parametrize("kept", ["initializer", "constant", "ints"])
def test_a_constant_that_fills_the_memory_is_refused(
    tmp_path: Path, operator: str, kept: str
) -> None:
    giant = numpy_helper.from_array(GIANT, "giant")
    before = {
        "initializer": [],
        "constant": [helper.make_node("Constant", [], ["giant"], value=giant)],
        "ints": [helper.make_node("Constant", [], ["giant"], value_ints=GIANT.tolist())],
    }[kept]
    inputs = ["giant"] if operator == "ConstantOfShape" else ["weights", "giant"]
    nodes = [*before, helper.make_node(operator, inputs, ["filled"])]
    data = model(*nodes, initializers=[] if before else [giant]).SerializeToString()
    assert f"{operator} makes 800000000 elements" in refused(data, tmp_path)


def test_a_sparse_tensor_that_fills_the_memory_is_refused(tmp_path: Path) -> None:
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(np.ones(1, np.float32), "s"),
        numpy_helper.from_array(np.zeros(1, np.int64), "i"),
        GIANT.tolist(),
    )
    assert "sparse tensor" in refused(model(sparse=[sparse]).SerializeToString(), tmp_path)


def test_random_numbers_that_fill_the_memory_are_refused(tmp_path: Path) -> None:
    node = helper.make_node("RandomNormal", [], ["q"], shape=GIANT.tolist())
    assert "RandomNormal makes" in refused(model(node).SerializeToString(), tmp_path)


@pytest.mark.parametrize("name", ["MAX_NODES", "MAX_TENSORS", "MAX_FIELDS"])
def test_more_parts_than_any_model_has_are_refused(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"tandem.model.package.onnx_file.{name}", 0)
    assert "more than 0" in refused(model().SerializeToString(), tmp_path)


def test_a_small_constant_is_taken(tmp_path: Path) -> None:
    shape = numpy_helper.from_array(np.array([5, 2], dtype=np.int64), "shape")
    node = helper.make_node("ConstantOfShape", ["shape"], ["zeros"])
    path = tmp_path / "model.onnx"
    path.write_bytes(model(node, initializers=[shape]).SerializeToString())
    check_onnx(path)
    onnx_session(path, threads=1)


def test_what_is_taken_of_a_mutated_file_is_what_onnx_reads(tmp_path: Path) -> None:
    """A few; `python tests/support/onnx_mutants.py SEED COUNT FILE…` tries as many as one likes."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    estimator = make_pipeline(StandardScaler(), RandomForestClassifier(3, random_state=0))
    made = write(tmp_path / "package", estimator.fit(X, Y), name="tiny", sample=X)
    assert made.has("model.onnx")
    (tmp_path / "plain.onnx").write_bytes(model().SerializeToString())
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [
            *(sys.executable, root / "tests/support/onnx_mutants.py", "7", "3000"),
            *(made.folder / "model.onnx", tmp_path / "plain.onnx"),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3000 tried" in done.stdout
