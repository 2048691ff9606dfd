"""What comes in is bounded: size, time, and how much is worked on at once."""

from __future__ import annotations

import io
import socket
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.asking import digit

from tandem.serving.admission import Gate
from tandem.serving.bodies import Bodies, content_length
from tandem.serving.problems import Problem


def test_a_body_that_is_far_too_long_is_not_even_read():
    class Unread:
        def read(self, size: int) -> bytes:
            raise AssertionError("read")

    with pytest.raises(Problem) as refused:
        Bodies(most=1, seconds=5).read(Unread(), 41, limit=10)
    assert refused.value.status == 413


def test_a_body_that_is_too_long_is_refused(app):
    client = app(max_body_bytes=1000)
    answer = client.ask("POST", "/score", b"x" * 1001, {"Content-Type": "application/json"})
    assert answer.status == 413
    assert answer.json["detail"] == "At most 1000 bytes are taken, the body has 1001 bytes."
    assert answer.headers["connection"] == "close"


def test_bodies_without_a_length_are_bounded_too():
    bodies = Bodies(most=1, seconds=5)
    assert bodies.read(io.BytesIO(b"abc"), None, limit=3) == b"abc"
    with pytest.raises(Problem, match="At most 3 bytes") as refused:
        bodies.read(io.BytesIO(b"abcd"), None, limit=3)
    assert refused.value.status == 413


def test_a_body_cut_short_is_not_taken_for_a_whole_one():
    with pytest.raises(Problem, match="ended after 2 of 3 bytes") as refused:
        Bodies(most=1, seconds=5).read(io.BytesIO(b"ab"), 3, limit=10)
    assert refused.value.status == 400


def test_a_body_that_trickles_is_given_up():
    class Slow:
        def read(self, size: int) -> bytes:
            time.sleep(0.02)
            return b"x"

    bodies = Bodies(most=1, seconds=0.1)
    with pytest.raises(Problem) as refused:
        bodies.read(Slow(), 1000, limit=2000)
    assert refused.value.status == 408
    assert not bodies.reading


class Stuck:
    """A body whose end comes when it is told to."""

    def __init__(self, *parts: bytes) -> None:
        self.parts = list(parts)
        self.reached, self.go = threading.Event(), threading.Event()

    def read(self, size: int) -> bytes:
        if self.parts:
            return self.parts.pop(0)
        self.reached.set()
        self.go.wait(10)
        return b""


def test_bodies_that_are_not_whole_hold_only_so_much_at_once():
    stuck, bodies = Stuck(b"first", b"a" * 15), Bodies(most=1, seconds=5)
    reader = threading.Thread(target=lambda: bodies.read(stuck, None, 20))
    reader.start()
    stuck.reached.wait(10)
    assert len(bodies.reading) == 1
    with pytest.raises(Problem) as refused:
        bodies.read(Stuck(b"first", b"b" * 10), None, 20)
    assert (refused.value.status, refused.value.headers["Retry-After"]) == (503, "1")
    assert bodies.read(io.BytesIO(b"a"), None, 20) == b"a", "what comes at once holds nothing"
    stuck.go.set()
    reader.join()
    assert bodies.read(Stuck(b"first", b"b" * 10, b""), 15, 20) == b"first" + b"b" * 10
    assert not bodies.reading


@pytest.mark.parametrize(
    ("text", "length"),
    [("12", 12), ("", None), (None, None), ("-1", None), ("1e3", None), ("9" * 30, None)],
)
def test_only_a_plain_number_is_taken_for_a_length(text, length):
    assert content_length({} if text is None else {"CONTENT_LENGTH": text}) == length


def test_more_rows_than_the_limit_are_refused(app):
    client = app(max_rows=2)
    row = digit(0)[0]
    assert client.post("/score", {"rows": [row] * 2}).status == 200
    answer = client.post("/score", {"rows": [row] * 3})
    assert (answer.status, answer.json["detail"]) == (422, "3 rows are too many: at most 2.")


def test_a_gate_lets_as_many_in_as_it_has_slots_and_seats():
    gate = Gate(slots=1, seats=1, patience=5)
    first = gate.enter()
    second = threading.Thread(target=lambda: gate.leave(gate.enter()))
    second.start()
    while not gate.waiting:
        time.sleep(0.001)
    with pytest.raises(Problem) as refused:
        gate.enter()
    assert refused.value.status == 503
    assert int(refused.value.headers["Retry-After"]) >= 1
    gate.leave(first)
    second.join()
    gate.leave(gate.enter())


