"""A model layer is also a ModelPack artifact, as the CNCF specification describes it."""

from __future__ import annotations

import json

import jsonschema
import pytest
from support.oci_samples import tar_layer

from tandem.errors import RegistryError
from tandem.oci import LAYER_GZIP, LAYER_ZSTD, open_registry
from tandem.oci.blobs import bytes_source
from tandem.oci.model_pack import ModelDescription, model_config, model_manifest, put_model_pack

MODEL = ModelDescription(
    name="digits",
    version=17,
    format="onnx",
    revision="sha256:" + "d" * 64,
    created="2026-11-21T00:00:00Z",
)
TEXT = {"type": "string"}
# What we use of the specification's schema/config-schema.json (draft 4), which allows no more.
SCHEMA = {
    "type": "object",
    "properties": {
        "descriptor": {
            "type": "object",
            "properties": {
                "createdAt": {"type": "string", "format": "date-time"},
                "name": {"type": "string", "minLength": 1},
                **dict.fromkeys(("family", "version", "revision", "vendor", "title"), TEXT),
            },
            "additionalProperties": False,
        },
        "config": {
            "type": "object",
            "properties": dict.fromkeys(("architecture", "format", "precision"), TEXT),
            "additionalProperties": False,
        },
        "modelfs": {
            "type": "object",
            "properties": {
                "type": {"enum": ["layers"]},
                "diffIds": {"type": "array", "items": TEXT, "minItems": 1},
            },
            "required": ["type", "diffIds"],
            "additionalProperties": False,
        },
    },
    "required": ["descriptor", "config", "modelfs"],
    "additionalProperties": False,
}


@pytest.fixture
def registry(tmp_path):
    return open_registry(f"oci:{tmp_path}/images")


@pytest.fixture
def layer(registry):
    layer, data = tar_layer(("models/model.onnx", b"weights"))
    registry.put_blob(layer.descriptor, bytes_source(data))
    return layer


@pytest.mark.parametrize("model", [MODEL, ModelDescription(name="x", version=1, format="")])
def test_configuration_is_what_the_schema_of_model_spec_says(layer, model):
    config = json.loads(model_config(layer, model))
    jsonschema.Draft4Validator(SCHEMA).validate(config)
    assert config["modelfs"]["diffIds"] == [layer.diff_id]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft4Validator(SCHEMA).validate({**config, "extra": 1})


def test_manifest_names_the_layer_that_the_image_has(layer):
    manifest = json.loads(model_manifest(layer, model_config(layer, MODEL)))
    assert manifest["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    assert manifest["config"]["mediaType"] == "application/vnd.cncf.model.config.v1+json"
    assert manifest["layers"] == [
        {
            "mediaType": "application/vnd.cncf.model.weight.v1.tar",
            "digest": layer.descriptor.digest,
            "size": layer.descriptor.size,
            "annotations": {"org.cncf.model.filepath": "models"},
        }
    ]


def test_compressed_layer_is_named_as_such_and_an_unknown_kind_is_refused(layer):
    def of_type(media_type: str):
        descriptor = type(layer.descriptor)(media_type=media_type, digest="sha256:x", size=1)
        return type(layer)(descriptor=descriptor, diff_id=layer.diff_id)

    manifest = json.loads(model_manifest(of_type(LAYER_GZIP), b"{}"))
    assert manifest["layers"][0]["mediaType"].endswith("weight.v1.tar+gzip")
    with pytest.raises(RegistryError, match="expected tar or gzip"):
        model_manifest(of_type(LAYER_ZSTD), b"{}")


def test_version_costs_less_than_five_kilobytes_and_is_put_once(registry, layer):
    blobs = registry.folder / "blobs" / "sha256"
    before = sum(path.stat().st_size for path in blobs.iterdir())
    stored = put_model_pack(registry, layer, MODEL)
    assert sum(path.stat().st_size for path in blobs.iterdir()) - before < 5000
    assert registry.get_manifest("model-digits-v17")[0].digest == stored.digest
    names = sorted(path.name for path in blobs.iterdir())
    assert put_model_pack(registry, layer, MODEL).digest == stored.digest
    assert sorted(path.name for path in blobs.iterdir()) == names


def test_model_whose_layer_is_not_there_is_refused(registry):
    layer, _ = tar_layer(("models/model.onnx", b"elsewhere"))
    with pytest.raises(RegistryError, match="does not have"):
        put_model_pack(registry, layer, MODEL)
