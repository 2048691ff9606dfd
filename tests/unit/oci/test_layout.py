"""A folder is a registry: whole writes, verified reads, tags, several processes at once."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess

import pytest
from support.oci_samples import blob, read, small_image
from support.services import require

from tandem.errors import RegistryError, SettingError
from tandem.oci import MANIFEST, open_registry
from tandem.oci.blobs import digest_of
from tandem.oci.push import push


@pytest.fixture
def registry(tmp_path):
    return open_registry(f"oci:{tmp_path}/images")


def test_nothing_is_made_before_the_first_write(registry):
    assert registry.head_blob(digest_of(b"x")) is None
    assert registry.get_manifest("latest") is None
    assert registry.tags() == []
    registry.delete("latest")
    assert not registry.folder.exists()


def test_folder_needs_a_name():
    with pytest.raises(SettingError, match="oci:FOLDER"):
        open_registry("oci:")


def test_blob_comes_back_and_is_stored_once(registry):
    descriptor, source = blob(b"content")
    assert registry.put_blob(descriptor, source).how == "uploaded"
    assert registry.put_blob(descriptor, source).how == "present"
    assert read(registry, descriptor.digest) == b"content"


def test_damaged_blob_is_refused(registry):
    descriptor, source = blob(b"content")
    registry.put_blob(descriptor, source)
    registry.path(descriptor.digest).write_bytes(b"CONTENT")
    with pytest.raises(RegistryError, match="damaged"):
        read(registry, descriptor.digest)


def test_blob_that_was_cut_short_is_uploaded_again(registry):
    descriptor, source = blob(b"content")
    registry.put_blob(descriptor, source)
    registry.path(descriptor.digest).write_bytes(b"con")
    assert registry.put_blob(descriptor, source).how == "uploaded"
    assert read(registry, descriptor.digest) == b"content"


@pytest.mark.parametrize("digest", ["sha256:../../etc/passwd", "sha512:00", "x"])
def test_digest_that_is_none_never_becomes_a_path(registry, digest):
    with pytest.raises(RegistryError, match="invalid digest"):
        read(registry, digest)


def test_manifest_goes_in_only_behind_its_blobs(registry):
    image, _ = small_image()
    with pytest.raises(RegistryError, match="does not have"):
        registry.put_manifest(image.manifest, MANIFEST, tag="one")


def test_tag_moves_and_the_old_image_stays_by_digest(registry):
    first, sources = small_image(b"1")
    second, more = small_image(b"2")
    push(registry, first, sources, tag="latest")
    push(registry, second, more, tag="latest")
    assert registry.tags() == ["latest"]
    assert registry.get_manifest(first.digest) is not None


def test_one_image_can_have_two_tags(registry):
    image, sources = small_image()
    push(registry, image, sources, tag="one")
    push(registry, image, sources, tag="two")
    assert registry.tags() == ["one", "two"]
    assert registry.get_manifest("one") == registry.get_manifest("two")
    registry.delete("one")
    assert registry.tags() == ["two"]
    registry.delete("two")
    assert registry.tags() == []
    assert registry.get_manifest(image.digest) is not None
    registry.delete(image.digest)
    assert registry.get_manifest(image.digest) is None


@pytest.mark.parametrize("tag", ["a/b", "..", "", "x" * 129, "ü"])
def test_tag_that_is_none_is_refused(registry, tag):
    image, sources = small_image()
    push(registry, image, sources)
    with pytest.raises(RegistryError, match="invalid tag"):
        registry.put_manifest(image.manifest, MANIFEST, tag=tag)


def test_collecting_removes_what_nothing_refers_to_and_spares_what_is_on_its_way(registry):
    image, sources = small_image()
    push(registry, image, sources, tag="one")
    descriptor, source = blob(b"of no manifest")
    registry.put_blob(descriptor, source)
    assert registry.collect() == 0
    assert registry.collect(grace=-1) == descriptor.size
    assert registry.head_blob(descriptor.digest) is None
    assert read(registry, image.layers[0].descriptor.digest)
    registry.delete(image.digest)
    registry.collect(grace=-1)
    assert registry.head_blob(image.layers[0].descriptor.digest) is None


def _push_one(url: str, number: int) -> None:
    image, sources = small_image(str(number).encode())
    push(open_registry(url), image, sources, tag=f"t{number}")


def test_pushers_at_once_lose_nobodys_tag(registry):
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=_push_one, args=(registry.url, number)) for number in range(4)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert set(registry.tags()) == {"t0", "t1", "t2", "t3"}


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "{}", '{"manifests": 1}', '{"manifests": [1]}', '{"manifests": [{"digest": "x"}]}'],
)
def test_broken_index_is_one_clear_line(registry, text):
    image, sources = small_image()
    push(registry, image, sources)
    (registry.folder / "index.json").write_text(text)
    with pytest.raises(RegistryError, match=r"index\.json is not the index"):
        registry.tags()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folder_that_cannot_be_written_is_one_clear_line(tmp_path):
    tmp_path.chmod(0o500)
    image, sources = small_image()
    with pytest.raises(RegistryError, match="Permission denied"):
        push(open_registry(f"oci:{tmp_path}/images"), image, sources)


def test_folder_below_a_file_is_one_clear_line(tmp_path):
    (tmp_path / "file").touch()
    image, sources = small_image()
    with pytest.raises(RegistryError, match="Not a directory"):
        push(open_registry(f"oci:{tmp_path}/file/images"), image, sources)


def test_skopeo_reads_and_copies_the_folder(registry, tmp_path):
    require("skopeo")
    image, sources = small_image()
    push(registry, image, sources, tag="one")
    push(registry, small_image(b"other")[0], small_image(b"other")[1], tag="two")
    where = f"oci:{registry.folder}:one"
    said = subprocess.run(["skopeo", "inspect", where], capture_output=True, text=True, check=True)
    assert json.loads(said.stdout)["Digest"] == image.digest
    copy = ["skopeo", "copy", "--quiet", where, f"dir:{tmp_path}/copied"]
    subprocess.run(copy, check=True, capture_output=True)
    assert (tmp_path / "copied" / image.layers[0].descriptor.digest[7:]).exists()
