"""The service under more load than it can take, under stalling clients, and stopped under load."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import statistics
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "serving"))

from asking import Running

from tandem.package import write


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
        assert running.stop()[0] == 0


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


def test_clients_that_stall_in_the_middle_stop_nobody_else(quick_model):
    with started(quick_model, TANDEM_BODY_SECONDS="1", TANDEM_THREADS="6") as running:
        part = REQUEST[: -len(BODY)] + BODY[:5]
        stalled = [socket.create_connection(("127.0.0.1", running.port)) for _ in range(30)]
        try:
            for each in stalled:
                each.sendall(part)
            statuses = []
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                assert running.ask("/healthz").status == 200
                statuses.append(running.ask("/score", BODY).status)
                if statuses[-1] == 200:
                    break
                time.sleep(0.1)
            assert statuses[-1] == 200
            assert set(statuses) <= {200, 503}
        finally:
            for each in stalled:
                each.close()
