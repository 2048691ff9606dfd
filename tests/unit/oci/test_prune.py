"""Clean-up removes old images and what is about them, and nothing that anyone needs."""

from __future__ import annotations

import pytest
from support.oci_samples import small_image, tar_layer

from tandem.errors import RegistryError
from tandem.oci import open_registry
from tandem.oci.attest.provenance import Origin
from tandem.oci.attest.referrers import fallback_tag
from tandem.oci.attest.statements import attest
from tandem.oci.blobs import bytes_source
from tandem.oci.components import Component
from tandem.oci.model_pack import ModelDescription, put_model_pack
from tandem.oci.prune import prune
from tandem.oci.pull import pull
from tandem.oci.push import push


@pytest.fixture
def registry(tmp_path):
    return open_registry(f"oci:{tmp_path}/images")


@pytest.fixture
def images(registry):
    """Two app images; of the first one image, of the second four. Newest first."""
    made = []
    for number, app in enumerate([b"old", b"new", b"new", b"new", b"new"]):
        image, sources = small_image(app)
        image = image.with_config(labels={"tandem.app": "digits"})
        push(registry, image, sources, tag=f"app-{app.decode()}")
        layer, data = tar_layer(("model/x", str(number).encode()))
        whole = image.append(layer).with_config(labels={"tandem.model.digest": str(number)})
        push(registry, whole, {layer.descriptor.digest: bytes_source(data)}, tag=f"m{number}")
        facts = Origin(app="digits", commit="c" * 40)
        attest(registry, whole, facts, components=[Component(name="a", version="1")])
        made.insert(0, whole)
    return made


def digests(images) -> list[str]:
    return [image.digest for image in images]


def test_images_beyond_the_number_go_with_what_is_about_them(registry, images):
    done = prune(registry, digests(images), app="digits", keep=[], number=2)
    gone = {one.digest for one in done.removed if one.what == "image"}
    assert gone == set(digests(images[2:]))
    for image in images[2:]:
        assert registry.get_manifest(image.digest) is None
        assert registry.get_manifest(fallback_tag(image.digest)) is None
    for image in images[:2]:
        assert pull(registry, image.digest) == image
        assert registry.get_manifest(fallback_tag(image.digest)) is not None


def test_app_image_goes_with_the_last_image_made_from_it(registry, images):
    done = prune(registry, digests(images), app="digits", keep=[], number=2)
    assert [one.tags for one in done.removed if one.what == "app image"] == [("app-old",)]
    assert "app-new" in registry.tags()


def test_what_is_to_be_kept_stays_however_old(registry, images):
    prune(registry, digests(images), app="digits", keep=[images[-1].digest], number=1)
    assert pull(registry, images[-1].digest)
    assert "app-old" in registry.tags()


def test_dry_run_tells_the_same_and_removes_nothing(registry, images):
    before = registry.tags()
    told = prune(registry, digests(images), app="digits", keep=[], number=2, dry_run=True)
    assert registry.tags() == before
    done = prune(registry, digests(images), app="digits", keep=[], number=2)
    assert (told.removed, told.bytes) == (done.removed, done.bytes)
    assert told.bytes > 0


def test_what_is_in_no_record_is_not_touched(registry, images):
    done = prune(registry, digests(images[1:]), app="digits", keep=[], number=1)
    assert images[0].digest in done.kept
    assert pull(registry, images[0].digest)


def test_other_apps_and_strangers_are_not_touched(registry, images):
    other, sources = small_image(b"other")
    push(registry, other, sources, tag="stranger")
    done = prune(registry, [*digests(images), other.digest], app="digits", keep=[], number=1)
    assert other.digest not in {one.digest for one in done.removed}
    assert pull(registry, "stranger") == other


def test_second_clean_up_finds_nothing(registry, images):
    prune(registry, digests(images), app="digits", keep=[], number=2)
    assert prune(registry, digests(images), app="digits", keep=[], number=2).removed == ()


def test_clean_up_that_would_keep_nothing_is_refused(registry, images):
    with pytest.raises(RegistryError, match="at least 1"):
        prune(registry, digests(images), app="digits", keep=[], number=0)


def test_model_pack_goes_with_the_last_image_that_has_its_layer(registry, images):
    for number, image in enumerate(images):
        model = ModelDescription(name="digits", version=number, format="onnx")
        put_model_pack(registry, image.layers[-1], model)
    prune(registry, digests(images), app="digits", keep=[], number=2, dry_run=True)
    assert len([tag for tag in registry.tags() if tag.startswith("model-")]) == 5
    prune(registry, digests(images), app="digits", keep=[], number=2)
    kept = [tag for tag in registry.tags() if tag.startswith("model-")]
    assert kept == ["model-digits-v0", "model-digits-v1"]
