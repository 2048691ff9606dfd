"""A model must fit the code beside it: what it is asked and answers is as the commit says, or as it
is live.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tandem.model.interface import Takes, mismatch
from tandem.model.package import Feature, Manifest, Picture

PIXELS = [Feature(f"pixel{number}", "float32") for number in range(64)]
IRIS = [Feature("length", "float64"), Feature("width", "float32")]


def manifest(**given: Any) -> Manifest:
    values: dict[str, Any] = {
        "name": "tiny",
        "created": "",
        "task": "classification",
        "layout": "matrix",
        "features": IRIS,
        "labels": ["a", "b"],
        "runtime": "onnx",
        "runtime_reason": "",
        "files": [],
    }
    return Manifest(**values | given)


DIGITS = manifest(features=PIXELS, image=Picture(8, 8), labels=list("0123456789"))


def test_the_first_model_of_a_commit_that_says_nothing_fits() -> None:
    assert mismatch(DIGITS, None, None) == ""


def test_the_same_interface_fits_whatever_the_model_is_inside() -> None:
    other = manifest(features=[Feature("length", "float32"), Feature("width", "int64")])
    assert mismatch(other, manifest(), None) == "", "a number is a number to whoever asks"
    assert mismatch(manifest(labels=["b", "a"]), manifest(), None) == "", "labels go by name"
    table = manifest(layout="table", features=IRIS[::-1])
    assert mismatch(table, manifest(layout="table"), None) == "", "columns go by name"


@pytest.mark.parametrize(
    ("candidate", "words"),
    [
        (manifest(task="regression", labels=[]), "it does regression, what is live does"),
        (manifest(labels=["a", "c"]), "it answers also c and never answers b, unlike what is live"),
        (manifest(features=IRIS[:1]), "it takes 1 features: length (number), what is live takes 2"),
        (manifest(features=IRIS[::-1]), "in another order than what is live takes"),
        (
            manifest(layout="table", features=[IRIS[0], Feature("width", "str")]),
            "width (text), what is live takes",
        ),
        (
            manifest(features=[Feature("x", "float32", [2])]),
            "it takes rows of 2 numbers, what is live takes 2 features",
        ),
        (DIGITS, "it takes pictures of 8 x 8, what is live takes no pictures"),
    ],
)
def test_a_change_that_no_commit_announced_is_told_in_words(
    candidate: Manifest, words: str
) -> None:
    assert words in mismatch(candidate, manifest(), None)


def test_the_readmes_own_digits_without_a_picture_do_not_replace_the_live_ones() -> None:
    numbers = manifest(features=PIXELS, labels=DIGITS.labels)
    wrong = mismatch(numbers, DIGITS, None)
    assert wrong.startswith("it takes no pictures, what is live takes pictures of 8 x 8")
    assert mismatch(numbers, None, Takes(image=(8, 8))).startswith(
        "it takes no pictures, the commit takes pictures of 8 x 8"
    )


def test_what_the_commit_says_counts_and_the_rest_is_as_it_is_live() -> None:
    wider = manifest(labels=["a", "b", "c"])
    assert "answers also c" in mismatch(wider, manifest(), None)
    says = Takes(labels=["a", "b", "c"])
    assert mismatch(wider, manifest(), says) == ""
    assert "never answers c, unlike what the commit says" in mismatch(manifest(), manifest(), says)
    assert "it takes" in mismatch(msgspec.structs.replace(wider, features=IRIS[:1]), wider, says)


def test_a_commit_says_features_by_name_and_kind_or_by_their_number() -> None:
    by_name = Takes(features={"length": "number", "width": "number"})
    assert mismatch(manifest(), None, by_name) == ""
    assert mismatch(manifest(), None, Takes(features=2)) == ""
    assert "the commit takes 3 numbers" in mismatch(manifest(), None, Takes(features=3))
    text = manifest(layout="table", features=[Feature("length", "str"), IRIS[1]])
    assert "length (text)" in mismatch(text, None, by_name)
    assert mismatch(text, None, Takes(features=2))


def test_what_a_commit_says_of_its_model_is_checked() -> None:
    good = msgspec.convert({"image": [8, 8], "task": "classification"}, Takes)
    assert good == Takes(image=(8, 8), task="classification")
    for wrong in ({"image": [8]}, {"labels": "abc"}, {"colour": "red"}, {"task": "art"}):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(wrong, Takes)
