"""Every object store behaves the same: a folder, Azurite, the moto server (both over HTTP)."""

from __future__ import annotations

import hashlib
import io
import os
import random
import re
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest
from support.relay import Relay
from support.services import require
from support.stores import azurite_store, emptied, moto

from tandem.errors import Conflict, NotFound, StorageError
from tandem.release.records import AppRef, ImageRecord, Ledger, ModelRef
from tandem.storage import Store, open_store, transfer
from tandem.util.clock import now

BUCKET = "tandem-tests"
BLOCK = 5 * 2**20
"""The smallest that S3 takes: several of them go quickly."""


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "BLOCK", BLOCK)
    monkeypatch.setattr(transfer, "RANGE", BLOCK // 4)


@pytest.fixture(scope="module")
def moto_address() -> Iterator[str]:
    with moto() as address:
        yield address


@pytest.fixture(params=["file", "azure", "s3"])
def store(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Store]:
    if request.param == "file":
        yield open_store(f"file:{tmp_path_factory.mktemp('store')}")
        return
    if request.param == "azure":
        store = azurite_store()
    else:
        address = request.getfixturevalue("moto_address")
        patch = request.getfixturevalue("monkeypatch")
        patch.setenv("AWS_ENDPOINT_URL_S3", address)
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        import boto3

        boto3.client("s3").create_bucket(Bucket=BUCKET)
        store = open_store(f"s3://{BUCKET}/{uuid.uuid4().hex}")
    yield store
    emptied(store)


def whole(store: Store, key: str) -> bytes:
    return b"".join(store.get(key))


def test_what_was_put_is_read_back(store: Store) -> None:
    told = store.put("a/b.json", b"content")
    data, etag = store.read("a/b.json")
    assert (data, etag) == (b"content", told.etag)
    found = store.head("a/b.json")
    assert found is not None
    assert found.modified is not None
    assert abs(found.modified - time.time()) < 60
    assert msgspec.structs.replace(told, modified=found.modified) == found
    # Azure's listing gives the ETag without its quotation marks.
    listed = [(one.key, one.size, one.modified) for one in store.list("a/")]
    assert listed == [(found.key, found.size, found.modified)]
    assert whole(store, "a/b.json") == b"content"


def test_what_is_not_there_is_not_found(store: Store) -> None:
    assert store.head("nothing") is None
    with pytest.raises(NotFound, match="nothing"):
        store.read("nothing")
    with pytest.raises(NotFound):
        whole(store, "nothing")
    store.delete("nothing")


def test_an_object_can_be_empty(store: Store) -> None:
    store.put("empty", b"")
    assert store.read("empty")[0] == b""
    assert whole(store, "empty") == b""
    told = store.head("empty")
    assert told is not None
    assert told.size == 0


def test_a_stream_of_several_blocks_arrives_whole(store: Store) -> None:
    data = random.Random(1).randbytes(2 * BLOCK + 12345)
    moved: list[int] = []
    told = store.put("large", io.BytesIO(data), if_absent=True, progress=moved.append)
    assert told.size == sum(moved) == len(data)
    sha256 = hashlib.sha256()
    for chunk in store.get("large", if_match=told.etag):
        assert len(chunk) <= BLOCK
        sha256.update(chunk)
    assert sha256.digest() == hashlib.sha256(data).digest()


def test_reading_starts_where_it_is_told(store: Store) -> None:
    data = random.Random(2).randbytes(BLOCK + 100)
    store.put("large", io.BytesIO(data))
    assert b"".join(store.get("large", start=BLOCK - 5)) == data[BLOCK - 5 :]
    assert b"".join(store.get("large", start=len(data))) == b""


def test_create_only_leaves_what_is_there(store: Store) -> None:
    store.put("once", b"first", if_absent=True)
    with pytest.raises(Conflict, match="once"):
        store.put("once", b"second", if_absent=True)
    assert store.read("once")[0] == b"first"


def test_create_only_of_a_large_stream_leaves_what_is_there(store: Store) -> None:
    store.put("once", b"first")
    with pytest.raises(Conflict):
        store.put("once", io.BytesIO(bytes(2 * BLOCK)), if_absent=True)
    assert store.read("once")[0] == b"first"


def test_of_many_creators_one_wins(store: Store) -> None:
    def create(number: int) -> int:
        try:
            store.put("race", str(number).encode(), if_absent=True)
        except Conflict:
            return 0
        return 1

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(create, range(8))) == 1


def test_compare_and_swap_takes_the_etag_that_was_read(store: Store) -> None:
    first = store.put("swap", b"one")
    second = store.put("swap", b"two", if_match=first.etag)
    assert second.etag != first.etag
    with pytest.raises(Conflict, match="swap"):
        store.put("swap", b"three", if_match=first.etag)
    assert store.read("swap")[0] == b"two"


def test_compare_and_swap_needs_the_object(store: Store) -> None:
    gone = store.put("swap", b"one")
    store.delete("swap")
    with pytest.raises(Conflict):
        store.put("swap", b"two", if_match=gone.etag)
    assert store.head("swap") is None


