"""Pictures as a question: read as the model was trained, bounded, and refused in words."""

from __future__ import annotations

import base64
import io
import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.asking import REPOSITORY, digit, picture_of

from serving.pictures import Bounds, grey, open_picture
from tandem.errors import SettingError
from tandem.serving.problems import Problem


@pytest.mark.parametrize("number", [0, 1, 2, 10, 20])
@pytest.mark.parametrize("dark", [True, False])
def test_a_picture_of_the_models_size_is_the_row_itself(example, number, dark):
    row, _ = digit(number)
    client = example()
    by_row = client.post("/score", {"rows": [row]}).json["predictions"][0]
    picture = picture_of(row, dark=dark)
    by_picture = client.post("/score", {"images": [picture]}).json["predictions"][0]
    assert by_picture["labels"][0] == by_row["labels"][0]
    assert by_picture["probabilities"] == pytest.approx(by_row["probabilities"], abs=0.02)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_large_picture_is_cut_to_its_ink_and_read(example, kind):
    numbers = [0, 1, 2, 3, 4, 6, 7, 10, 11, 12]
    pictures = [picture_of(digit(number)[0], size=200, kind=kind) for number in numbers]
    pictures[0] = "data:image/png;base64," + pictures[0]
    answer = example().post("/score", {"images": pictures})
    assert answer.status == 200, answer.body
    said = [each["labels"][0] for each in answer.json["predictions"]]
    right = sum(label == str(digit(n)[1]) for label, n in zip(said, numbers, strict=True))
    assert right >= 9, said


