"""Models of other runtimes and with several inputs, asked as any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from support.apps import create_app
from support.asking import Client

from tandem.model.writing import write
from tandem.serving.model import load
from tandem.serving.settings import Settings

X = np.random.default_rng(0).normal(size=(60, 3))
IDS = np.arange(40).reshape(10, 4)
MASK = np.ones((10, 4), dtype=np.int64)


def client(folder: Path) -> Client:
    return Client(create_app(load(folder), Settings(model=folder)))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Client:
    """Of ids and a mask, each four numbers."""
    folder = tmp_path_factory.mktemp("bert")
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, [None, 4])
        for name in ("input_ids", "attention_mask")
    ]
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["input_ids", "attention_mask"], ["seen"]),
            helper.make_node("Cast", ["seen"], ["states"], to=TensorProto.FLOAT),
            helper.make_node("MatMul", ["states", "w"], ["logits"]),
        ],
        "g",
        inputs,
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [None, 2])],
        [helper.make_tensor("w", TensorProto.FLOAT, [4, 2], np.linspace(-1, 1, 8))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    (folder / "bert.onnx").write_bytes(model.SerializeToString())
    sample = {"input_ids": IDS, "attention_mask": MASK}
    write(
        folder / "package",
        folder / "bert.onnx",
        name="bert",
        sample=sample,
        task="classification",
        labels=["no", "yes"],
    )
    return client(folder / "package")


def test_a_row_of_several_tensors_is_answered_by_place_and_by_name(bert: Client) -> None:
    ids, mask = IDS[2].tolist(), MASK[2].tolist()
    rows: list[Any] = [[ids, mask], {"attention_mask": mask, "input_ids": ids}]
    answer = bert.ask("POST", "/score", {"rows": rows})
    assert answer.status == 200, answer.body
    first, second = answer.json["predictions"]
    assert first == second
    assert first["labels"][0] == "yes"


def test_a_tensor_of_another_shape_is_refused_by_its_name(bert: Client) -> None:
    answer = bert.ask("POST", "/score", {"rows": [[[1, 2], [1, 1, 1, 1]]]})
    assert answer.status == 422
    assert b"input_ids has shape [2]" in answer.body


def test_tensors_are_asked_by_the_inference_protocol(bert: Client) -> None:
    inputs = [
        {"name": name, "shape": [2, 4], "datatype": "INT64", "data": values[:2].ravel().tolist()}
        for name, values in (("attention_mask", MASK), ("input_ids", IDS))
    ]
    answer = bert.ask("POST", "/v2/models/bert/infer", {"inputs": inputs})
    assert answer.status == 200, answer.body


def test_the_description_of_the_api_has_the_shape_of_each_tensor(bert: Client) -> None:
    text = bert.ask("GET", "/openapi.json").body
    assert text.count(b'"maxItems":4') >= 2 or text.count(b'"maxItems": 4') >= 2


@pytest.mark.parametrize("library", ["xgboost", "lightgbm"])
def test_boosted_trees_are_served_in_their_own_format(tmp_path: Path, library: str) -> None:
    # The image of the example holds neither, nor does what its tests are run with there.
    found = pytest.importorskip(library)
    if library == "xgboost":
        made = found.XGBClassifier(n_estimators=3, n_jobs=1)
    else:
        made = found.LGBMClassifier(n_estimators=3, n_jobs=1, verbose=-1, min_child_samples=5)
    write(tmp_path / "package", made.fit(X, X[:, 0] > 0), name="trees", sample=X)
    service = client(tmp_path / "package")
    answer = service.ask("POST", "/score", {"rows": X[:3].tolist()})
    assert answer.status == 200, answer.body
    wanted = [str(value) for value in made.predict(X[:3])]
    assert [one["labels"][0] for one in answer.json["predictions"]] == wanted
    assert service.ask("GET", "/v2/models/trees").json["platform"] == library