def test_no_increment_is_lost_between_swappers(store: Store) -> None:
    store.put("count", b"0")

    def increment(_: int) -> None:
        while True:
            data, etag = store.read("count")
            try:
                store.put("count", str(int(data) + 1).encode(), if_match=etag)
            except Conflict:
                continue
            return

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(increment, range(12)))
    assert store.read("count")[0] == b"12"


def test_reading_another_object_than_asked_for_is_a_conflict(store: Store) -> None:
    old = store.put("key", b"old")
    store.put("key", b"new!")
    with pytest.raises(Conflict):
        b"".join(store.get("key", if_match=old.etag))


def test_an_object_replaced_while_it_is_read_is_never_mixed(store: Store) -> None:
    old = bytes(4 * BLOCK)
    store.put("key", io.BytesIO(old))
    reader = store.get("key")
    read = next(reader)
    store.put("key", io.BytesIO(b"\1" * len(old)))
    # A folder goes on with the old one, the others notice: neither gives half of each.
    try:
        read += b"".join(reader)
    except Conflict:
        return
    assert read == old


def test_a_listing_is_sorted_and_pages_are_joined(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tandem.storage.azure.PAGE", 2)
    monkeypatch.setattr("tandem.storage.s3.PAGE", 2)
    keys = ["a-b", "a/b", "a/c/d", "a0", "b/1", "b/10", "b/2"]
    for key in keys:
        store.put(key, key.encode())
    assert [stat.key for stat in store.list()] == sorted(keys)
    assert [stat.key for stat in store.list("b/")] == ["b/1", "b/10", "b/2"]
    assert [stat.key for stat in store.list("a", after="a/b")] == ["a/c/d", "a0"]
    assert [stat.key for stat in store.list("a/", after="a/b")] == ["a/c/d"]
    assert [stat.key for stat in store.list("c")] == []
    assert [stat.size for stat in store.list("b/10")] == [4]


def test_a_deleted_object_is_gone(store: Store) -> None:
    store.put("gone", b"x")
    store.delete("gone")
    assert store.head("gone") is None


@pytest.mark.parametrize("key", ["/a", "../a", "a/../b", "a//b", "a/", "", ".tmp/x", "a\\b", "a\n"])
def test_a_key_that_could_leave_the_store_is_refused(store: Store, key: str) -> None:
    with pytest.raises(StorageError, match="key"):
        store.put(key, b"x")


class BreaksOff(io.RawIOBase):
    """A stream that fails after some megabytes, as a disk or a process does."""

    def __init__(self, left: int) -> None:
        self.left = left

    def read(self, size: int = -1) -> bytes:
        if self.left <= 0:
            raise OSError(5, "the disk is gone")
        self.left -= size
        return bytes(size)


def test_half_an_upload_is_not_there(store: Store) -> None:
    with pytest.raises((StorageError, OSError)):
        store.put("half", BreaksOff(2 * BLOCK), if_absent=True)  # type: ignore[arg-type]
    assert store.head("half") is None
    assert [stat.key for stat in store.list()] == []


def test_the_url_of_a_store_opens_it_again(store: Store) -> None:
    store.put("x", os.urandom(8))
    again = open_store(store.url)
    assert again.url == store.url
    assert again.read("x") == store.read("x")


@pytest.mark.parametrize("kind", ["azure", "s3"])
def test_a_record_whose_answer_was_lost_is_there_once_and_is_known_as_ones_own(
    kind: str, moto_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "azure":
        require("azurite")
        connection = os.environ["AZURE_STORAGE_CONNECTION_STRING"]
        endpoint = re.search(r"BlobEndpoint=http://([^/;]+)", connection)[1]
        relay = Relay(endpoint)
        monkeypatch.setenv(
            "AZURE_STORAGE_CONNECTION_STRING", connection.replace(endpoint, relay.host)
        )
        store = azurite_store()
    else:
        relay = Relay(moto_address.removeprefix("http://"))
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://{relay.host}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "test")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        import boto3

        boto3.client("s3").create_bucket(Bucket=BUCKET)
        store = open_store(f"s3://{BUCKET}/{uuid.uuid4().hex}")
    try:
        ledger = Ledger(store, "shop")
        for wanted in (1, 2):
            relay.lose_answer(f"images/{wanted:06}.json HTTP/1.1".encode())
            made = ledger.images.append(image_record)
            assert made.number == wanted
        assert relay.lost == 2
        assert [record.number for record in ledger.images.all()] == [2, 1]
    finally:
        emptied(store)
        relay.cut()


def image_record(number: int) -> ImageRecord:
    return ImageRecord(
        number=number,
        digest=f"sha256:{number}",
        reference="",
        app=AppRef("shop", "a", "tree", "a subject"),
        model=ModelRef("shop", 1, "model", {}),
        tests="1 test passed",
        good=True,
        proofs=[],
        created=now(),
    )
