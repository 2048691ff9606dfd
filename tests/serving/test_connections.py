"""Which connections are ended to make room: none that gets an answer, first of who has most."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from support.asking import REPOSITORY, digit

from tandem.serving.bodies import Bodies
from tandem.serving.connections import Connection, Connections, fairly

BODY = b'{"rows": [%s]}' % str(digit(0)[0]).encode()


def connection(address: str, inode: int) -> Connection:
    return Connection(3, inode, address, 0.0)


def test_who_has_most_gives_first():
    held = [connection(address, at) for at, address in enumerate("abbbbbcc")]
    chosen = [each.inode for each in fairly(held, 4)]
    assert chosen == [1, 2, 3, 4], "b is left with one as a is, before c has to give"
    assert [each.inode for each in fairly(held, 5)][4] in (5, 6)
    assert fairly(held, 0) == fairly(held, -1) == []
    assert len(fairly(held, 100)) == len(held)


class Pair:
    """A listener with connections whose both ends are in this process."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.open: list[socket.socket] = []

    def connect(self) -> tuple[socket.socket, socket.socket]:
        client = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        server, _ = self.listener.accept()
        self.open += [client, server]
        return client, server


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    for each in (*made.open, made.listener):
        each.close()


def test_a_look_tells_idle_connections_from_those_that_wait_for_an_answer(pair):
    idle, waiting, answered = (pair.connect() for _ in range(3))
    time.sleep(0.05)
    for client, server in (waiting, answered):
        client.sendall(b"question")
        assert server.recv(100)
    time.sleep(0.05)
    answered[1].sendall(b"answer")
    found = {each.number: each for each in Connections(pair.port, 100).look(time.perf_counter())}
    assert set(found) == {server.fileno() for _, server in (idle, waiting, answered)}
    assert found[waiting[1].fileno()].since is not None
    assert found[idle[1].fileno()].since is found[answered[1].fileno()].since is None
    assert {each.address for each in found.values()} == {"127.0.0.1"}


def test_a_slow_sender_is_ended_and_a_request_at_work_is_not(pair):
    client, server = pair.connect()
    client.sendall(b"half of")
    bodies, connections = Bodies(most=5, seconds=1), Connections(pair.port, 100)
    began = time.perf_counter()
    connections.look(began)
    bodies.began[1] = bodies.reading[1] = began
    assert connections.surplus(bodies, began + 0.9) == ([], 0)
    bodies.began[2] = began - 2  # a request that is older, and whole: perhaps it is this one
    assert connections.surplus(bodies, began + 2) == ([], 0)
    del bodies.began[2]
    assert connections.surplus(bodies, began + 2) == ([], 0), "its answer may be on its way"
    ended, idle = connections.surplus(bodies, began + 2)
    assert ([each.number for each in ended], idle) == ([server.fileno()], 0)
    connections.end(ended[0])
    server.settimeout(10)
    assert server.recv(100) == b"half of"
    assert server.recv(100) == b"", "the server finds it at its end"


def test_under_pressure_the_slowest_of_who_has_most_is_ended(pair):
    servers = [pair.connect() for _ in range(3)]
    for client, _ in servers:
        client.sendall(b"a")
    bodies, connections = Bodies(most=2, seconds=60), Connections(pair.port, 100)
    now = time.perf_counter()
    bodies.began.update(dict.fromkeys(range(3), now))
    bodies.reading.update(bodies.began)
    connections.look(now)
    servers[0][0].sendall(b"a" * 1000)
    ended, _ = connections.surplus(bodies, now + 0.5)
    assert [each.number for each in ended] != [servers[0][1].fileno()]
    assert len(ended) == 1
    assert bodies.pressed
    bodies.reading.clear()
    connections.surplus(bodies, now + 1)
    assert not bodies.pressed


def test_another_socket_in_the_same_place_is_not_ended(pair):
    _, server = pair.connect()
    [found] = Connections(pair.port, 100).look(time.perf_counter())
    other, _ = pair.connect()
    os.dup2(other.fileno(), server.fileno())
    Connections(pair.port, 100).end(found)
    other.sendall(b"unhurt")
    assert pair.open[-1].recv(100) == b"unhurt"


def test_under_pressure_connections_are_closed_with_their_answer(app):
    client = app()
    body = {"rows": [digit(0)[0]]}
    assert "connection" not in client.post("/score", body).headers
    client.handle.bodies.pressed = True
    assert client.post("/score", body).headers["connection"] == "close"


def test_few_open_files_mean_few_connections_and_it_says_so(packages, tmp_path):
    program = (
        "import os, resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200)); "
        "os.execv(sys.executable, [sys.executable, '-m', 'serving'])"
    )
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(REPOSITORY),
        "TANDEM_MODEL": str(packages("digits")),
        "HOST": "127.0.0.1",
        "PORT": "0",
        "TANDEM_DRAIN_SECONDS": "0",
    }
    running = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, env=environment, cwd=tmp_path
    )
    try:
        assert running.stdout is not None
        said = [running.stdout.readline().decode() for _ in range(2)]
    finally:
        running.kill()
        running.communicate()
    assert "only 72 of 4096 connections can be open (TANDEM_CONNECTIONS)" in said[0]
    assert '"ready"' in said[1]


def test_the_limit_of_open_files_is_raised_as_far_as_it_may_be(start):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 5000:
        pytest.skip("open files are limited here")
    running = start(TANDEM_CONNECTIONS="4500")
    soft, _ = resource.prlimit(running.process.pid, resource.RLIMIT_NOFILE)
    assert soft == resource.RLIM_INFINITY or soft >= 4500


def test_nothing_of_tokens_is_imported_without_an_issuer():
    program = "import sys, tandem.serving.extension; sys.exit('jwt' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY).returncode == 0
