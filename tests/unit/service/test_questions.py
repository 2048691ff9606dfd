"""Questions of an app's own: what is sent, what counts as right, and how a wrong one is named."""

from __future__ import annotations

import email
import email.policy
import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.answering import Answering, answering

from tandem.errors import ImageFault, SettingError, TargetError
from tandem.service.question_tables import read_questions
from tandem.service.questions import Question, ask_questions


@pytest.fixture
def service() -> Iterator[Answering]:
    with answering() as running:
        yield running


def questions(text: str, folder: Path) -> tuple[Question, ...]:
    tables = tomllib.loads(text.replace("[[question]]", "[[tool.tandem.app.question]]"))
    return read_questions(tables["tool"]["tandem"]["app"]["question"], folder)


def test_a_table_with_a_path_alone_is_a_get_that_expects_200(
    service: Answering, tmp_path: Path
) -> None:
    service.answers["/"] = (200, b"hello")
    report = ask_questions(service.url, questions("[[question]]\npath = '/'", tmp_path))
    assert report.questions == 1
    assert service.asked[0].method == "GET"
    assert "content-type" not in service.asked[0].headers


def test_json_is_posted_and_parts_of_the_answer_are_compared(
    service: Answering, tmp_path: Path
) -> None:
    text = """
        [[question]]
        path = "/predict"
        headers = { Accept = "application/json" }
        json = { sepal = 5.1, names = ["a"] }
        expect.json.label = "setosa"
        expect.json.scores = [0.98, 0.02]
        expect.json.model.fresh = true
        expect.tolerance = 0.01
    """
    answer = {"label": "setosa", "scores": [0.975, 0.025], "model": {"fresh": True, "more": 1}}
    service.answers["/predict"] = (200, json.dumps(answer).encode())
    ask_questions(service.url, questions(text, tmp_path))
    asked = service.asked[0]
    assert (asked.method, json.loads(asked.body)) == ("POST", {"sepal": 5.1, "names": ["a"]})
    assert asked.headers["content-type"] == "application/json"
    assert asked.headers["accept"] == "application/json"


def test_a_form_is_sent_as_a_browser_sends_it(service: Answering, tmp_path: Path) -> None:
    text = """
        [[question]]
        path = "/"
        form = { length = 5.1, name = "ä b", fresh = true }
        expect.status = [200, 302]
        expect.text = "Setosa"
    """
    service.answers["/"] = (302, b"<b>Setosa</b>")
    ask_questions(service.url, questions(text, tmp_path))
    assert service.asked[0].body == b"length=5.1&name=%C3%A4+b&fresh=true"
    assert service.asked[0].headers["content-type"] == "application/x-www-form-urlencoded"


def test_a_file_of_the_commit_is_uploaded_with_the_form(service: Answering, tmp_path: Path) -> None:
    picture = bytes(range(256))
    (tmp_path / "cat.png").write_bytes(picture)
    text = """
        [[question]]
        path = "/upload"
        form = { top = 3 }
        files = { image = "cat.png" }
    """
    service.answers["/upload"] = (200, b"cat")
    asked_for = questions(text, tmp_path)
    assert asked_for == questions(text, tmp_path), "the same bytes each time"
    ask_questions(service.url, asked_for)
    asked = service.asked[0]
    head = f"Content-Type: {asked.headers['content-type']}\r\n\r\n".encode()
    message = email.message_from_bytes(head + asked.body, policy=email.policy.HTTP)
    field, upload = message.iter_parts()
    assert (field.get_param("name", header="content-disposition"), field.get_content()) == (
        "top",
        "3",
    )
    assert (upload.get_filename(), upload.get_content_type()) == ("cat.png", "image/png")
    assert upload.get_payload(decode=True) == picture


