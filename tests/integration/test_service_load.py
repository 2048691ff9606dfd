"""The service under more load than it can take, under stalling clients, and stopped under load."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import statistics
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from support.asking import Running

from tandem.model.writing import write


@pytest.fixture(scope="module")
def slow_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A forest asked through scikit-learn: tens of milliseconds a row."""
    from sklearn.ensemble import RandomForestClassifier

    rng = np.random.default_rng(0)
    rows = rng.random((200, 8))
    model = RandomForestClassifier(150, max_depth=4, random_state=0).fit(rows, rows[:, 0] > 0.5)
    folder = tmp_path_factory.mktemp("slow") / "forest"
    write(folder, model, name="forest", sample=rows, labels=["no", "yes"], onnx=False)
    return folder


@pytest.fixture(scope="module")
def quick_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    rows = rng.random((200, 8)).astype(np.float32)
    model = LogisticRegression().fit(rows, rows[:, 0] > 0.5)
    folder = tmp_path_factory.mktemp("quick") / "line"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write(folder, model, name="line", sample=rows, labels=["no", "yes"])
    return folder


@contextlib.contextmanager
def started(folder: Path, **environment: str):
    running = Running(folder, folder.parent, TANDEM_LOG="warning", **environment)
    try:
        running.wait_ready()
        yield running
    finally:
        if running.process.poll() is None:
            running.process.kill()
        running.process.communicate()


BODY = json.dumps({"rows": [[0.5] * 8]}).encode()
REQUEST = (
    b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: "
    + str(len(BODY)).encode()
    + b"\r\n\r\n"
    + BODY
)


class Asked:
    """One answer: status, headers, seconds it took."""

    def __init__(self, head: bytes, seconds: float) -> None:
        lines = head.decode().split("\r\n")
        self.status = int(lines[0].split()[1])
        fields = (line.partition(": ") for line in lines[1:] if line)
        self.headers = {name.lower(): value for name, _, value in fields}
        self.seconds = seconds


