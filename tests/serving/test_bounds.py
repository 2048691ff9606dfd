"""What comes in is bounded: size, time, pictures, and how much is worked on at once."""

from __future__ import annotations

import base64
import io
import socket
import struct
import threading
import time
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.asking import digit, picture_of

from tandem.serving.admission import Gate
from tandem.serving.bodies import Bodies, content_length
from tandem.serving.pictures import grey, open_picture
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


def test_more_rows_or_images_than_the_limit_are_refused(app):
    client = app(max_rows=2, max_images=1)
    row = digit(0)[0]
    assert client.post("/score", {"rows": [row] * 2}).status == 200
    answer = client.post("/score", {"rows": [row] * 3})
    assert (answer.status, answer.json["detail"]) == (422, "3 rows are too many: at most 2.")
    answer = client.post("/score", {"images": [picture_of(row)] * 2})
    assert (answer.status, answer.json["detail"]) == (422, "2 images are too many: at most 1.")


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
    assert service.gate_for(b'{"images": []}') is service.gate_for(b" " * 100_000) is service.gate
    held = service.gate.enter()
    row = digit(0)[0]
    assert client.post("/score", {"rows": [row]}).status == (200 if service.model.quick else 503)
    assert client.post("/score", {"images": [picture_of(row)]}).status == 503
    service.gate.leave(held)


def png(width: int, height: int, data: bytes) -> str:
    """A PNG with that header, whatever is in it."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checked = kind + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + parts).decode()


def test_a_decompression_bomb_is_refused_unopened(app):
    bomb = png(30_000, 30_000, zlib.compress(bytes(30_001) * 300))
    answer = app().post("/score", {"images": [bomb]})
    assert answer.status == 422
    assert "pixels" in answer.json["detail"]


def test_a_picture_within_the_decoder_s_bound_but_not_ours_is_refused(app):
    stream = io.BytesIO()
    Image.new("1", (3000, 1000)).save(stream, "PNG")
    asked = {"images": [base64.b64encode(stream.getvalue()).decode()]}
    answer = app(max_pixels=2_999_999).post("/score", asked)
    assert answer.status == 422
    assert "3000 by 1000 pixels, at most 2999999" in answer.json["detail"]
    assert app().post("/score", asked).status == 200


def blank(width: int, height: int, kind: str = "PNG") -> str:
    stream = io.BytesIO()
    Image.new("1", (width, height)).save(stream, kind)
    return base64.b64encode(stream.getvalue()).decode()


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_all_pictures_of_a_request_have_so_many_pixels_at_most(app, kind):
    client = app(max_request_pixels=30_000)
    asked = {"images": [blank(100, 100, kind)] * 3}
    assert client.post("/score", asked).status == 200
    asked["images"].append(blank(1, 1, kind))
    answer = client.post("/score", asked)
    assert answer.status == 413
    told = "The images have 30001 pixels together, at most 30000 are taken in one request."
    assert answer.json["detail"] == told


def test_pixels_are_counted_before_any_is_unpacked(app, monkeypatch):
    monkeypatch.setattr("tandem.serving.pictures.grey", lambda *_: pytest.fail("unpacked"))
    bombs = [png(4000, 4000, b"not even compressed")] * 3
    assert app().post("/score", {"images": bombs}).status == 413
    answer = app().post("/score", {"images": [*bombs, "bm9uZQ=="]})
    assert (answer.status, "Image 3" in answer.json["detail"]) == (422, True)


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (2100, 1), (2, 2), (9, 8)])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_pictures_of_every_size_and_mode_get_an_answer(app, size, mode):
    stream = io.BytesIO()
    if mode == "I;16":
        Image.fromarray(np.full(size[::-1], 40_000, dtype=np.uint16)).save(stream, "PNG")
    else:
        Image.new(mode, size).save(stream, "PNG")
    asked = {"images": [base64.b64encode(stream.getvalue()).decode()]}
    assert app().post("/score", asked).status == 200


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
