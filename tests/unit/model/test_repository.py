"""The model repository: numbered, whole versions, found in two requests, pruned with care."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import pytest
from support.stores import CountingStore, MemoryStore

from tandem import publish
from tandem.errors import Conflict, NotFound, PackageError, StorageError
from tandem.model import blobs, writing
from tandem.model import package as packages
from tandem.model.package import Package
from tandem.model.repository import Repository
from tandem.storage import Store, open_store
from tandem.storage.numbered import NumberedLog

ROWS = np.arange(20, dtype=np.float64).reshape(10, 2)


def package(folder: Path, number: int = 0, name: str = "tiny") -> Package:
    """A package of which `number` is a parameter, so that each number has its own digest."""
    from sklearn.dummy import DummyClassifier

    estimator = DummyClassifier(strategy="prior").fit(ROWS, [0, 1] * 5)
    return writing.write(
        folder / f"package-{number}",
        estimator,
        name=name,
        sample=ROWS,
        parameters={"number": number},
        held_out=(ROWS, [0, 1] * 5),
        onnx=False,
    )


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def repository(store: MemoryStore) -> Repository:
    return Repository(store, "tiny")


def test_an_empty_repository_has_no_latest(repository: Repository) -> None:
    assert repository.latest() is None
    assert list(repository.versions()) == []
    with pytest.raises(NotFound, match="no version 1 of model tiny"):
        repository.version(1)


def test_versions_are_numbered_from_one(repository: Repository, tmp_path: Path) -> None:
    first, new = repository.publish(package(tmp_path, 1), publisher="Ann")
    second, _ = repository.publish(package(tmp_path, 2), publisher="Bob")
    assert new
    assert (first.number, second.number) == (1, 2)
    assert repository.latest() == second
    assert repository.version(1) == first
    assert [version.publisher for version in repository.versions()] == ["Bob", "Ann"]


def test_publishing_what_is_there_uploads_nothing(tmp_path: Path) -> None:
    store = CountingStore(MemoryStore())
    repository = Repository(store, "tiny")
    made = package(tmp_path)
    first, _ = repository.publish(made)
    store.requests.clear()
    again, new = repository.publish(made, publisher="somebody else")
    assert again == first
    assert not new
    assert store.requests["put"] == 0


def test_the_same_content_packed_again_is_the_same_version(
    repository: Repository, tmp_path: Path
) -> None:
    repository.publish(package(tmp_path / "monday", 1))
    repository.publish(package(tmp_path, 2))
    version, new = repository.publish(package(tmp_path / "tuesday", 1))
    assert (version.number, new) == (1, False)


def test_versions_share_equal_files(
    store: MemoryStore, repository: Repository, tmp_path: Path
) -> None:
    for number in (1, 2, 3):
        repository.publish(package(tmp_path, number))
    blobs = [key for key in store.objects if "/blobs/" in key]
    assert len(blobs) == 3  # estimator, golden and held-out rows, once for all three


def test_a_package_of_another_model_is_refused(repository: Repository, tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="'other'"):
        repository.publish(package(tmp_path, name="other"))


def test_a_file_that_changes_while_it_is_published_is_refused(
    store: MemoryStore, repository: Repository, tmp_path: Path
) -> None:
    made = package(tmp_path)
    (made.folder / "golden.json").write_bytes(b"{}")
    with pytest.raises(PackageError, match=r"golden\.json: changed"):
        repository.publish(made)
    assert repository.latest() is None
    changed = [file.sha256 for file in made.manifest.files if file.path == "golden.json"]
    assert not [key for key in store.objects if key.endswith(changed[0])]


# --- fetching


def test_a_fetched_package_is_the_published_one(repository: Repository, tmp_path: Path) -> None:
    made = package(tmp_path)
    published = repository.publish(made)
    assert len(repr(published)) < 100, "a notebook shows it"
    moved: list[int] = []
    got = repository.fetch(1, tmp_path / "got", progress=moved.append)
    assert got.digest == made.digest
    assert packages.read(got.folder).digest == made.digest
    assert sum(moved) == made.size
    assert (got.folder / "manifest.json").read_bytes() == (
        made.folder / "manifest.json"
    ).read_bytes()


def test_held_out_rows_come_only_when_asked_for(repository: Repository, tmp_path: Path) -> None:
    repository.publish(package(tmp_path))
    assert repository.fetch(1, tmp_path / "got").held_out() is None
    rows = repository.fetch(1, tmp_path / "got", with_evaluation=True).held_out()
    assert rows is not None
    assert rows.truth == ["0", "1"] * 5
    # Asked for without them again, as for an image, they are gone.
    repository.fetch(1, tmp_path / "got")
    assert not (tmp_path / "got" / "evaluation.json").exists()


def test_a_whole_fetched_package_is_not_fetched_again(tmp_path: Path) -> None:
    store = CountingStore(MemoryStore())
    repository = Repository(store, "tiny")
    repository.publish(package(tmp_path))
    repository.fetch(1, tmp_path / "got")
    store.requests.clear()
    repository.fetch(1, tmp_path / "got")
    assert store.requests["get"] == 0


def test_a_fetched_package_that_was_changed_is_fetched_again(
    repository: Repository, tmp_path: Path
) -> None:
    repository.publish(package(tmp_path))
    got = repository.fetch(1, tmp_path / "got")
    (got.folder / "model.skops").write_bytes(b"changed")
    again = repository.fetch(1, tmp_path / "got")
    assert packages.read(again.folder).digest == got.digest


def test_somebody_elses_folder_is_left_alone(repository: Repository, tmp_path: Path) -> None:
    repository.publish(package(tmp_path))
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "thesis.txt").write_text("years of work")
    with pytest.raises(PackageError, match="not empty"):
        repository.fetch(1, tmp_path / "theirs")
    assert (tmp_path / "theirs" / "thesis.txt").exists()


def test_a_file_changed_in_the_store_is_refused_by_name(
    store: MemoryStore, repository: Repository, tmp_path: Path
) -> None:
    made = package(tmp_path)
    repository.publish(made)
    sha256 = next(file.sha256 for file in made.manifest.files if file.path == "model.skops")
    key = f"models/tiny/blobs/sha256/{sha256}"
    store.put(key, b"x" * len(store.objects[key][0]))
    with pytest.raises(PackageError, match=r"model\.skops: changed in memory:"):
        repository.fetch(1, tmp_path / "got")
    assert not (tmp_path / "got").exists()
    store.put(key, b"longer than it was said to be" * 100000)
    with pytest.raises(PackageError, match=r"model\.skops: changed"):
        repository.fetch(1, tmp_path / "got")
    store.delete(key)
    with pytest.raises(PackageError, match=r"model\.skops: its content is missing"):
        repository.fetch(1, tmp_path / "got")


def test_publishing_again_brings_back_a_lost_file(
    store: MemoryStore, repository: Repository, tmp_path: Path
) -> None:
    made = package(tmp_path)
    repository.publish(made)
    for key in [key for key in store.objects if "/blobs/" in key]:
        store.delete(key)
    version, new = repository.publish(made)
    assert (version.number, new) == (1, False)
    assert repository.fetch(1, tmp_path / "got").digest == made.digest


def test_two_fetches_into_one_folder_take_turns(repository: Repository, tmp_path: Path) -> None:
    made = package(tmp_path)
    repository.publish(made)
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda _: repository.fetch(1, tmp_path / "got").digest, range(4)))
    assert set(got) == {made.digest}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"digest": "sha256:" + "0" * 64}, "another digest"),
        ({"manifest": {"format": 2}}, "format 2"),
        ({"number": "x"}, "not a version record"),
    ],
)
def test_a_damaged_version_record_is_refused(
    store: MemoryStore,
    repository: Repository,
    tmp_path: Path,
    change: dict[str, object],
    words: str,
) -> None:
    repository.publish(package(tmp_path))
    key = "models/tiny/versions/000001.json"
    record = msgspec.json.decode(store.read(key)[0])
    store.put(key, msgspec.json.encode(record | change))
    with pytest.raises(PackageError, match=words):
        repository.version(1)


# --- many at once, and killed


def test_fifty_publishers_get_fifty_consecutive_numbers(tmp_path: Path) -> None:
    store = open_store(f"file:{tmp_path}/store")
    made = [package(tmp_path, number) for number in range(50)]
    ready = threading.Barrier(50)

    def one(number: int) -> int:
        ready.wait()
        return Repository(store, "tiny").publish(made[number])[0].number

    with ThreadPoolExecutor(50) as pool:
        numbers = list(pool.map(one, range(50)))
    assert sorted(numbers) == list(range(1, 51))
    repository = Repository(store, "tiny")
    assert {version.digest for version in repository.versions()} == {p.digest for p in made}


def test_publishers_of_the_same_package_share_one_version(tmp_path: Path) -> None:
    store = MemoryStore()
    made = package(tmp_path)
    ready = threading.Barrier(8)

    def one(_: int) -> tuple[int, bool]:
        ready.wait()
        version, new = Repository(store, "tiny").publish(made)
        return version.number, new

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(one, range(8)))
    assert {number for number, _ in results} == {1}
    assert sum(new for _, new in results) == 1


KILLED = """
import os, sys
sys.path[:0] = sys.argv[3:]
from pathlib import Path
from support.stores import DeadlyStore
from tandem.model import package
from tandem.model.repository import Repository
from tandem.storage import open_store
made = package.read(sys.argv[1])
for step in range(1, 100):
    for after in (False, True):
        folder = Path(sys.argv[2]) / f"{step:02}-{after}"
        child = os.fork()
        if child == 0:
            store = DeadlyStore(open_store(f"file:{folder}"), step, after=after)
            Repository(store, "tiny").publish(made)
            os._exit(0)
        if os.waitpid(child, 0)[1] == 0:
            sys.exit()