class Connection:
    """A kept connection that is opened again when the service says that it closes it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.writer: asyncio.StreamWriter | None = None

    async def ask(self) -> Asked:
        began = time.perf_counter()
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.writer.write(REQUEST)
        head = await self.reader.readuntil(b"\r\n\r\n")
        asked = Asked(head, 0)
        await self.reader.readexactly(int(asked.headers["content-length"]))
        asked.seconds = time.perf_counter() - began
        if asked.headers.get("connection") == "close":
            await self.close()
        return asked

    async def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
            with contextlib.suppress(OSError):
                await self.writer.wait_closed()
        self.writer = None


async def capacity(port: int, seconds: float) -> float:
    """Answers a second that two callers get."""
    connections = [Connection(port) for _ in range(2)]
    end = time.monotonic() + seconds

    async def caller(connection: Connection) -> int:
        count = 0
        while time.monotonic() < end:
            assert (await connection.ask()).status == 200
            count += 1
        await connection.close()
        return count

    return sum(await asyncio.gather(*map(caller, connections))) / seconds


async def flood(port: int, rate: float, seconds: float, callers: int) -> list[Asked]:
    """Requests at that rate, whether answers come or not, over that many connections."""
    answers: list[Asked] = []

    async def caller(number: int) -> None:
        connection = Connection(port)
        began = time.monotonic()
        turn = number
        while (due := turn / rate) < seconds:
            await asyncio.sleep(max(0.0, began + due - time.monotonic()))
            answers.append(await connection.ask())
            turn += callers
        await connection.close()

    await asyncio.gather(*map(caller, range(callers)))
    return answers


def test_ten_times_the_capacity_is_answered_by_work_and_quick_refusals(slow_model):
    with started(slow_model) as running:
        usual = asyncio.run(capacity(running.port, 2))
        began = time.monotonic()
        answers = asyncio.run(flood(running.port, 10 * usual, 4, callers=200))
        seconds = time.monotonic() - began
        done = [answer for answer in answers if answer.status == 200]
        refused = [answer for answer in answers if answer.status == 503]
        assert len(done) + len(refused) == len(answers)
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
        # It works on about as fast as without the flood, and refuses faster than it works.
        assert len(refused) > len(done)
        assert len(done) / seconds > 0.3 * usual
        quick = statistics.median(answer.seconds for answer in refused)
        assert quick < statistics.median(answer.seconds for answer in done)
        assert running.ask("/readyz").status == 200
        assert running.ask("/score", BODY).status == 200
        code, out, _ = running.stop()
        assert code == 0
        assert "ended to make room" not in out, "nobody sent slowly"


def test_health_is_answered_while_all_slots_are_taken(slow_model):
    with started(slow_model) as running:

        async def both() -> tuple[list[Asked], int]:
            load = asyncio.create_task(flood(running.port, 400, 2, callers=100))
            healthy = 0
            while not load.done():
                answer = await asyncio.to_thread(running.ask, "/readyz")
                healthy += answer.status == 200
                await asyncio.sleep(0.1)
            return await load, healthy

        answers, healthy = asyncio.run(both())
        assert {answer.status for answer in answers} <= {200, 503}
        assert healthy >= 3
        assert "ended to make room" not in running.stop()[1], "nobody sent slowly"


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_stop_under_load_loses_no_request(quick_model, workers):
    environment = {"TANDEM_DRAIN_SECONDS": "5", "TANDEM_WORKERS": workers}
    with started(quick_model, **environment) as running:
        seen: list[int] = []
        ended = False

        async def caller() -> None:
            connection = Connection(running.port)
            while not ended:
                seen.append((await connection.ask()).status)
                await asyncio.sleep(0.002)
            await connection.close()

        async def stopped_under_load() -> None:
            nonlocal ended
            callers = [asyncio.create_task(caller()) for _ in range(8)]
            await asyncio.sleep(0.5)
            running.process.send_signal(signal.SIGTERM)
            while (await asyncio.to_thread(running.ask, "/readyz")).status == 200:
                await asyncio.sleep(0.02)
            # Clients that did not hear of it go on for a good part of the drain.
            await asyncio.sleep(1)
            ended = True
            await asyncio.gather(*callers)

        asyncio.run(stopped_under_load())
        assert set(seen) == {200}
        assert len(seen) > 100
        assert running.process.wait(30) == 0


def test_work_at_hand_is_finished_after_the_drain(slow_model):
    """A request that takes longer than the drain gets its answer all the same."""
    with started(slow_model) as running:
        body = json.dumps({"rows": [[0.5] * 8] * 1000}).encode()
        head = REQUEST.split(b"Content-Length")[0] + b"Content-Length: %d\r\n\r\n" % len(body)
        with socket.create_connection(("127.0.0.1", running.port), timeout=60) as asking:
            asking.sendall(head + body[:-1])
            time.sleep(0.2)
            running.process.send_signal(signal.SIGTERM)  # the drain is 0 seconds here
            time.sleep(0.2)
            asking.sendall(body[-1:])
            answer = b""
            while part := asking.recv(65536):
                answer += part
        assert answer.startswith(b"HTTP/1.1 200")
        assert answer.count(b'"probabilities"') == 1000
        assert running.process.wait(30) == 0


def test_clients_that_stall_in_the_middle_are_cut_off_and_stop_nobody(quick_model):
    with (
        started(quick_model, TANDEM_BODY_SECONDS="1", TANDEM_THREADS="6") as running,
        slow_senders(running.port, 30) as senders,
    ):
        for _ in range(20):
            assert running.ask("/healthz").status == 200
            assert running.ask("/score", BODY).status == 200
        assert all(ended(sender) for sender in senders)


HEAD = REQUEST[: -len(BODY)]
PARTS = {
    "stall": HEAD + BODY[:5],
    "send nothing of it": HEAD,
    "hide behind another request": b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" + HEAD + BODY[:5],
    "send a chunk": HEAD.split(b"Content-Length")[0]
    + b"Transfer-Encoding: chunked\r\n\r\n5\r\n"
    + BODY[:5]
    + b"\r\n",
    "wait to be told to continue": HEAD[:-2] + b"Expect: 100-continue\r\n\r\n",
    "announce much": HEAD.split(b"Content-Length")[0] + b"Content-Length: 8000000\r\n\r\n{",
}


@contextlib.contextmanager
def slow_senders(port: int, number: int, part: bytes = PARTS["stall"]):
    """So many connections that have sent that much of a request, and wait."""
    with contextlib.ExitStack() as stack:
        senders = []
        for _ in range(number):
            sender = stack.enter_context(socket.create_connection(("127.0.0.1", port), 30))
            sender.sendall(part)
            senders.append(sender)
        yield senders


def ended(connection: socket.socket) -> bool:
    """Whether the service ends this connection, with or without an answer, while we wait."""
    try:
        while connection.recv(65536):
            pass
    except ConnectionResetError:
        pass
    except TimeoutError:
        return False
    return True


@pytest.mark.parametrize("number", [10, 50, 200])
@pytest.mark.parametrize("way", PARTS)
def test_an_honest_client_is_answered_whatever_slow_senders_do(quick_model, number, way):
    with started(quick_model) as running, slow_senders(running.port, number, PARTS[way]):
        statuses = [running.ask("/score", BODY).status for _ in range(20)]
        assert statuses == [200] * 20
        assert running.ask("/readyz").status == 200


def test_each_worker_ends_its_own_slow_senders(quick_model):
    with started(quick_model, TANDEM_WORKERS="2") as running, slow_senders(running.port, 100):
        assert [running.ask("/score", BODY).status for _ in range(40)] == [200] * 40


@pytest.mark.parametrize("way", ["stall", "announce much"])
def test_an_honest_client_is_answered_while_slow_senders_come_again_and_again(quick_model, way):
    with started(quick_model) as running, contextlib.ExitStack() as stack:
        statuses = []
        for _ in range(30):
            stack.enter_context(slow_senders(running.port, 20, PARTS[way]))
            statuses.append(running.ask("/score", BODY).status)
        assert statuses == [200] * 30


def test_one_byte_now_and_then_keeps_no_connection_open(quick_model):
    with (
        started(quick_model, TANDEM_BODY_SECONDS="30") as running,
        slow_senders(running.port, 5, HEAD) as senders,
    ):
        open_still = set(senders)
        began = time.monotonic()
        while open_still and time.monotonic() - began < 25:
            for sender in list(open_still):
                try:
                    sender.sendall(b" ")
                    sender.settimeout(0.01)
                    if not sender.recv(65536):
                        open_still.discard(sender)
                except TimeoutError:
                    continue
                except OSError:
                    open_still.discard(sender)
            time.sleep(0.1)
        assert not open_still, "well before the limit: ten bytes a second are too few"


def test_a_long_body_that_comes_steadily_is_taken(quick_model):
    body = json.dumps({"rows": [[0.5] * 8] * 1000}).encode()
    head = REQUEST.split(b"Content-Length")[0] + b"Content-Length: %d\r\n\r\n" % len(body)
    with (
        started(quick_model) as running,
        slow_senders(running.port, 20),
        socket.create_connection(("127.0.0.1", running.port), 30) as sender,
    ):
        sender.sendall(head)
        for at in range(0, len(body), 1000):
            sender.sendall(body[at : at + 1000])
            time.sleep(0.05)
        assert sender.recv(65536).startswith(b"HTTP/1.1 200")


def test_slow_work_is_never_taken_for_a_slow_sender(slow_model):
    """Each request takes longer than the grace that slow senders get."""
    long = json.dumps({"rows": [[0.5] * 8] * 1000}).encode()
    head = REQUEST.split(b"Content-Length")[0] + b"Content-Length: %d\r\n\r\n" % len(long)
    with (
        started(slow_model, TANDEM_MAX_ROWS="1000", TANDEM_PATIENCE_SECONDS="60") as running,
        slow_senders(running.port, 40),
    ):
        connections = []
        for _ in range(4):
            connection = socket.create_connection(("127.0.0.1", running.port), 60)
            connection.sendall(head + long)
            connections.append(connection)
        for connection in connections:
            with connection:
                assert connection.recv(65536).startswith(b"HTTP/1.1 200")


def test_idle_connections_are_ended_where_they_take_up_room(quick_model):
    with (
        started(quick_model, TANDEM_CONNECTIONS="200") as running,
        contextlib.ExitStack() as stack,
    ):
        for number in range(2000):
            stack.enter_context(socket.create_connection(("127.0.0.1", running.port), 60))
            if number % 250 == 249:
                assert running.ask("/score", BODY).status == 200
        for _ in range(10):
            assert running.ask("/score", BODY).status == 200
        assert running.ask("/readyz").status == 200


@pytest.mark.parametrize("part", [b"GET / HT", HEAD[:30], PARTS["stall"]])
def test_connections_with_half_a_request_are_ended_where_they_take_up_room(quick_model, part):
    with (
        started(quick_model, TANDEM_CONNECTIONS="200") as running,
        slow_senders(running.port, 600, part),
    ):
        for _ in range(10):
            assert running.ask("/score", BODY).status == 200


def test_a_connection_in_use_outlives_those_that_are_idle(quick_model):
    with (
        started(quick_model, TANDEM_CONNECTIONS="100") as running,
        contextlib.ExitStack() as stack,
        socket.create_connection(("127.0.0.1", running.port), 60) as used,
    ):
        for _ in range(400):
            stack.enter_context(socket.create_connection(("127.0.0.1", running.port), 60))
            used.sendall(REQUEST)
            assert used.recv(65536).startswith(b"HTTP/1.1 200")