def png(width: int, height: int, data: bytes) -> str:
    """A PNG with that header, whatever is in it."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checked = kind + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + parts).decode()


def test_a_decompression_bomb_is_refused_unopened(example):
    bomb = png(30_000, 30_000, zlib.compress(bytes(30_001) * 300))
    answer = example().post("/score", {"images": [bomb]})
    assert answer.status == 422
    assert "pixels" in answer.json["detail"]


def test_a_picture_within_the_decoder_s_bound_but_not_ours_is_refused(example):
    stream = io.BytesIO()
    Image.new("1", (3000, 1000)).save(stream, "PNG")
    asked = {"images": [base64.b64encode(stream.getvalue()).decode()]}
    answer = example(bounds=Bounds(pixels=2_999_999)).post("/score", asked)
    assert answer.status == 422
    assert "3000 by 1000 pixels, at most 2999999" in answer.json["detail"]
    assert example().post("/score", asked).status == 200


def blank(width: int, height: int, kind: str = "PNG") -> str:
    stream = io.BytesIO()
    Image.new("1", (width, height)).save(stream, kind)
    return base64.b64encode(stream.getvalue()).decode()


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_all_pictures_of_a_request_have_so_many_pixels_at_most(example, kind):
    client = example(bounds=Bounds(request_pixels=30_000))
    asked = {"images": [blank(100, 100, kind)] * 3}
    assert client.post("/score", asked).status == 200
    asked["images"].append(blank(1, 1, kind))
    answer = client.post("/score", asked)
    assert answer.status == 413
    told = "The images have 30001 pixels together, at most 30000 are taken in one request."
    assert answer.json["detail"] == told


def test_pixels_are_counted_before_any_is_unpacked(example, monkeypatch):
    client = example()
    monkeypatch.setattr("serving.pictures.grey", lambda *_: pytest.fail("unpacked"))
    bombs = [png(4000, 4000, b"not even compressed")] * 3
    assert client.post("/score", {"images": bombs}).status == 413
    answer = client.post("/score", {"images": [*bombs, "bm9uZQ=="]})
    assert (answer.status, "Image 3" in answer.json["detail"]) == (422, True)


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (2100, 1), (2, 2), (9, 8)])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_pictures_of_every_size_and_mode_get_an_answer(example, size, mode):
    stream = io.BytesIO()
    if mode == "I;16":
        Image.fromarray(np.full(size[::-1], 40_000, dtype=np.uint16)).save(stream, "PNG")
    else:
        Image.new(mode, size).save(stream, "PNG")
    asked = {"images": [base64.b64encode(stream.getvalue()).decode()]}
    assert example().post("/score", asked).status == 200


SEEDS = [base64.b64decode(picture_of(digit(3)[0], size=24, kind=kind)) for kind in ("PNG", "JPEG")]


@settings(max_examples=100, deadline=None, database=None, derandomize=True)
@given(
    seed=st.sampled_from(SEEDS),
    changes=st.lists(st.tuples(st.integers(0, 2000), st.binary(max_size=6)), max_size=6),
    end=st.integers(0, 2000),
)
def test_damaged_pictures_are_read_or_refused_and_nothing_else(seed, changes, end):
    data = bytearray(seed)
    for place, new in changes:
        data[place % len(data) : place % len(data) + len(new)] = new
    text = base64.b64encode(bytes(data[: end or None])).decode()
    try:
        grey(open_picture(text, 0, 10**6), 0)
    except Problem as problem:
        assert problem.status == 422


def test_a_model_without_pictures_says_so(example):
    answer = example("iris").post("/score", {"images": ["AAAA"]})
    assert answer.status == 422
    assert answer.json["detail"] == 'The model iris takes "rows", not "images".'


REFUSED = {
    "nothing": (b"{}", 422, 'either "rows" or "images"'),
    "both": (b'{"images": [], "rows": []}', 422, 'either "rows" or "images"'),
    "no images": (b'{"images": []}', 422, "empty"),
    "not UTF-8": (b'{"images": ["\xff"]}', 400, "not valid JSON"),
    "not base64": (b'{"images": ["?"]}', 422, "Image 0 is not base64"),
    "not a picture": (b'{"images": ["AAAA"]}', 422, "Image 0 is not a whole PNG or JPEG"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_questions_get_one_sentence_and_a_status(example, name):
    body, status, sentence = REFUSED[name]
    answer = example().ask("POST", "/score", body, {"Content-Type": "application/json"})
    assert answer.status == status, answer.body
    assert sentence in answer.json["detail"]


def test_more_images_than_the_limit_are_refused(example):
    row = digit(0)[0]
    answer = example(bounds=Bounds(images=1)).post("/score", {"images": [picture_of(row)] * 2})
    assert (answer.status, answer.json["detail"]) == (422, "2 images are too many: at most 1.")


def test_pictures_wait_with_the_long_work(example):
    client = example(slots=1, threads=4, patience_seconds=0.0)
    scoring = client.service.scoring
    assert scoring.gate_for(b'{"images": []}') is scoring.gate
    held = scoring.gate.enter()
    assert client.post("/score", {"images": [picture_of(digit(0)[0])]}).status == 503
    scoring.gate.leave(held)


def test_without_a_release_the_recorded_model_answers():
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY)}
    program = (
        "import sys; from serving.app import app; client = app.test_client(); "
        "answer = client.post('/score', json={'images': [sys.argv[1]]}); "
        "print(answer.json['predictions'][0]['labels'][0], client.get('/').status_code)"
    )
    row, truth = digit(3)
    done = subprocess.run(
        [sys.executable, "-c", program, picture_of(row)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [str(truth), "200"]


def test_a_wrong_bound_is_named_with_its_value():
    assert Bounds.read({"DIGITS_MAX_IMAGES": "3"}) == Bounds(images=3)
    with pytest.raises(SettingError, match="DIGITS_MAX_PIXELS='many': expected"):
        Bounds.read({"DIGITS_MAX_PIXELS": "many"})


def test_the_api_s_description_has_both_ways_to_ask(example):
    document = example().get("/openapi.json").json
    rows, images = document["components"]["schemas"]["Score"]["oneOf"]
    assert (list(rows["properties"]), list(images["properties"])) == (["rows"], ["images"])
    assert "/" in document["paths"]
    answers = document["paths"]["/score"]["post"]["responses"]
    assert "pixels" in answers["413"]["description"]
    assert example().get("/version").json["model"]["inputs"] == ["rows", "images"]
    assert example("iris").get("/version").json["model"]["inputs"] == ["rows"]
