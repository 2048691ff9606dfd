"""One thread waits for requests; the others take its place when it is busy for longer."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable

import pytest
from support.asking import Running, digit

from tandem.serving.worker.granian import caller, has_read_all
from tandem.serving.worker.leader import Leader

ROW = json.dumps({"rows": [digit(0)[0]]}).encode()
JSON = {"Content-Type": "application/json"}


class Thread:
    """A thread that answers one request with `work`, and says when it would wait for the next."""

    def __init__(self, leader: Leader, work: Callable[[], object] = lambda: None) -> None:
        def run() -> None:
            leader.begin()
            work()
            leader.end()
            self.waits.set()

        self.waits = threading.Event()
        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()

    def parked(self) -> bool:
        return not self.waits.wait(0.1)


def led() -> Leader:
    """With this thread as the leader, which waits for its next request."""
    leader = Leader()
    leader.begin()
    leader.end()
    return leader


def parks(leader: Leader) -> bool:
    """Whether this thread is parked at the end of its request; then all are let go."""
    freed = threading.Timer(0.2, leader.close)
    freed.start()
    began = time.monotonic()
    leader.end()
    spent = time.monotonic() - began
    freed.join()
    return spent > 0.1


def test_one_thread_goes_back_to_wait_and_the_others_are_parked():
    leader = led()
    followers = [Thread(leader) for _ in range(3)]
    assert all(follower.parked() for follower in followers)
    leader.begin()
    leader.end()  # the same thread as ever
    leader.close()
    assert all(follower.waits.wait(5) for follower in followers)
    assert Thread(leader).waits.wait(5), "parked after the end"


def test_who_steps_down_is_replaced_by_one_that_was_parked_and_parks_then():
    leader = led()
    followers = [Thread(leader) for _ in range(2)]
    assert all(follower.parked() for follower in followers)
    leader.begin()
    leader.step_down()
    leader.step_down()  # once is enough
    time.sleep(0.1)
    assert [follower.waits.is_set() for follower in followers].count(True) == 1
    assert parks(leader), "two threads wait for requests"


def test_with_nobody_parked_the_next_to_end_leads():
    leader = led()
    leader.begin()
    leader.step_down()
    leader.end()  # nobody else came
    assert Thread(leader).parked()
    leader.close()


def test_while_something_takes_longer_nobody_is_parked():
    leader = led()
    done = threading.Event()

    def long() -> None:
        leader.step_down()
        done.wait(10)

    slow = Thread(leader, long)
    assert Thread(leader).waits.wait(5)
    done.set()
    assert slow.parked(), "the leader is still there"
    assert Thread(leader).parked()
    leader.close()


def test_a_leader_that_is_stuck_is_replaced():
    leader = led()
    leader.watch()
    follower = Thread(leader)
    assert follower.parked()
    leader.begin()
    assert follower.waits.wait(5), "nobody waits for requests"
    assert parks(leader), "two threads wait for requests"


def test_the_watch_ends_when_nothing_comes_and_begins_again(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tandem.serving.worker.leader.TICK", 0.001)
    monkeypatch.setattr("tandem.serving.worker.leader.QUIET", 5)
    leader = led()
    leader.watch()
    deadline = time.monotonic() + 5
    while leader._watched.is_set() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert not leader._watched.is_set()
    leader.begin()
    assert Thread(leader).waits.wait(5), "the leader is stuck, and nobody looked"
    leader.close()


class Proto:
    """What granian hands out with a request, and gets the answer by."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, list[tuple[str, str]], bytes]] = []

    def response_bytes(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.answers.append((status, headers, body))

    def response_iter(self, status: int, headers: list[tuple[str, str]], body: object) -> None:
        parts = []
        try:
            while True:
                parts.append(body.__next__())  # type: ignore[attr-defined]
        except StopIteration:
            body.close()  # type: ignore[attr-defined]
        self.answers.append((status, headers, b"".join(parts)))


@pytest.mark.parametrize("streamed", [False, True])
def test_a_request_is_answered_as_wsgi_says_without_the_secrets_of_the_process(
    monkeypatch: pytest.MonkeyPatch, streamed: bool
):
    monkeypatch.setenv("TANDEM_SECRET", "sesame")
    seen = {}

    class Parts:
        closed = False

        def __iter__(self):
            return iter([b"a", b"b"])

        def close(self):
            Parts.closed = True

    def app(environ, start_response):
        seen.update(environ)
        start_response("201 Created", [("X-A", "b")])
        return Parts() if streamed else [b"a", b"b"]

    proto = Proto()
    caller(app, Leader())(proto, {"REQUEST_METHOD": "GET"})
    assert proto.answers == [(201, [("X-A", "b")], b"ab")]
    assert Parts.closed is streamed
    assert seen["wsgi.version"] == (1, 0)
    assert "TANDEM_SECRET" not in seen


@pytest.mark.parametrize(
    ("environ", "whole"),
    [
        ({}, True),
        ({"CONTENT_LENGTH": ""}, True),
        ({"CONTENT_LENGTH": "12"}, False),
        ({"CONTENT_LENGTH": "12", "tandem.body": b"twelve bytes"}, True),
        ({"HTTP_TRANSFER_ENCODING": "chunked"}, False),
    ],
)
def test_a_body_is_whole_when_it_was_read_or_there_is_none(environ, whole):
    assert has_read_all(environ) is whole


def scored(running: Running, times: int, statuses: list[int]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=30)
    for _ in range(times):
        connection.request("POST", "/score", ROW, JSON)
        answer = connection.getresponse()
        answer.read()
        statuses.append(answer.status)
    connection.close()


def test_many_callers_with_little_to_ask_are_all_answered(start):
    running = start(TANDEM_LOG="warning")
    statuses: list[int] = []
    callers = [
        threading.Thread(target=scored, args=(running, 20, statuses), daemon=True)
        for _ in range(64)
    ]
    for each in callers:
        each.start()
    for each in callers:
        each.join()
    assert statuses == [200] * (20 * 64)
    assert running.stop()[0] == 0


def test_who_sends_slowly_holds_nobody_up(start):
    running = start(TANDEM_THREADS="16", TANDEM_LOG="warning")
    head = (
        b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n" % len(ROW)
    )
    statuses: list[int] = []
    slow = []
    for _ in range(4):
        slow.append(socket.create_connection(("127.0.0.1", running.port), timeout=30))
        slow[-1].sendall(head + ROW[:10])
        began = time.monotonic()
        scored(running, 20, statuses)
        assert time.monotonic() - began < 5, "held up"
    for each in slow:
        each.sendall(ROW[10:])
        assert each.recv(100).startswith(b"HTTP/1.1 200 OK")
        each.close()
    assert statuses == [200] * 80
    assert running.stop()[0] == 0


def test_a_body_that_nobody_reads_does_not_hold_its_connection_up(start):
    running = start(TANDEM_LOG="warning")
    seen: list[object] = []

    def ask() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=10)
        for _ in range(5):
            try:
                connection.request("POST", "/nowhere", b"x" * 20_000)
                answer = connection.getresponse()
                answer.read()
                seen.append(answer.status)
            except TimeoutError as problem:
                seen.append(problem)
                break
            except (ConnectionError, http.client.HTTPException):
                connection.close()  # with so much unread the server may close it
        connection.close()

    callers = [threading.Thread(target=ask, daemon=True) for _ in range(40)]
    for each in callers:
        each.start()
    for each in callers:
        each.join()
    assert set(seen) == {404}
