"""The Open Inference Protocol, version 2: health, metadata and inference."""

from __future__ import annotations

import pytest
from support.asking import digit


def tensor(name, shape, datatype, data):
    return {"name": name, "shape": shape, "datatype": datatype, "data": data}


def test_server_and_model_say_that_they_are_ready(app):
    client = app(model_version=17)
    for path in (
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/digits/ready",
        "/v2/models/digits/versions/17/ready",
    ):
        assert client.get(path).status == 200, path
    assert client.get("/v2").json == {"name": "tandem", "version": "2", "extensions": []}


def test_metadata_names_the_tensors(app):
    client = app(model_version=17)
    told = client.get("/v2/models/digits").json
    assert told == client.get("/v2/models/digits/versions/17").json
    assert told["versions"] == ["17"]
    assert told["inputs"] == [{"name": "row", "datatype": "FP32", "shape": [-1, 64]}]
    assert [output["name"] for output in told["outputs"]] == ["label", "probabilities"]


@pytest.mark.parametrize("nested", [False, True])
def test_a_matrix_is_answered_with_labels_and_probabilities(app, nested):
    rows = [digit(number)[0] for number in (0, 1, 2)]
    data = rows if nested else [value for row in rows for value in row]
    asked = {"id": "a", "inputs": [tensor("row", [3, 64], "FP32", data)]}
    answer = app(model_version=17).post("/v2/models/digits/infer", asked)
    assert answer.status == 200, answer.body
    told = answer.json
    assert (told["id"], told["model_name"], told["model_version"]) == ("a", "digits", "17")
    label, probabilities = told["outputs"]
    assert label == tensor("label", [3], "BYTES", [str(digit(n)[1]) for n in (0, 1, 2)])
    assert probabilities["shape"] == [3, 10]
    assert sum(probabilities["data"]) == pytest.approx(3)


def test_columns_of_mixed_types_are_taken_one_by_one(app):
    inputs = [
        tensor("colour", [2, 1], "BYTES", ["red", "blue"]),
        tensor("size", [2], "FP64", [0.1, 0.2]),
    ]
    answer = app("mixed").post("/v2/models/mixed/infer", {"inputs": inputs})
    assert answer.json["outputs"][0]["data"] == ["yes", "no"]
    assert "model_version" not in answer.json


def test_named_numbers_can_come_side_by_side_or_by_name(app):
    client = app("iris")
    wide = {"inputs": [tensor("anything", [1, 4], "FP64", [6.7, 3.0, 5.2, 2.3])]}
    names = [feature["name"] for feature in client.get("/version").json["model"]["features"]]
    columns = {
        "inputs": [
            tensor(name, [1], "FP64", [value])
            for name, value in zip(names, [6.7, 3.0, 5.2, 2.3], strict=True)
        ],
        "outputs": [{"name": "label"}],
    }
    assert client.post("/v2/models/iris/infer", wide).json["outputs"][0]["data"] == ["virginica"]
    answer = client.post("/v2/models/iris/infer", columns).json
    assert answer["outputs"] == [tensor("label", [1], "BYTES", ["virginica"])]


def test_a_regression_answers_its_values(app):
    inputs = [tensor("x", [2, 10], "FP64", [0.0] * 20)]
    (value,) = app("diabetes").post("/v2/models/diabetes/infer", {"inputs": inputs}).json["outputs"]
    assert value["name"] == "value"
    assert value["shape"] == [2]
    assert value["data"][0] == pytest.approx(152.1, abs=0.5)


def test_texts_are_bytes_tensors(app):
    inputs = [tensor("text", [2], "BYTES", ["good day", "bad day"])]
    answer = app("words").post("/v2/models/words/infer", {"inputs": inputs}).json
    assert answer["outputs"][0]["data"] == ["good", "bad"]


ROW = [0.0] * 64
REFUSED = {
    "no inputs": ([], "at least one input tensor"),
    "wrong name": ([tensor("x", [1, 64], "FP32", ROW)], "must be named 'row'"),
    "wrong shape": ([tensor("row", [1, 8, 8], "FP32", ROW)], "it must be [rows, 64]"),
    "too few values": ([tensor("row", [2, 64], "FP32", ROW)], "its shape says 128"),
    "negative": ([tensor("row", [-1, 64], "FP32", ROW)], "at least 1"),
    "huge": ([tensor("row", [10**12, 64], "FP32", ROW)], "at most 1000"),
    "texts": ([tensor("row", [1, 64], "BYTES", ["a"] * 64)], "not FP32"),
    "ragged": ([tensor("row", [1, 64], "FP32", [ROW, 1])], "its shape says 64"),
    "unknown type": ([tensor("row", [1, 64], "FP8", ROW)], "Invalid enum value"),
    "twice": ([tensor("row", [1, 64], "FP32", ROW)] * 2, "are named 'row'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_tensors_are_refused_with_one_sentence(app, name):
    inputs, sentence = REFUSED[name]
    answer = app().post("/v2/models/digits/infer", {"inputs": inputs})
    assert answer.status == 422
    assert sentence in answer.json["detail"]
    assert answer.json["error"] == answer.json["detail"]


def test_an_unknown_output_model_or_version_is_said(app):
    asked = {"inputs": [tensor("row", [1, 64], "FP32", ROW)], "outputs": [{"name": "x"}]}
    client = app(model_version=17)
    assert client.post("/v2/models/digits/infer", asked).status == 422
    for path in ("/v2/models/other", "/v2/models/digits/versions/16", "/v2/models/other/ready"):
        assert client.get(path).status == 404
    assert client.post("/v2/models/other/infer", asked).status == 404


def test_the_binary_extension_is_refused_as_a_media_type(app):
    headers = {"Content-Type": "application/json", "Inference-Header-Content-Length": "10"}
    answer = app().ask("POST", "/v2/models/digits/infer", b"{}", headers)
    assert answer.status == 415


def test_binary_tensors_are_refused_in_words_that_say_what_to_send(app):
    headers = {"Content-Type": "application/json", "Inference-Header-Content-Length": "10"}
    answer = app().ask("POST", "/v2/models/digits/infer", b"{}", headers)
    assert answer.status == 415
    assert answer.json["error"] == answer.json["detail"]
    assert "binary tensor data extension" in answer.json["detail"]
