"""Networks as PyTorch and TensorFlow export them: logits, fixed batches, inputs by their names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from tandem.errors import PackageError
from tandem.model.package import as_array, open_predictor, read
from tandem.model.writing import write

X = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)


def exported(
    path: Path, *, width: int = 2, batch: Any = None, last: str = "", named: str = "logits"
) -> Path:
    """One linear layer, `last` an operator after it; the batch as the exporter was given it."""
    weights = np.linspace(-3, 3, 3 * width).astype(np.float32)
    outputs = ["hidden" if last else named]
    nodes = [helper.make_node("MatMul", ["x", "w"], outputs)]
    if last:
        nodes.append(helper.make_node(last, ["hidden"], [named]))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3])],
        [helper.make_tensor_value_info(named, TensorProto.FLOAT, [batch, width])],
        [helper.make_tensor("w", TensorProto.FLOAT, [3, width], weights)],
    )
    return saved(path, graph)


def saved(path: Path, graph: Any) -> Path:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    path.write_bytes(model.SerializeToString())
    return path


def softmax(scores: Any) -> Any:
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def test_logits_become_probabilities_when_the_task_is_named(tmp_path: Path) -> None:
    source = exported(tmp_path / "net.onnx", width=3)
    made = write(
        tmp_path / "package", source, name="net", sample=X, task="classification", labels="abc"
    )
    assert made.manifest.probabilities == "logits"
    weights = np.linspace(-3, 3, 9).astype(np.float32).reshape(3, 3)
    np.testing.assert_allclose(open_predictor(made).predict(X), softmax(X @ weights), atol=1e-5)


@pytest.mark.parametrize(("last", "kind"), [("", "logits"), ("Sigmoid", "positive")])
def test_one_number_is_the_second_of_two_labels(tmp_path: Path, last: str, kind: str) -> None:
    source = exported(tmp_path / "net.onnx", width=1, last=last)
    made = write(
        tmp_path / "package", source, name="net", sample=X, task="classification", labels=["n", "y"]
    )
    assert made.manifest.probabilities == kind
    score = (X @ np.linspace(-3, 3, 3).astype(np.float32)).reshape(-1)
    answers = open_predictor(read(made.folder)).predict(X)
    np.testing.assert_allclose(answers[:, 1], 1 / (1 + np.exp(-score)), atol=1e-5)


def test_shares_that_do_not_sum_to_one_are_not_taken_for_logits(tmp_path: Path) -> None:
    source = exported(tmp_path / "net.onnx", width=3, last="Sigmoid")
    with pytest.raises(PackageError, match="do not sum to 1"):
        write(tmp_path / "p", source, name="net", sample=X, task="classification", labels="abc")


@pytest.mark.parametrize("batch", [1, 8])
def test_a_fixed_batch_answers_any_number_of_rows(tmp_path: Path, batch: int) -> None:
    free = exported(tmp_path / "free.onnx", width=1)
    fixed = exported(tmp_path / "fixed.onnx", width=1, batch=batch)
    first, second = (
        open_predictor(write(tmp_path / path.stem, path, name="net", sample=X, task="regression"))
        for path in (free, fixed)
    )
    for rows in (X[:1], X[:7], X[:8], X):
        np.testing.assert_allclose(second.predict(rows), first.predict(rows), atol=1e-6)


def bert(path: Path) -> Path:
    """Ids and mask in, as exporters name them; two outputs, of which the second is the states."""
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["input_ids", "attention_mask"], ["seen"]),
            helper.make_node("Cast", ["seen"], ["states"], to=TensorProto.FLOAT),
            helper.make_node("MatMul", ["states", "w"], ["logits"]),
        ],
        "g",
        [
            helper.make_tensor_value_info("attention_mask", TensorProto.INT64, [None, 4]),
            helper.make_tensor_value_info("input_ids", TensorProto.INT64, [None, 4]),
        ],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, [None, 2]),
            helper.make_tensor_value_info("states", TensorProto.FLOAT, [None, 4]),
        ],
        [helper.make_tensor("w", TensorProto.FLOAT, [4, 2], np.linspace(-1, 1, 8))],
    )
    return saved(path, graph)


IDS = np.arange(40).reshape(10, 4)
MASK = (np.arange(40) % 3 > 0).astype(np.int64).reshape(10, 4)


def test_several_inputs_are_fed_by_their_names_and_one_output_answers(tmp_path: Path) -> None:
    sample = {"input_ids": IDS, "attention_mask": MASK}
    made = write(
        tmp_path / "package",
        bert(tmp_path / "bert.onnx"),
        name="bert",
        sample=sample,
        task="classification",
        labels=["no", "yes"],
        output="logits",
        held_out=(sample, ["yes"] * 10),
    )
    package = read(made.folder)
    assert package.manifest.layout == "tensors"
    assert [feature.shape for feature in package.manifest.features] == [[4], [4]]
    golden = package.golden()
    assert json.loads(json.dumps(golden.inputs))[0] == [IDS[0].tolist(), MASK[0].tolist()]
    asked = as_array(package.manifest, golden.inputs)
    answers = open_predictor(package).predict(asked)
    np.testing.assert_allclose(answers, golden.answers, atol=1e-5)
    weights = np.linspace(-1, 1, 8).reshape(4, 2)
    wanted = softmax((IDS * MASK) @ weights)
    given = open_predictor(package).predict(
        as_array(
            package.manifest, [[i.tolist(), m.tolist()] for i, m in zip(IDS, MASK, strict=True)]
        )
    )
    np.testing.assert_allclose(given, wanted, atol=1e-5)
    held_out = package.held_out()
    assert held_out is not None
    assert len(held_out.rows) == 10


def test_rows_of_another_shape_are_refused_by_the_name_of_the_input(tmp_path: Path) -> None:
    sample = {"input_ids": IDS, "attention_mask": MASK}
    made = write(
        tmp_path / "package",
        bert(tmp_path / "bert.onnx"),
        name="bert",
        sample=sample,
        task="classification",
        labels=["no", "yes"],
        output="logits",
    )
    for row, words in (
        ([[1, 2, 3], [1, 1, 1, 1]], r"input_ids has shape \[3\], expected \[4\]"),
        ([[1, 2, 3, 4]], "expected a list of 2 tensors"),
    ):
        with pytest.raises(PackageError, match=words):
            as_array(made.manifest, [row])


def test_a_bare_file_with_several_inputs_is_asked_noise_of_their_shapes(tmp_path: Path) -> None:
    made = write(
        tmp_path / "package",
        bert(tmp_path / "bert.onnx"),
        name="bert",
        task="classification",
        output="logits",
    )
    assert made.manifest.layout == "tensors"


def test_an_output_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    source = bert(tmp_path / "bert.onnx")
    with pytest.raises(PackageError, match="no output 'pooled', expected one of logits, states"):
        write(tmp_path / "package", source, name="bert", task="classification", output="pooled")
