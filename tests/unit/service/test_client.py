"""Asking a service: what counts as ready, and as the same answer."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tandem.errors import ImageFault, TargetError
from tandem.model.package import Golden, Prediction
from tandem.service import client

VERSION = {
    "app": {"name": "digits", "commit": "c" * 40},
    "model": {"name": "digits", "version": 17, "digest": "sha256:m", "runtime": "onnx"},
    "image": {"digest": "sha256:i"},
    "libraries": {"numpy": "2"},
    "more": "that a newer service may tell",
}


@pytest.fixture
def service() -> Iterator[tuple[str, dict[str, Any]]]:
    """A server that answers each path with what the dictionary says: (status, bytes)."""
    answers: dict[str, Any] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, data = answers.get(self.path, (404, b""))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", answers
        server.shutdown()
        thread.join()


def golden(tolerance: float = 1e-5, **prediction: Any) -> Any:
    return Golden([[1.0, 2.0]], [], [Prediction(**prediction)], tolerance)


def said(**prediction: Any) -> tuple[int, bytes]:
    return 200, json.dumps({"predictions": [prediction]}).encode()


def test_the_version_is_read_and_what_is_unknown_ignored(service: Any) -> None:
    url, answers = service
    answers["/version"] = (200, json.dumps(VERSION).encode())
    assert client.check_version(url, digest="sha256:i").model.version == 17


@pytest.mark.parametrize(
    ("answer", "match"),
    [
        ((200, json.dumps(VERSION).encode()), "says image sha256:i, not sha256:other"),
        ((200, b"{}"), "not in the shape"),
        ((200, b"<html>"), "not JSON"),
        ((500, b"oops"), "answered 500: oops"),
    ],
)
def test_a_wrong_version_is_one_line(service: Any, answer: Any, match: str) -> None:
    url, answers = service
    answers["/version"] = answer
    with pytest.raises(TargetError, match=match):
        client.check_version(url, digest="sha256:other")


def test_answers_within_the_tolerance_are_the_same(service: Any) -> None:
    url, answers = service
    answers["/score"] = said(labels=["7", "1"], probabilities=[0.9, 0.1000009])
    report = client.ask_golden(url, golden(labels=["7", "1"], probabilities=[0.9, 0.1]))
    assert report.questions == 1
    assert report.largest_difference == pytest.approx(9e-7)


def test_a_tie_that_falls_the_other_way_is_the_same_answer(service: Any) -> None:
    url, answers = service
    answers["/score"] = said(labels=["1", "7"], probabilities=[0.5000001, 0.4999999])
    client.ask_golden(url, golden(labels=["7", "1"], probabilities=[0.5, 0.5]))


@pytest.mark.parametrize(
    ("answer", "match"),
    [
        (said(labels=["1", "7"], probabilities=[0.9, 0.1]), "answered '1', recorded was '7'"),
        (said(labels=["7", "1"], probabilities=[0.8, 0.2]), "answered 0.8, recorded was 0.9"),
        (said(labels=["7", "1"], probabilities=[None, 0.1]), "expected a number"),
        (said(labels=["7"], probabilities=[0.9, 0.1]), "1 labels with 2"),
        (said(error="no"), "expected labels"),
        ((200, b'{"predictions": []}'), "expected 1 predictions, got 0"),
        ((422, b'{"error": "rows are too short"}'), "rows are too short"),
    ],
)
def test_another_answer_is_named(service: Any, answer: Any, match: str) -> None:
    url, answers = service
    answers["/score"] = answer
    with pytest.raises(TargetError, match=match):
        client.ask_golden(url, golden(labels=["7", "1"], probabilities=[0.9, 0.1]))


def test_waiting_ends_at_the_deadline_with_the_last_answer(service: Any) -> None:
    url, answers = service
    answers["/readyz"] = (503, b"")
    with pytest.raises(TargetError, match=r"not ready within 0\.1 s \(/readyz answered 503\)"):
        client.wait_ready(url, 0.1)


def test_a_service_is_ready_by_the_health_path_of_its_own(service: Any) -> None:
    url, answers = service
    answers["/health"] = (302, b"")
    client.wait_ready(url, 1.0, path="/health")
    with pytest.raises(TargetError, match=r"/readyz answered 404"):
        client.wait_ready(url, 0.1)
    # Without a path any answer shows that it is there.
    client.wait_ready(url, 1.0, path="")


def test_waiting_ends_at_once_when_nothing_can_come_any_more(service: Any) -> None:
    url, answers = service
    answers["/readyz"] = (503, b"")
    with pytest.raises(TargetError, match="stopped before it was ready"):
        client.wait_ready(url, 1e9, lambda: TargetError("exit code 1"))


def test_how_it_ended_says_whether_that_is_a_verdict(service: Any) -> None:
    url, answers = service
    # Also where somebody else answers at its port by now.
    for status in (503, 200):
        answers["/readyz"] = (status, b"")
        with pytest.raises(ImageFault, match="exit code 3"):
            client.wait_ready(url, 1e9, lambda: ImageFault("exit code 3"))
        with pytest.raises(TargetError, match="ended by SIGKILL") as caught:
            client.wait_ready(url, 1e9, lambda: TargetError("ended by SIGKILL"))
        assert not isinstance(caught.value, ImageFault)


def test_another_image_at_the_url_is_no_verdict_on_this_one(service: Any) -> None:
    url, answers = service
    answers["/version"] = (200, json.dumps(VERSION).encode())
    with pytest.raises(TargetError, match="not sha256:other") as caught:
        client.check_version(url, digest="sha256:other")
    assert not isinstance(caught.value, ImageFault)
    answers["/version"] = (200, json.dumps({**VERSION, "image": {"digest": None}}).encode())
    with pytest.raises(ImageFault, match="says image None"):
        client.check_version(url, digest="sha256:other")


def test_nobody_there_is_one_line() -> None:
    with pytest.raises(TargetError, match="does not answer: Connection refused"):
        client.version("http://127.0.0.1:1")


def test_values_may_differ_by_a_part_in_a_thousand(service: Any) -> None:
    url, answers = service
    answers["/score"] = said(value=[100.05, 3])
    client.ask_golden(url, golden(value=[100.0, 3.0]))
    with pytest.raises(TargetError, match=r"value 0: answered 100\.05, recorded was 99"):
        client.ask_golden(url, golden(value=[99.0, 3.0]))
    with pytest.raises(TargetError, match="answered 2 values, recorded were 1"):
        client.ask_golden(url, golden(value=100.0))
