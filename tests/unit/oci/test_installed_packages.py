"""The packages in an image are found where they are installed, and only there."""

from __future__ import annotations

import gzip

import msgspec
import pytest
from support.oci_samples import tar_layer

from tandem.errors import RegistryError
from tandem.oci import LAYER_GZIP, LAYER_ZSTD, Layer, open_registry
from tandem.oci.app_image.installed_packages import packages_in
from tandem.oci.blobs import bytes_source, digest_of
from tandem.oci.components import Component, component_of
from tandem.oci.image import Image, make_image


@pytest.fixture
def registry(tmp_path):
    return open_registry(f"oci:{tmp_path}/images")


def metadata(name: str, version: str, *more: str) -> bytes:
    lines = ["Metadata-Version: 2.4", f"Name: {name}", f"Version: {version}", *more, "", "Text"]
    return "\n".join(lines).encode()


def installed(name: str, version: str, *more: str, at: str = "app/lib") -> tuple[str, bytes]:
    folder = f"{name.replace('-', '_')}-{version}.dist-info"
    return f"{at}/{folder}/METADATA", metadata(name, version, *more)


def image(registry, *layers) -> Image:
    made = []
    for members in layers:
        layer, data = tar_layer(*members)
        registry.put_blob(layer.descriptor, bytes_source(data))
        made.append(layer)
    return make_image(None, made)


def found(registry, tmp_path, whole: Image, locked=()) -> dict[str, str]:
    listed = packages_in(registry, whole, cache=tmp_path / "cache", locked=locked)
    return {one.name: f"{one.version} {one.license}".strip() for one in listed}


def test_packages_are_listed_with_their_licences(registry, tmp_path):
    whole = image(
        registry,
        [installed("Flask", "3.1.3", "License-Expression: BSD-3-Clause"), ("app/x.py", b"")],
        [installed("numpy", "2.4", "License: modified", at="usr/lib/python3/dist-packages")],
    )
    assert found(registry, tmp_path, whole) == {
        "Flask": "3.1.3 BSD-3-Clause",
        "numpy": "2.4 modified",
    }


def test_what_a_package_carries_along_and_the_base_are_not_listed(registry, tmp_path):
    whole = image(
        registry,
        [installed("pip", "26", at="usr/lib/python3.11/site-packages")],
        [installed("wheel", "1", at="app/lib/setuptools/_vendor"), installed("a", "1")],
    )
    base = msgspec.structs.replace(whole.layers[0], kind="base")
    whole = msgspec.structs.replace(whole, layers=(base, whole.layers[1]))
    assert found(registry, tmp_path, whole) == {"a": "1"}


@pytest.mark.parametrize(
    "gone",
    [
        "app/lib/.wh.old-1.dist-info",
        "app/lib/old-1.dist-info/.wh.METADATA",
        "app/lib/.wh..wh..opq",
        "app/.wh.lib",
        ".wh..wh..opq",
    ],
)
def test_what_an_upper_layer_deletes_is_not_listed(registry, tmp_path, gone):
    whole = image(registry, [installed("old", "1")], [(gone, b""), installed("old", "2")])
    assert found(registry, tmp_path, whole) == {"old": "2"}


def test_what_only_the_lock_file_tells_is_listed_without_a_licence(registry, tmp_path):
    whole = image(registry, [installed("some-thing", "1", "License-Expression: MIT")])
    locked = [Component(name="Some.Thing", version="1"), Component(name="other", version="2")]
    assert found(registry, tmp_path, whole, locked) == {"some-thing": "1 MIT", "other": "2"}


def test_a_layer_is_read_once(registry, tmp_path):
    whole = image(registry, [installed("a", "1")])
    first = found(registry, tmp_path, whole)
    registry.path(whole.layers[0].descriptor.digest).unlink()
    assert found(registry, tmp_path, whole) == first == {"a": "1"}


def test_a_compressed_layer_is_read_and_one_that_cannot_be_is_left_to_the_lock(registry, tmp_path):
    _, data = tar_layer(installed("a", "1"))
    packed = gzip.compress(data)
    for media_type, expected in ((LAYER_GZIP, {"a": "1"}), (LAYER_ZSTD, {})):
        layer, _ = tar_layer()
        descriptor = msgspec.structs.replace(
            layer.descriptor, media_type=media_type, digest=digest_of(packed), size=len(packed)
        )
        registry.put_blob(descriptor, bytes_source(packed))
        whole = make_image(None, [Layer(descriptor=descriptor, diff_id=digest_of(data))])
        assert found(registry, tmp_path, whole) == expected


def test_a_layer_that_is_no_archive_is_said(registry, tmp_path):
    layer, _ = tar_layer()
    data = b"x" * 600
    descriptor = msgspec.structs.replace(layer.descriptor, digest=digest_of(data), size=len(data))
    registry.put_blob(descriptor, bytes_source(data))
    whole = make_image(None, [Layer(descriptor=descriptor, diff_id=digest_of(data))])
    with pytest.raises(RegistryError, match="not a tar archive"):
        packages_in(registry, whole, cache=tmp_path / "cache")


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["License-Expression: MIT", "License: other"], "MIT"),
        (["License: BSD-3-Clause"], "BSD-3-Clause"),
        (["License: " + "a long text " * 20, "Classifier: License :: OSI Approved :: X"], "X"),
        (["Classifier: License :: OSI Approved"], ""),
        (["Classifier: License :: A :: One", "Classifier: License :: B :: Two"], "One, Two"),
        (["Classifier: Topic :: License :: No"], ""),
        ([], ""),
    ],
)
def test_the_licence_is_what_the_newest_field_says_in_a_few_words(lines, words):
    text = metadata("x", "1", *lines).decode()
    assert component_of(text, "x-1.dist-info").license == words


def test_metadata_that_says_nothing_is_named_by_its_folder():
    assert component_of("", "some_thing-1.2.dist-info") == Component(
        name="some_thing", version="1.2"
    )