def test_a_file_may_be_the_whole_body(service: Answering, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("1,2\n")
    service.answers["/rows"] = (200, b"")
    text = "[[question]]\npath = '/rows'\nmethod = 'put'\nfile = 'rows.csv'"
    ask_questions(service.url, questions(text, tmp_path))
    asked = service.asked[0]
    assert (asked.method, asked.body, asked.headers["content-type"]) == (
        "PUT",
        b"1,2\n",
        "text/csv",
    )


def test_a_question_is_kept_as_json_with_all_it_sends(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(b"\xff\x00")
    (question,) = questions("[[question]]\npath = '/x'\nfile = 'x.bin'", tmp_path)
    assert msgspec.json.decode(msgspec.json.encode(question), type=Question) == question


@pytest.mark.parametrize(
    ("expect", "answer", "wrong"),
    [
        ("status = 201", b"{}", r"POST /p at http://[^:]+:\d+: expected status 201, got 200: \{\}"),
        ("json.label = 'a'", b'{"label": "b"}', 'expected "a" as label, got "b"'),
        ("json.label = 'a'", b'{"other": 1}', r"expected 'label' in the answer, got \[\"other\"\]"),
        ("json.a.b = 'x'", b'{"a": [1]}', r"expected an object as a, got \[1\]"),
        ("json.a = [1, 2]", b'{"a": [1]}', r"expected a list of 2 as a, got \[1\]"),
        ("json.a = [1, {b = 2}]", b'{"a": [1, {"b": 3}]}', r"expected 2 as a\[1\].b, got 3"),
        ("json.a = 1", b'{"a": true}', "expected 1 as a, got true"),
        ("json.a = 1.0\nexpect.tolerance = 0.1", b'{"a": 1.2}', r"expected 1\.0 as a, got 1\.2"),
        ("json.a = 1.0", b'{"a": null}', r"expected 1\.0 as a, got null"),
        ("json.a = 1.0", b"<html>", "expected JSON, got '<html>'"),
        ("text = ['b', 'c']", b"ab", "expected 'c' in the answer, got 'ab'"),
    ],
)
def test_a_wrong_answer_is_one_clear_line(
    service: Answering, tmp_path: Path, expect: str, answer: bytes, wrong: str
) -> None:
    service.answers["/p"] = (200, answer)
    text = f"[[question]]\npath = '/p'\nbody = 'x'\nexpect.{expect}"
    with pytest.raises(ImageFault, match=wrong) as caught:
        ask_questions(service.url, questions(text, tmp_path))
    assert "\n" not in str(caught.value)


def test_health_that_is_green_while_every_prediction_fails_is_found(
    service: Answering, tmp_path: Path
) -> None:
    service.answers |= {"/health": (200, b"ok"), "/predict": (500, b"Internal\n Server Error")}
    text = "[[question]]\npath = '/health'\n[[question]]\npath = '/predict'\nbody = ''"
    with pytest.raises(ImageFault, match="expected status 200, got 500: Internal Server Error"):
        ask_questions(service.url, questions(text, tmp_path))


def test_a_busy_service_is_no_verdict_unless_that_is_expected(
    service: Answering, tmp_path: Path
) -> None:
    service.answers["/"] = (503, b"later")
    with pytest.raises(TargetError, match="got 503: later") as caught:
        ask_questions(service.url, questions("[[question]]\npath = '/'", tmp_path))
    assert not isinstance(caught.value, ImageFault)
    ask_questions(service.url, questions("[[question]]\npath = '/'\nexpect.status = 503", tmp_path))


def test_nobody_there_is_no_verdict(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="does not answer: Connection refused") as caught:
        ask_questions("http://127.0.0.1:1", questions("[[question]]\npath = '/'", tmp_path))
    assert not isinstance(caught.value, ImageFault)


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("pathh = '/'", r"question\]\] number 1: Object contains unknown field `pathh`"),
        ("expect.statsu = 1", r"unknown field `statsu` - at `\$\.expect`"),
        ("path = 'predict'", r"path = 'predict', expected a path such as '/predict'"),
        ("path = 5", "Expected `str`, got `int`"),
        ("method = 'GET /'", r"expected one such as GET or POST"),
        ('headers = { X = "a\\nb" }', "a header contains a line break"),
        ("body = 'x'\nform = { a = 1 }", "it has form and body; a question sends one of them"),
        ("file = 'nowhere.png'", "the commit has no file 'nowhere.png'"),
        ("file = '../outside.png'", "the commit has no file"),
        ("seconds = 500", "seconds = 500, expected at most 120"),
        ("expect.tolerance = -1.0", "tolerance is below zero"),
    ],
)
def test_a_table_that_is_wrong_is_named(tmp_path: Path, line: str, wrong: str) -> None:
    (tmp_path / "outside.png").write_bytes(b"")
    folder = tmp_path / "commit"
    folder.mkdir()
    with pytest.raises(SettingError, match=wrong):
        questions(f"[[question]]\n{line}", folder)


def test_a_link_out_of_the_commit_is_no_file_of_it(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    folder = tmp_path / "commit"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(SettingError, match="the commit has no file 'link'"):
        questions("[[question]]\nfile = 'link'", folder)


def test_a_file_that_is_too_large_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tandem.service.question_tables.MOST_SENT", 3)
    (tmp_path / "big").write_text("1234")
    with pytest.raises(SettingError, match="big is larger than"):
        questions("[[question]]\nfile = 'big'", tmp_path)


def test_a_mapping_of_any_kind_is_a_table(tmp_path: Path) -> None:
    table: Any = {"path": "/", "expect": {"json": {"a": 1}}}
    assert read_questions([table], tmp_path)[0].expected.json == {"a": 1}
