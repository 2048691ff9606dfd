"""Layers are the same bytes wherever and however they are made."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import os
import tarfile
from pathlib import Path

import pytest

from tandem.errors import BuildError
from tandem.oci import LAYER_GZIP, LAYER_TAR, open_registry
from tandem.oci.compress import compress_fast, compress_small
from tandem.oci.layer import make_layer, model_layer
from tandem.oci.merge import merge
from tandem.oci.spool import spool, sweep, writing
from tandem.oci.tar import Entry, data_entry, folder_entries, ordered
from tandem.oci.unpack import unpack_layer


def content(built) -> bytes:
    with built.open() as file:
        return file.read()


def members(data: bytes) -> list[tarfile.TarInfo]:
    return tarfile.open(fileobj=io.BytesIO(data)).getmembers()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "deep" / "b.py").write_text("b = 1\n")
    (tmp_path / "in" / "a.sh").write_text("echo\n")
    (tmp_path / "in" / "a.sh").chmod(0o755)
    return tmp_path / "in"


def test_entries_are_sorted_without_owner_or_date_and_with_four_modes(folder):
    (folder / "deep" / "b.py").chmod(0o600)
    (folder / "link").symlink_to("deep/b.py")
    built = make_layer(folder_entries(folder, "app"), kind="application", compression="none")
    found = members(content(built))
    assert [(one.name, one.mode) for one in found] == [
        ("app", 0o755),
        ("app/deep", 0o755),
        ("app/link", 0o777),
        ("app/deep/b.py", 0o644),
        ("app/a.sh", 0o755),
    ]
    assert {(one.uid, one.gid, one.uname, one.gname, one.mtime) for one in found} == {
        (0, 0, "", "", 0)
    }
    assert found[2].linkname == "deep/b.py"


def test_dates_and_group_modes_of_the_folder_do_not_change_the_digest(folder):
    first = make_layer(folder_entries(folder, "app"), kind="x", compression="none").layer
    os.utime(folder / "a.sh", (1, 1))
    (folder / "a.sh").chmod(0o700)
    (folder / "deep").chmod(0o700)
    assert make_layer(folder_entries(folder, "app"), kind="x", compression="none").layer == first


def test_other_content_has_another_digest(folder):
    first = make_layer(folder_entries(folder, "app"), kind="x", compression="none").layer
    (folder / "a.sh").write_text("other\n")
    second = make_layer(folder_entries(folder, "app"), kind="x", compression="none").layer
    assert second.descriptor.digest != first.descriptor.digest


@pytest.mark.parametrize("compression", ["fast", "small"])
def test_compressed_layer_names_both_digests(folder, tmp_path, compression):
    plain = make_layer(folder_entries(folder, "app"), kind="x", compression="none")
    built = make_layer(
        folder_entries(folder, "app"), kind="x", compression=compression, into=tmp_path / "out"
    )
    data = content(built)
    assert built.layer.descriptor.media_type == LAYER_GZIP
    assert built.layer.descriptor.digest == f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert built.layer.descriptor.size == len(data)
    assert built.layer.diff_id == plain.layer.descriptor.digest
    assert gzip.decompress(data) == content(plain)


def test_small_compression_is_the_same_for_any_number_of_threads_and_chunks():
    data = bytes(range(256)) * 20_000 + os.urandom(1000)
    chunks = [data[start : start + 70_001] for start in range(0, len(data), 70_001)]
    one = b"".join(compress_small(chunks, threads=1))
    assert one == b"".join(compress_small([data], threads=3))
    assert gzip.decompress(one) == data


@pytest.mark.parametrize("compress", [compress_fast, compress_small])
@pytest.mark.parametrize("data", [b"", b"x", b"y" * (1 << 20)])
def test_any_length_survives_compression(compress, data):
    assert gzip.decompress(b"".join(compress([data] if data else []))) == data


def test_gzip_header_carries_no_name_and_no_date():
    for compress in (compress_fast, compress_small):
        header = b"".join(compress([b"x"]))[:8]
        assert header[3] == 0
        assert header[4:8] == bytes(4)


@pytest.mark.parametrize("path", ["/etc/x", "a/../b", "a//b", "", "."])
def test_path_that_is_no_image_path_is_refused(path):
    with pytest.raises(BuildError, match=r"comes twice|not a path"):
        ordered([data_entry(path, b""), data_entry(path.strip("/") or "x", b"")])


def test_name_that_comes_twice_is_refused():
    with pytest.raises(BuildError, match="twice"):
        ordered([data_entry("a", b"1"), data_entry("a", b"2")])


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside", "deep/../../outside"])
def test_link_that_leads_out_of_the_folder_is_refused(folder, target):
    (folder / "link").symlink_to(target)
    with pytest.raises(BuildError, match="link"):
        list(folder_entries(folder, "app"))


def test_pipe_is_refused(folder):
    os.mkfifo(folder / "pipe")
    with pytest.raises(BuildError, match="not a regular file"):
        list(folder_entries(folder, "app"))


def test_name_that_means_deletion_in_a_layer_is_refused(folder):
    (folder / ".wh.a").touch()
    with pytest.raises(BuildError, match=r"\.wh\."):
        list(folder_entries(folder, "app"))


def test_file_that_changes_while_it_is_packed_is_refused(folder):
    entries = list(folder_entries(folder, "app"))
    with (folder / "a.sh").open("a") as file:
        file.write("more\n")
    with pytest.raises(BuildError, match="changed while"):
        make_layer(entries, kind="x", compression="none")


def test_long_and_foreign_names_survive():
    path = "app/" + "d" * 120 + "/" + "é" * 90
    built = make_layer([data_entry(path, b"x")], kind="x", compression="none")
    assert members(content(built))[-1].name == path


def test_model_that_does_not_shrink_is_stored_plain_and_writes_nothing(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.onnx").write_bytes(os.urandom(100_000))
    built = model_layer(tmp_path / "model", into=tmp_path / "out")
    assert built.layer.descriptor.media_type == LAYER_TAR
    assert not (tmp_path / "out").exists()
    found = members(content(built))
    assert [(one.name, one.mode, one.linkname) for one in found] == [
        ("model", 0o777, "models"),
        ("models", 0o755, ""),
        ("models/model.onnx", 0o444, ""),
    ]


def test_model_is_found_by_the_app_and_by_readers_of_model_images(tmp_path):
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "model.onnx").write_bytes(b"weights")
    built = model_layer(tmp_path / "package", into=tmp_path / "out")
    registry = open_registry(f"oci:{tmp_path}/images")
    registry.put_blob(built.layer.descriptor, built.open)
    layer = unpack_layer(registry, built.layer, tmp_path / "layer")
    (tmp_path / "root").mkdir()
    merge([layer], tmp_path / "root")
    assert (tmp_path / "root/model/model.onnx").read_bytes() == b"weights"
    assert (tmp_path / "root/models/model.onnx").read_bytes() == b"weights"


def test_model_that_shrinks_is_compressed(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.onnx").write_bytes(bytes(100_000))
    built = model_layer(tmp_path / "model", into=tmp_path / "out")
    assert built.layer.descriptor.media_type == LAYER_GZIP
    assert built.layer.descriptor.size < 2000


def test_write_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), writing(tmp_path, "x") as (file, name):
        file.write(b"half")
        name("whole")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_full_disk_is_one_clear_line_and_leaves_nothing(tmp_path, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BuildError, match="disk is full") as caught:
        spool([b"x"], tmp_path, LAYER_GZIP)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_folder_that_cannot_be_made_is_one_clear_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(BuildError, match="packing a layer into"):
        spool([b"x"], tmp_path / "file" / "below", LAYER_GZIP)


def test_plain_layer_can_be_read_again():
    built = make_layer(
        [Entry(path="a", mode=0o644, data=b"x", size=1)], kind="", compression="none"
    )
    assert content(built) == content(built)


def test_blobs_of_pushes_long_over_are_swept_and_nothing_else(tmp_path):
    old, new, other = tmp_path / ("0" * 64), tmp_path / ("1" * 64), tmp_path / "record.json"
    (tmp_path / ".partial-left").mkdir()
    for path in (old, new, other):
        path.touch()
    for path in (old, other, tmp_path / ".partial-left"):
        os.utime(path, (1, 1))
    sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [new.name, other.name]
