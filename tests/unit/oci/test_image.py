"""Images are values: a change makes a new one, the same parts make the same one."""

from __future__ import annotations

import json

import msgspec
import pytest
from support.oci_samples import small_image, tar_layer

from tandem.errors import RegistryError
from tandem.oci import DOCKER_MANIFEST, MANIFEST, open_registry
from tandem.oci.blobs import bytes_source, digest_of
from tandem.oci.image import Platform, make_image, scratch
from tandem.oci.pull import pull
from tandem.oci.push import push


@pytest.fixture
def registry(tmp_path):
    return open_registry(f"oci:{tmp_path}/images")


def test_same_parts_make_the_same_digest():
    assert small_image()[0].digest == small_image()[0].digest


def test_label_changes_the_digest_and_leaves_the_layers():
    image, _ = small_image()
    labelled = image.with_config(labels={"c": "d"})
    assert labelled.labels == {"a": "b", "c": "d"}
    assert labelled.layers == image.layers
    assert labelled.digest != image.digest


def test_appended_layer_leaves_the_others_as_they_were():
    image, _ = small_image()
    layer, _ = tar_layer(("model/model.onnx", b"x"))
    more = image.append(layer)
    assert more.layers == (*image.layers, layer)
    assert more.settings["rootfs"]["diff_ids"] == [one.diff_id for one in more.layers]
    assert len(more.settings["history"]) == 2
    assert image.settings["rootfs"]["diff_ids"] == [image.layers[0].diff_id]


def test_environment_is_added_and_a_setting_can_be_taken_away():
    image = scratch(Platform()).with_config(env={"A": "1"}, Cmd=["x"], User="1:1")
    image = image.with_config(env={"A": "2", "B": "3"}, Cmd=None)
    assert image.environment == {"A": "2", "B": "3"}
    assert "Cmd" not in image.settings["config"]
    assert image.settings["config"]["User"] == "1:1"


def test_base_layers_are_called_base_and_its_annotations_do_not_pass_on():
    base = small_image()[0].with_annotations({"of": "the base"})
    layer, _ = tar_layer(("app/x", b"x"))
    image = make_image(base, [layer], annotations={"mine": "yes"})
    assert [one.kind for one in image.layers] == ["base", "application"]
    assert image.annotations == {"mine": "yes"}


def test_pulled_image_is_the_one_that_was_pushed(registry):
    image, sources = small_image()
    push(registry, image, sources, tag="one")
    assert pull(registry, "one") == image
    assert pull(registry, image.digest) == image


def test_second_push_of_the_same_image_sends_nothing(registry):
    image, sources = small_image()
    first = push(registry, image, sources, tag="one")
    assert [one.how for one in first] == ["uploaded", "uploaded"]
    second = push(registry, image, {}, tag="one")
    assert [(one.how, one.sent) for one in second] == [("present", 0), ("present", 0)]


def test_layer_that_is_nowhere_is_said_and_no_manifest_is_written(registry):
    image, _ = small_image()
    with pytest.raises(RegistryError, match="nothing here to upload it from"):
        push(registry, image, {}, tag="one")
    assert registry.get_manifest("one") is None
    assert registry.get_manifest(image.digest) is None


def test_a_configuration_is_read_once_and_a_damaged_copy_is_read_again(registry, tmp_path):
    image, sources = small_image()
    push(registry, image, sources, tag="one")
    kept = tmp_path / "kept"
    assert pull(registry, "one", cache=kept) == image
    (copy,) = kept.iterdir()
    copy.write_bytes(b"damaged")
    assert pull(registry, "one", cache=kept) == image
    assert copy.read_bytes() == image.config
    registry.path(image.config_descriptor.digest).unlink()
    assert pull(registry, "one", cache=kept) == image


def test_missing_image_is_said_by_name(registry):
    with pytest.raises(RegistryError, match=r"there is no image .*:gone"):
        pull(registry, "gone")


def test_docker_manifest_is_read_as_an_image_of_the_same_layers(registry):
    image, sources = small_image()
    push(registry, image, sources)
    manifest = json.loads(image.manifest)
    manifest["mediaType"] = DOCKER_MANIFEST
    manifest["config"]["mediaType"] = "application/vnd.docker.container.image.v1+json"
    manifest["layers"][0] = {
        "mediaType": "application/vnd.docker.image.rootfs.diff.tar",
        "digest": image.layers[0].descriptor.digest,
        "size": image.layers[0].descriptor.size,
    }
    registry.put_manifest(json.dumps(manifest).encode(), DOCKER_MANIFEST, tag="docker")
    pulled = pull(registry, "docker")
    assert pulled.layers == (msgspec.structs.replace(image.layers[0], kind=""),)
    assert pulled.config == image.config


def test_image_for_another_platform_only_is_refused_with_what_there_is(registry):
    image, sources = small_image()
    push(registry, image, sources)
    index = {
        "schemaVersion": 2,
        "manifests": [
            {
                "mediaType": MANIFEST,
                "digest": image.digest,
                "size": len(image.manifest),
                "platform": {"os": "linux", "architecture": "arm64"},
            }
        ],
    }
    media_type = "application/vnd.oci.image.index.v1+json"
    registry.put_manifest(json.dumps(index).encode(), media_type, tag="many")
    with pytest.raises(RegistryError, match="not made for linux/amd64, only for linux/arm64"):
        pull(registry, "many")
    assert pull(registry, "many", platform=Platform("linux", "arm64")) == image


@pytest.mark.parametrize(
    "break_it",
    [
        lambda manifest: manifest.pop("layers"),
        lambda manifest: manifest.update(layers=[]),
        lambda manifest: manifest.update(layers=[{"mediaType": "text/x"}]),
        lambda manifest: manifest["layers"][0].update(mediaType="text/x"),
        lambda manifest: manifest["config"].update(size=1 << 40),
    ],
)
def test_manifest_that_is_none_is_refused(registry, break_it):
    image, sources = small_image()
    push(registry, image, sources)
    manifest = json.loads(image.manifest)
    break_it(manifest)
    data = json.dumps(manifest).encode()
    (registry.folder / "blobs/sha256" / digest_of(data).removeprefix("sha256:")).write_bytes(data)
    entries = [{"mediaType": MANIFEST, "digest": digest_of(data), "size": len(data)}]
    (registry.folder / "index.json").write_text(json.dumps({"manifests": entries}))
    with pytest.raises(RegistryError):
        pull(registry, digest_of(data))


def test_source_with_other_bytes_is_refused(registry):
    image, sources = small_image()
    wrong = {digest: bytes_source(b"other") for digest in sources}
    with pytest.raises(RegistryError, match="not stored"):
        push(registry, image, wrong)
    assert registry.head_blob(image.layers[0].descriptor.digest) is None
