"""The folder store: what a crash, a full disk and a wrong folder do; how stores are named."""

from __future__ import annotations

import errno
import io
import os
import time
from pathlib import Path

import pytest

from tandem.errors import SettingError, StorageError
from tandem.storage import open_store


def test_what_a_killed_writer_left_is_no_object_and_is_swept_up(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    open_store(f"file:{folder}").put("a", b"x")
    left, fresh = folder / ".tmp" / "left", folder / ".tmp" / "fresh"
    left.write_bytes(b"half")
    fresh.write_bytes(b"half")
    os.utime(left, (time.time() - 2 * 86400,) * 2)
    store = open_store(f"file:{folder}")
    assert [stat.key for stat in store.list()] == ["a"]
    store.put("b", b"y")
    assert not left.exists()
    assert fresh.exists()


def test_a_full_disk_is_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    store = open_store(f"file:{tmp_path}")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left on device"):
        store.put("a/b", b"x")
    monkeypatch.undo()
    assert list(store.list()) == []
    assert list((tmp_path / ".tmp").iterdir()) == []


def test_a_folder_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("no folder")
    with pytest.raises(StorageError, match="Not a directory"):
        open_store(f"file:{tmp_path}/store").put("a", b"x")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_not_writable_is_one_line(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="Permission denied"):
        open_store(f"file:{tmp_path}/store").put("a", b"x")


def test_a_file_system_without_hard_links_still_creates_only_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    store = open_store(f"file:{tmp_path}")
    store.put("a", io.BytesIO(b"first"), if_absent=True)
    with pytest.raises(StorageError, match="there already"):
        store.put("a", b"second", if_absent=True)
    assert store.read("a")[0] == b"first"


@pytest.mark.parametrize(
    "url",
    ["", "store", "file:", "http://x/y", "az://account", "az://UPPER/box", "s3://", "s3://A B/x"],
)
def test_a_store_of_another_form_says_what_would_be_right(url: str) -> None:
    with pytest.raises(SettingError, match=r"az://ACCOUNT/CONTAINER"):
        open_store(url)


def test_a_secret_in_a_url_is_not_repeated() -> None:
    with pytest.raises(SettingError) as raised:
        open_store("az://me:secret@account/box")
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    "url", ["az://account1/box", "az://account1/box/a/b", "s3://my-bucket", "s3://my-bucket/a/b"]
)
def test_opening_a_store_contacts_nothing(url: str) -> None:
    assert open_store(url).url == url