def test_nobody_waits_longer_than_the_patience():
    gate = Gate(slots=1, seats=5, patience=0.05)
    entered = gate.enter()
    began = time.monotonic()
    with pytest.raises(Problem):
        gate.enter()
    assert time.monotonic() - began >= 0.05
    gate.leave(entered - 100)  # as if it had taken 100 s: now nobody needs to try
    entered = gate.enter()
    with pytest.raises(Problem) as refused:
        gate.enter()
    assert int(refused.value.headers["Retry-After"]) >= 10
    gate.leave(entered)


def test_overload_is_answered_by_the_service_with_retry_after(app):
    client = app(slots=1, threads=4, patience_seconds=0.0)
    gate = client.service.scoring.gate_for(b'{"rows": []}')
    held = gate.enter()
    answer = client.post("/score", {"rows": [digit(0)[0]]})
    assert answer.status == 503
    assert answer.headers["retry-after"] == "1"
    assert client.get("/healthz").status == 200
    gate.leave(held)
    assert client.post("/score", {"rows": [digit(0)[0]]}).status == 200
    assert "tandem_turned_away_total 1.0" in client.get("/metrics").body.decode()


def test_long_work_does_not_hold_up_the_quick(app):
    client = app(slots=1, threads=4, patience_seconds=0.0)
    service = client.service.scoring
    assert service.gate_for(b" " * 100_000) is service.gate
    held = service.gate.enter()
    row = digit(0)[0]
    assert client.post("/score", {"rows": [row]}).status == (200 if service.model.quick else 503)
    assert client.post("/score", {"rows": [row] * 500}).status == 503
    service.gate.leave(held)


def test_any_bytes_as_a_body_are_a_4xx(app):
    client = app()

    @settings(max_examples=100, deadline=None, database=None, derandomize=True)
    @given(data=st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode()))
    def refused(data):
        for path in ("/score", "/v2/models/digits/infer"):
            answer = client.ask("POST", path, data, {"Content-Type": "application/json"})
            assert answer.status in (400, 422)

    refused()


def test_deeply_nested_json_is_a_400_or_422(app):
    for data in (b"[" * 100_000, b'{"rows":' + b"[" * 50_000 + b"]" * 50_000 + b"}"):
        answer = app().ask("POST", "/score", data, {"Content-Type": "application/json"})
        assert answer.status in (400, 422)


def raw(running, *lines: bytes, end: bytes = b"\r\n") -> bytes:
    """What the service answers to a head as it is written here."""
    with socket.create_connection(("127.0.0.1", running.port), timeout=20) as connection:
        connection.sendall(end.join([*lines, b"Connection: close", b"", b""]))
        answer = b""
        while part := connection.recv(65536):
            answer += part
    return answer


def test_a_head_names_one_host_and_no_header_in_disguise(start):
    running = start()
    first = b"GET /version HTTP/1.1"
    assert raw(running, first, b"Host: x").startswith(b"HTTP/1.1 200")
    assert raw(running, b"GET /version HTTP/1.0").startswith(b"HTTP/1.0 200")
    assert raw(running, first, b"Host: x", end=b"\n").startswith(b"HTTP/1.1 200"), "RFC 9112, 2.2"
    for hosts in ([], [b"Host:"], [b"Host: "], [b"Host: x", b"Host: y"], [b"Host: x", b"Host: x"]):
        answer = raw(running, first, *hosts)
        assert answer.startswith(b"HTTP/1.1 400"), hosts
    post = b"POST /score HTTP/1.1", b"Host: x", b"Content-Length: 0"
    for disguise in (b"Content_Length: 5", b"Content_Type: application/json"):
        assert b"with a hyphen" in raw(running, *post, disguise)


def test_a_key_under_another_name_must_be_right_too(start):
    """WSGI cannot tell X_API_Key from X-API-Key: whichever is sent last counts."""
    running = start(TANDEM_API_KEYS="right-right-right")
    head = b"POST /score HTTP/1.1", b"Host: x", b"Content-Length: 0"
    right, wrong = b"right-right-right", b"wrong-wrong-wrong"
    assert raw(running, *head, b"X-API-Key: " + right).startswith(b"HTTP/1.1 415")  # past the key
    for name in (b"X-API-Key: ", b"X_API_Key: ", b"x-api_key: "):
        assert raw(running, *head, name + wrong).startswith(b"HTTP/1.1 401")
    both = b"X-API-Key: " + wrong, b"X-API-Key: " + right
    assert raw(running, *head, *both).startswith(b"HTTP/1.1 401"), "sent twice it is one long key"
