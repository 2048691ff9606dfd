"""The model repository on real servers: fifty publishers at once, one that is killed at a byte, and
what one look costs.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from support.stores import CountingStore, azurite_store, emptied, moto

from tandem.model import package as packages
from tandem.model import writing
from tandem.model.package import Package
from tandem.model.repository import Repository
from tandem.storage import Store, open_store

ROWS = np.arange(20, dtype=np.float64).reshape(10, 2)
PUBLISHERS = 50
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(params=["azure", "s3"])
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    if request.param == "azure":
        store = azurite_store()
        yield store
        emptied(store)
        return
    with moto() as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", address)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        import boto3

        boto3.client("s3").create_bucket(Bucket="tandem-tests")
        yield open_store(f"s3://tandem-tests/{uuid.uuid4().hex}")


def package(folder: Path, number: int) -> Package:
    from sklearn.dummy import DummyClassifier

    estimator = DummyClassifier(strategy="prior").fit(ROWS, [0, 1] * 5)
    return writing.write(
        folder / f"package-{number}",
        estimator,
        name="tiny",
        sample=ROWS,
        parameters={"number": number},
        onnx=False,
    )


def test_fifty_publishers_get_fifty_consecutive_numbers_and_lose_nothing(
    store: Store, tmp_path: Path
) -> None:
    made = [package(tmp_path, number) for number in range(PUBLISHERS)]
    ready = threading.Barrier(PUBLISHERS)

    def one(number: int) -> int:
        ready.wait()
        return Repository(store, "tiny").publish(made[number])[0].number

    with ThreadPoolExecutor(PUBLISHERS) as pool:
        numbers = list(pool.map(one, range(PUBLISHERS)))
    assert sorted(numbers) == list(range(1, PUBLISHERS + 1))
    repository = Repository(store, "tiny")
    assert {version.digest for version in repository.versions()} == {p.digest for p in made}
    newest = repository.latest()
    assert newest is not None
    assert repository.fetch(newest.number, tmp_path / "got").digest == newest.digest


def test_a_look_for_news_is_two_requests(store: Store, tmp_path: Path) -> None:
    counting = CountingStore(store)
    repository = Repository(counting, "tiny")
    for number in range(3):
        repository.publish(package(tmp_path, number))
    counting.requests.clear()
    newest = repository.latest()
    assert newest is not None
    assert newest.number == 3
    assert counting.requests.total() == 2


# --- killed while bytes are on their way ----------------------------------------------------------

PUBLISHER = """\
import sys
from tandem.model import package
from tandem.model.repository import Repository
from tandem.storage import open_store, transfer
transfer.BLOCK = 5 << 20  # the least that S3 takes: several blocks, in a package of some megabytes
print(Repository(open_store(sys.argv[2]), "tiny").publish(package.read(sys.argv[1]))[0].number)
"""


class Wire:
    """A way to a server that kills who sends, with signal 9, once so many bytes have passed."""

    def __init__(self, address: str) -> None:
        host, _, port = address.removeprefix("http://").partition("/")[0].partition(":")
        self.server = (host, int(port))
        self.sent = 0
        self.deadly_at: int | None = None
        self.victim: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        # `close` alone does not wake who waits in `accept`.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection(self.server)
            except OSError:
                return
            for ends in ((client, server, True), (server, client, False)):
                threading.Thread(target=self._pass_on, args=ends, daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, up: bool) -> None:
        try:
            while data := source.recv(1 << 14):
                target.sendall(self._counted(data) if up else data)
        except OSError:
            pass
        finally:
            # What is over is over for both: the server must see that nobody is there any more.
            for end in (source, target):
                try:
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
            source.close()

    def _counted(self, data: bytes) -> bytes:
        with self._lock:
            left = len(data) if self.deadly_at is None else self.deadly_at - self.sent
            self.sent += len(data)
            if left < len(data) and self.victim is not None:
                os.kill(self.victim.pid, signal.SIGKILL)
            return data[: max(left, 0)]


@pytest.fixture
def wire(store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    """The publishers' way to the server of `store`; the store itself goes there directly."""
    repository = Repository(store, "other")
    assert repository.latest() is None  # its client is open before the addresses change
    if store.url.startswith("az:"):
        name = "AZURE_STORAGE_CONNECTION_STRING"
        address = re.search(r"BlobEndpoint=([^;]*)", os.environ[name])
        assert address
        wire = Wire(address[1])
        there = address[1].replace(":".join(map(str, wire.server)), wire.host)
        monkeypatch.setenv(name, os.environ[name].replace(address[1], there))
    else:
        wire = Wire(os.environ["AWS_ENDPOINT_URL_S3"])
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://{wire.host}")
    yield wire
    wire.close()


def large_package(folder: Path, seed: int) -> Package:
    from sklearn.neighbors import KNeighborsClassifier

    rows = np.random.default_rng(seed).normal(size=(12_000, 120))
    estimator = KNeighborsClassifier(algorithm="brute").fit(rows, [0, 1] * 6_000)
    return writing.write(
        folder / f"large-{seed}", estimator, name="tiny", sample=rows[:3], onnx=False
    )


def started(made: Package, store: Store) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PUBLISHER, str(made.folder), store.url],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_publisher_killed_at_any_byte_leaves_no_version_and_nothing_half_readable(
    store: Store, wire: Wire, tmp_path: Path
) -> None:
    repository = Repository(store, "tiny")
    first, *others = [large_package(tmp_path, seed) for seed in range(7)]
    whole = started(first, store)
    assert whole.communicate()[0].strip() == "1"
    sent = wire.sent
    assert sent > first.size > 10 << 20
    known = {first.digest}
    # In the first headers, in each block and between them, and in what comes after the last one.
    for made, share in zip(others, (0.00001, 0.2, 0.45, 0.7, 0.95, 0.9999), strict=True):
        before = repository.latest()
        assert before is not None
        wire.sent, wire.deadly_at = 0, int(sent * share)
        wire.victim = killed = started(made, store)
        killed.communicate()
        assert killed.returncode == -signal.SIGKILL, share
        wire.deadly_at = wire.victim = None
        newest = repository.latest()
        assert newest is not None
        if share < 0.95:
            assert newest == before, "no version"
        for version in repository.versions():
            got = repository.fetch(version.number, tmp_path / f"{share}-{version.number}")
            assert packages.read(got.folder).digest == version.digest, "none that is half there"
        again = started(made, store)
        assert int(again.communicate()[0]) == before.number + 1
        known.add(made.digest)
        assert {version.digest for version in repository.versions()} == known
