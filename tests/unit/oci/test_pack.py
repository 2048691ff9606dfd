"""A model is put on an app image: one layer, and the statements about the result beside it."""

from __future__ import annotations

import pytest
from support.oci_samples import pem, small_image, tar_layer

from tandem.errors import BuildError, RegistryError
from tandem.oci import open_registry
from tandem.oci.attest.materials import attach_materials, components_in
from tandem.oci.attest.provenance import Origin
from tandem.oci.attest.referrers import referrers
from tandem.oci.attest.signature import checking_key, signing_key
from tandem.oci.attest.trust import require_signed
from tandem.oci.attest.verify import verify
from tandem.oci.blobs import bytes_source
from tandem.oci.components import Component
from tandem.oci.image import Image
from tandem.oci.layer import BuiltLayer
from tandem.oci.pack import pack
from tandem.oci.pull import pull
from tandem.oci.push import push

COMPONENTS = [Component(name="Flask", version="3.1.3", license="BSD-3-Clause")]
ORIGIN = Origin(
    app="digits",
    commit="c" * 40,
    model="digits",
    model_version=17,
    model_digest="sha256:" + "d" * 64,
)


@pytest.fixture
def registry(tmp_path):
    return open_registry(f"oci:{tmp_path}/images")


@pytest.fixture
def app(registry):
    """An app image as a build leaves it, with its bill of materials."""
    image, sources = small_image()
    image = image.with_config(User="10001:10001", Cmd=["python3"])
    push(registry, image, sources, tag="app")
    attach_materials(registry, image, COMPONENTS, app="digits")
    return image


def model(content: bytes = b"x") -> BuiltLayer:
    layer, data = tar_layer(("model/model.onnx", content))
    return BuiltLayer(layer=layer, open=bytes_source(data))


def labelled(below: Image) -> Image:
    return below.with_config(
        labels={
            "org.opencontainers.image.revision": ORIGIN.commit,
            "org.opencontainers.image.version": "c-m17",
            "tandem.model.name": "digits",
            "tandem.model.version": "17",
            "tandem.model.digest": ORIGIN.model_digest,
        }
    )


@pytest.mark.parametrize("expect_new", [True, False])
def test_packed_image_is_the_app_image_and_one_layer(registry, app, expect_new):
    image, transfers = pack(
        registry, app.digest, model, labelled, ORIGIN, tag="whole", expect_new=expect_new
    )
    assert image == labelled(app).append(model().layer)
    assert [transfer.how for transfer in transfers] == ["present", "uploaded", "uploaded"]
    assert pull(registry, "whole") == image


@pytest.mark.parametrize("expect_new", [True, False])
def test_packed_image_has_its_statements(registry, app, tmp_path, expect_new):
    cache = tmp_path / "cache"
    image, _ = pack(
        registry,
        app.digest,
        model,
        labelled,
        ORIGIN,
        tag="whole",
        expect_new=expect_new,
        cache=cache,
    )
    report = verify(registry, "whole")
    assert report.ok, report.missing
    assert len(referrers(registry, image.digest)) == 2


def test_same_pair_packed_again_adds_nothing(registry, app, tmp_path):
    first, _ = pack(registry, app.digest, model, labelled, ORIGIN, tag="whole")
    before = sorted(path.name for path in (registry.folder / "blobs" / "sha256").iterdir())
    again, transfers = pack(
        registry, app.digest, model, labelled, ORIGIN, tag="whole", expect_new=True
    )
    assert again == first
    assert {transfer.how for transfer in transfers} == {"present"}
    after = sorted(path.name for path in (registry.folder / "blobs" / "sha256").iterdir())
    assert after == before


def test_known_layer_with_other_settings_is_another_image_with_statements(registry, app):
    first, _ = pack(registry, app.digest, model, lambda below: below, ORIGIN)
    second, transfers = pack(registry, app.digest, model, labelled, ORIGIN, tag="whole")
    assert second.digest != first.digest
    assert [transfer.how for transfer in transfers] == ["present", "present", "uploaded"]
    assert verify(registry, "whole").ok


def test_packed_image_is_signed_by_the_key_that_is_set(registry, app):
    private, public = pem()
    signer = signing_key({"TANDEM_SIGNING_KEY": private})
    image, _ = pack(registry, app.digest, model, labelled, ORIGIN, tag="whole", signer=signer)
    require_signed(registry, image.digest, checking_key({"TANDEM_VERIFY_KEY": public}))


def test_image_packed_without_a_key_is_signed_when_it_is_packed_with_one(registry, app):
    private, public = pem()
    pack(registry, app.digest, model, labelled, ORIGIN, tag="whole")
    signer = signing_key({"TANDEM_SIGNING_KEY": private})
    image, _ = pack(registry, app.digest, model, labelled, ORIGIN, tag="whole", signer=signer)
    require_signed(registry, image.digest, checking_key({"TANDEM_VERIFY_KEY": public}))


def test_layer_on_top_of_nothing_is_an_error_and_leaves_no_image(registry):
    with pytest.raises(RegistryError, match="there is no image"):
        pack(registry, "gone", model, labelled, ORIGIN, tag="whole")
    assert registry.get_manifest("whole") is None


def test_app_image_that_is_gone_is_named_though_it_was_read_before(registry, app, tmp_path):
    pack(registry, app.digest, model, labelled, ORIGIN, tag="one", cache=tmp_path)
    for path in (registry.folder / "blobs" / "sha256").iterdir():
        path.unlink()
    (registry.folder / "index.json").unlink()
    with pytest.raises(RegistryError, match=f"there is no image .*{app.digest}"):
        pack(registry, app.digest, lambda: model(b"y"), labelled, ORIGIN, cache=tmp_path)


def test_layer_that_cannot_be_made_leaves_no_image(registry, app):
    def failing() -> BuiltLayer:
        raise BuildError("no model")

    with pytest.raises(BuildError, match="no model"):
        pack(registry, app.digest, failing, labelled, ORIGIN, tag="whole", expect_new=True)
    assert registry.get_manifest("whole") is None


def test_components_of_an_app_image_are_read_once(registry, app, tmp_path):
    assert components_in(registry, app.digest, cache=tmp_path) == COMPONENTS
    for referrer in referrers(registry, app.digest):
        registry.delete(referrer.digest)
    assert components_in(registry, app.digest, cache=tmp_path) == COMPONENTS


def test_components_that_no_trusted_key_signed_are_not_remembered(registry, app, tmp_path):
    signer = signing_key({"TANDEM_SIGNING_KEY": pem()[0]})
    key = signer.public_key
    assert components_in(registry, app.digest, key=key, cache=tmp_path) == COMPONENTS
    signed = [*COMPONENTS, Component(name="numpy", version="2.4.6")]
    attach_materials(registry, app, signed, app="digits", signer=signer)
    assert components_in(registry, app.digest, key=key, cache=tmp_path) == signed


def test_damaged_memory_of_components_is_made_again(registry, app, tmp_path):
    components_in(registry, app.digest, cache=tmp_path)
    for path in tmp_path.glob("components-*"):
        path.write_text("{")
    assert components_in(registry, app.digest, cache=tmp_path) == COMPONENTS