"""


KILLED_INSIDE = """
import os, signal, sys
sys.path[:0] = sys.argv[3:]
from pathlib import Path
from tandem.model import package
from tandem.model.repository import Repository
from tandem.storage import open_store
made = package.read(sys.argv[1])
left = 0
def deadly(name, after):
    call = getattr(os, name)
    def called(*args, **kwargs):
        global left
        left -= 1
        if left == 0 and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            return call(*args, **kwargs)
        finally:
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
    setattr(os, name, called)
for step in range(1, 200, 3):
    after = step % 2 == 0
    folder = Path(sys.argv[2]) / f"{step:03}"
    child = os.fork()
    if child == 0:
        left = step
        for name in ("fsync", "link", "rename", "unlink", "mkdir", "open"):
            deadly(name, after)
        Repository(open_store(f"file:{folder}"), "tiny").publish(made)
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        sys.exit()
"""


@pytest.mark.parametrize("script", ["KILLED", "KILLED_INSIDE"])
def test_a_publisher_killed_at_any_step_leaves_a_whole_version_or_none(
    tmp_path: Path, script: str
) -> None:
    made = package(tmp_path)
    stores = tmp_path / "stores"
    paths = [path for path in sys.path if path]
    done = subprocess.run(
        [sys.executable, "-c", globals()[script], made.folder, stores, *paths],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    killed = sorted(stores.iterdir())
    assert len(killed) > 10
    for folder in killed:
        repository = Repository(open_store(f"file:{folder}"), "tiny")
        if repository.latest() is not None:
            assert repository.fetch(1, folder / "got").digest == made.digest
        # The same again, and another: as if nobody had been killed.
        assert repository.publish(made)[0].number == 1
        assert [version.number for version in repository.versions()] == [1]
        assert packages.read(repository.fetch(1, folder / "again").folder).digest == made.digest


# --- requests


def seeded(store: MemoryStore, count: int) -> NumberedLog:
    log = NumberedLog(store, "log")
    for number in range(1, count + 1):
        store.put(log.key(number), b'{"n":%d}' % number)
    return log


@pytest.mark.parametrize("count", [1, 10_000])
def test_latest_costs_two_requests_however_many_versions_there_are(count: int) -> None:
    inner = MemoryStore()
    seeded(inner, count)
    store = CountingStore(inner)
    log = NumberedLog(store, "log")
    log.latest()  # the pointer was never written: found by listing, once
    store.requests.clear()
    assert log.latest() == (count, b'{"n":%d}' % count)
    assert store.requests.total() <= 2


def test_appending_costs_as_many_requests_at_10000_versions_as_at_10() -> None:
    costs = []
    for count in (10, 10_000):
        inner = MemoryStore()
        seeded(inner, count)
        NumberedLog(inner, "log").latest()
        store = CountingStore(inner)
        assert NumberedLog(store, "log").append(lambda n: b"%d" % n)[0] == count + 1
        costs.append(store.requests.total())
    assert costs[0] == costs[1]


@pytest.mark.parametrize("pointer", [None, b"", b"7", b"nonsense\nx", b"3\n{}"])
def test_a_lost_damaged_or_late_pointer_is_put_right(pointer: bytes | None) -> None:
    store = MemoryStore()
    log = seeded(store, 5)
    if pointer is not None:
        store.put("log.latest", pointer)
    assert log.latest() == (5, b'{"n":5}')
    assert store.read("log.latest")[0].startswith(b"5\n")


def test_the_pointer_never_goes_back() -> None:
    store = MemoryStore()
    log = NumberedLog(store, "log")
    numbers = list(range(1, 30))
    random.Random(0).shuffle(numbers)
    for number in numbers:
        log._point(number, b"{}")
    assert store.read("log.latest")[0] == b"29\n{}"


def test_a_record_whose_answer_was_lost_on_the_way_counts_once() -> None:
    class Lossy(MemoryStore):
        def put(self, key: str, *args: object, **kwargs: object) -> object:  # type: ignore[override]
            told = super().put(key, *args, **kwargs)  # type: ignore[arg-type]
            if key == "log/000001.json":
                raise StorageError("timed out")
            return told

    store = Lossy()
    assert NumberedLog(store, "log").append(lambda n: b"%d" % n) == (1, b"1")


def test_walking_back_passes_over_pruned_numbers() -> None:
    store = MemoryStore()
    log = seeded(store, 6)
    for number in (1, 3, 4):
        log.delete(number)
    assert [number for number, _ in log.walk_back()] == [6, 5, 2]
    assert [number for number, _ in log.walk_back(4)] == [2]


def test_the_newest_number_is_never_given_again() -> None:
    log = seeded(MemoryStore(), 3)
    with pytest.raises(StorageError, match="newest"):
        log.delete(3)


# --- pruning


def test_pruning_keeps_what_is_named_and_the_newest(
    store: MemoryStore, repository: Repository, tmp_path: Path
) -> None:
    for number in range(1, 7):
        repository.publish(package(tmp_path, number))
    assert repository.prune({2}, newest=2).versions == [1, 3, 4]
    assert [version.number for version in repository.versions()] == [6, 5, 2]
    for number in (2, 5, 6):
        repository.fetch(number, tmp_path / f"got-{number}")
    with pytest.raises(NotFound):
        repository.version(3)
    # What was pruned is new again, under a number that was never given.
    assert repository.publish(package(tmp_path / "again", 1))[0].number == 7


def different(folder: Path, constant: int) -> Package:
    """Packages that share no file."""
    from sklearn.dummy import DummyRegressor

    estimator = DummyRegressor(strategy="constant", constant=constant).fit(ROWS, np.arange(10.0))
    return writing.write(folder / f"c{constant}", estimator, name="tiny", sample=ROWS, onnx=False)


def test_files_of_pruned_versions_go_after_a_grace_time(
    store: MemoryStore, repository: Repository, tmp_path: Path
) -> None:
    for number in (1, 2):
        repository.publish(different(tmp_path, number))
    assert repository.prune((), newest=1).blobs == 0
    assert repository.prune((), newest=1, grace=0).blobs == 2
    assert len([key for key in store.objects if "/blobs/" in key]) == 2
    repository.fetch(2, tmp_path / "got")


def test_a_file_that_is_published_again_meanwhile_stays(
    repository: Repository, tmp_path: Path
) -> None:
    for number in (1, 2):
        repository.publish(different(tmp_path, number))
    repository.prune((), newest=1)
    version, _ = repository.publish(different(tmp_path / "again", 1))
    repository.prune({version.number}, newest=1, grace=0)
    assert repository.fetch(3, tmp_path / "got").digest == version.digest


# --- for people


def test_publish_takes_an_estimator_and_a_store_url(tmp_path: Path) -> None:
    from sklearn.linear_model import LogisticRegression

    estimator = LogisticRegression().fit(ROWS, [0, 1] * 5)
    url = f"file:{tmp_path}/store"
    version = publish(estimator, name="tiny", sample=ROWS, metrics={"accuracy": 0.5}, store=url)
    assert version.number == 1
    assert version.manifest.metrics == {"accuracy": 0.5}
    assert version.publisher


def test_publish_finds_the_store_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TANDEM_STORE", f"file:{tmp_path}/store")
    made = package(tmp_path)
    assert publish(made.folder, name="tiny").digest == made.digest
    store: Store = open_store(f"file:{tmp_path}/store")
    assert Repository(store, "tiny").latest() is not None


def test_publish_refuses_a_name_that_is_no_name(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="model name"):
        publish(tmp_path, name="../etc", store=f"file:{tmp_path}/store")


class LosesAnswers(MemoryStore):
    """A store whose streamed create-only writes are done, answered by nobody, and tried again."""

    def put(self, key, data, **options):  # type: ignore[no-untyped-def]
        stat = super().put(key, data, **options)
        if options.get("if_absent") and not isinstance(data, bytes):
            raise Conflict(f"memory: {key} is there already")
        return stat


@pytest.mark.parametrize("others", [False, True], ids=["own write", "another's right content"])
def test_a_file_that_changed_is_not_kept_when_the_answer_was_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, others: bool
) -> None:
    monkeypatch.setattr(blobs, "SMALL", 0)
    store = LosesAnswers()
    repository = Repository(store, "tiny")
    made = package(tmp_path)
    file = made.manifest.files[0]
    path = made.folder / file.path
    right = path.read_bytes()
    path.write_bytes(b"x" * len(right))
    key = f"models/tiny/blobs/sha256/{file.sha256}"
    if others:
        # There only after we looked: as when two publish at the same moment.
        look = store.head
        monkeypatch.setattr(store, "head", lambda k: None if k == key else look(k))
        store.objects[key] = (right, "theirs")
    with pytest.raises(PackageError, match="changed while it was being published"):
        repository.publish(made)
    assert (key in store.objects) is others
    if not others:
        path.write_bytes(right)
        assert repository.publish(made)[0].number == 1
        assert store.objects[key][0] == right


def test_a_version_of_another_tandem_is_named_by_its_key(tmp_path: Path) -> None:
    store = MemoryStore()
    repository = Repository(store, "tiny")
    repository.publish(package(tmp_path))
    record = b'{"number":2,"digest":"x","created":"","publisher":"","manifest":{}}'
    store.put("models/tiny/versions/000002.json", record)
    with pytest.raises(PackageError, match=r"versions/000002\.json") as caught:
        repository.latest()
    assert "\n" not in str(caught.value)


def test_all_records_are_read_side_by_side_and_never_more_than_a_few_at_once() -> None:
    lock, under_way, most = threading.Lock(), 0, 0

    class Watched(MemoryStore):
        def read(self, key: str) -> tuple[bytes, str]:
            nonlocal under_way, most
            with lock:
                under_way += 1
                most = max(most, under_way)
            time.sleep(0.005)
            with lock:
                under_way -= 1
            return super().read(key)

    log = NumberedLog(Watched(), "log")
    for _ in range(40):
        log.append(lambda number: b"%d" % number)
    most = 0
    assert [number for number, _ in log.all()] == list(range(40, 0, -1))
    assert 1 < most <= 8


def test_files_are_kept_for_the_grace_by_the_clock_of_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(f"file:{tmp_path}/store")
    repository = Repository(store, "tiny")
    repository.publish(package(tmp_path, 1))
    stray = hashlib.sha256(b"stray").hexdigest()
    store.put(f"models/tiny/blobs/sha256/{stray}", b"stray")
    assert repository.prune((), newest=1).blobs == 0
    real = time.time
    monkeypatch.setattr(blobs.time, "time", lambda: real() + 1e6)
    assert repository.prune((), newest=1).blobs == 0, "this machine's clock is a week ahead"
    assert repository.prune((), newest=1, grace=0).blobs == 1
