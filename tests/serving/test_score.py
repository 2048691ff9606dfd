"""POST /score: what it answers, and what it refuses with which status."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest
from support.asking import digit

from tandem.model.package import Golden


def test_rows_get_their_three_best_labels(app):
    row, truth = digit(3)
    answer = app(model_version=17).post("/score", {"rows": [row, row]})
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json["model"] == {"name": "digits", "version": 17}
    assert answer.json["milliseconds"] > 0
    first, second = answer.json["predictions"]
    assert first["labels"][0] == str(truth)
    assert len(first["labels"]) == len(first["probabilities"]) == 3
    assert first["probabilities"] == sorted(first["probabilities"], reverse=True)
    assert first["labels"] == second["labels"]


@pytest.mark.parametrize("kind", ["digits", "iris", "diabetes", "mixed", "words"])
def test_every_kind_of_model_gives_its_golden_answers(app, packages, kind):
    golden = msgspec.json.decode((packages(kind) / "golden.json").read_bytes(), type=Golden)
    answer = app(kind).post("/score", {"rows": golden.inputs})
    assert answer.status == 200, answer.body
    for said, wanted in zip(answer.json["predictions"], golden.predictions, strict=True):
        if wanted.value is not None:
            assert said["value"] == pytest.approx(wanted.value, rel=1e-3, abs=golden.tolerance)
        else:
            assert said["labels"][0] == wanted.labels[0]
            assert said["probabilities"] == pytest.approx(
                wanted.probabilities, abs=golden.tolerance
            )


def test_features_can_be_given_by_name_in_any_order(app):
    by_name = {
        "petal width (cm)": 2.3,
        "sepal length (cm)": 6.7,
        "petal length (cm)": 5.2,
        "sepal width (cm)": 3,
    }
    answer = app("iris").post("/score", {"rows": [by_name, [6.7, 3.0, 5.2, 2.3]]})
    first, second = answer.json["predictions"]
    assert first == second
    assert first["labels"][0] == "virginica"


def test_text_features_and_texts_are_taken(app):
    answer = app("mixed").post("/score", {"rows": [{"colour": "red", "size": 1}, ["blue", 0.5]]})
    assert [each["labels"][0] for each in answer.json["predictions"]] == ["yes", "no"]
    answer = app("words").post("/score", {"rows": ["a good day", ["bad"]]})
    assert [each["labels"][0] for each in answer.json["predictions"]] == ["good", "bad"]


REFUSED = {
    "not JSON": (b"{", 400, "not valid JSON"),
    "unknown": (b'{"images": []}', 422, "unknown field `images`"),
    "not UTF-8": (b'{"rows": \xff}', 400, "not valid JSON"),
    "a list": (b"[]", 422, "Expected `object`"),
    "nothing": (b"{}", 422, 'must have "rows"'),
    "no rows": (b'{"rows": []}', 422, "empty"),
    "short row": (b'{"rows": [[1, 2]]}', 422, "Row 0 has 2 values, the model takes 64"),
    "text": (b'{"rows": [["a"]]}', 422, "got `str` - at `$.rows[0][0]`"),
    "by name": (b'{"rows": [{"a": 1}]}', 422, "got `object`"),
    "missing": (b'{"rows": [[null' + b",0" * 63 + b"]]}", 422, "row 0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_questions_get_one_sentence_and_a_status(app, name):
    body, status, sentence = REFUSED[name]
    answer = app().ask("POST", "/score", body, {"Content-Type": "application/json"})
    assert answer.status == status, answer.body
    assert answer.headers["content-type"] == "application/problem+json"
    assert sentence in answer.json["detail"]
    assert answer.json["status"] == status
    assert answer.json["title"]


def test_features_by_wrong_names_are_refused_by_name(app):
    row = dict.fromkeys(["sepal length (cm)", "sepal width (cm)", "petal length (cm)"], 1.0)
    answer = app("iris").post("/score", {"rows": [row]})
    assert (answer.status, answer.json["detail"]) == (
        422,
        "Row 0 lacks the feature 'petal width (cm)'.",
    )
    answer = app("iris").post("/score", {"rows": [{**row, "petal width (cm)": 1, "x": 2}]})
    assert answer.json["detail"] == "Row 0 has an unknown feature 'x'."


def test_one_row_gets_the_same_from_many_threads_as_in_a_batch(app):
    client = app()
    rows = [digit(number)[0] for number in range(40)]
    together = client.post("/score", {"rows": rows}).json["predictions"]
    with ThreadPoolExecutor(8) as pool:
        alone = list(pool.map(lambda row: client.post("/score", {"rows": [row]}), rows))
    assert {answer.status for answer in alone} <= {200, 503}
    for answer, expected in zip(alone, together, strict=True):
        if answer.status == 200:
            found = answer.json["predictions"][0]
            assert found["labels"] == expected["labels"]
            assert found["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-6)


def test_a_value_too_large_for_the_model_s_numbers_is_infinite_however_many_rows(app):
    row = [1e300, *digit(0)[0][1:]]
    said = [app().post("/score", {"rows": [row] * many}) for many in (1, 2)]
    assert said[0].status == said[1].status
