"""A model as a CNCF ModelPack artifact: one more manifest of the layer that an image has.

Tools that know models and not applications (modctl, KServe, a Kubernetes image volume) pull the
model by it. Nothing is stored twice: a version costs its manifest and a small configuration.
Specification: github.com/modelpack/model-spec, docs/spec.md and schema/config-schema.json.
"""

from __future__ import annotations

from typing import Any

import msgspec

from tandem.errors import RegistryError
from tandem.oci import LAYER_GZIP, LAYER_TAR, MANIFEST, Descriptor, Layer, Registry
from tandem.oci.blobs import bytes_source, digest_of
from tandem.oci.layer import MODEL_FOLDER

MODEL_MANIFEST = "application/vnd.cncf.model.manifest.v1+json"
MODEL_CONFIG = "application/vnd.cncf.model.config.v1+json"
FILE_PATH = "org.cncf.model.filepath"
_WEIGHTS = {
    LAYER_TAR: "application/vnd.cncf.model.weight.v1.tar",
    LAYER_GZIP: "application/vnd.cncf.model.weight.v1.tar+gzip",
}


class ModelDescription(msgspec.Struct, frozen=True, kw_only=True):
    """What a ModelPack configuration tells of a model version."""

    name: str
    version: int
    format: str
    """The name of its runtime: `onnx`, `sklearn`, …"""
    revision: str = ""
    """The digest of its package."""
    created: str = ""
    """RFC 3339."""

    @property
    def tag(self) -> str:
        """The tag of the artifact: `model-NAME-vVERSION`."""
        return f"model-{self.name}-v{self.version}"


def put_model_pack(registry: Registry, layer: Layer, model: ModelDescription) -> Descriptor:
    """Make sure the ModelPack artifact of a model is in the registry, under its tag.

    `layer` is there already: it is the model layer of an image. Raises `RegistryError`.
    """
    config = model_config(layer, model)
    manifest = model_manifest(layer, config)
    stored = registry.get_manifest(model.tag)
    if stored is not None and stored[0].digest == digest_of(manifest):
        return stored[0]
    registry.put_blob(_descriptor(MODEL_CONFIG, config), bytes_source(config))
    return registry.put_manifest(manifest, MANIFEST, tag=model.tag)


def model_config(layer: Layer, model: ModelDescription) -> bytes:
    """The exact bytes of the configuration; fields that are empty are left out."""
    descriptor = {
        "name": model.name,
        "version": str(model.version),
        "revision": model.revision,
        "createdAt": model.created,
    }
    config = {
        "descriptor": {name: value for name, value in descriptor.items() if value},
        "config": {"format": model.format} if model.format else {},
        "modelfs": {"type": "layers", "diffIds": [layer.diff_id]},
    }
    return msgspec.json.encode(config, order="sorted")


def model_manifest(layer: Layer, config: bytes) -> bytes:
    """The exact bytes of the manifest. Raises `RegistryError` for another kind of layer."""
    media_type = _WEIGHTS.get(layer.descriptor.media_type)
    if media_type is None:
        raise RegistryError(
            f"layer {layer.descriptor.digest} is {layer.descriptor.media_type}: "
            "expected tar or gzip"
        )
    weights = Descriptor(
        media_type=media_type,
        digest=layer.descriptor.digest,
        size=layer.descriptor.size,
        annotations={FILE_PATH: MODEL_FOLDER},
    )
    manifest: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": MODEL_MANIFEST,
        "config": _descriptor(MODEL_CONFIG, config),
        "layers": [weights],
    }
    return msgspec.json.encode(manifest)


def layers_of_model_pack(manifest: bytes) -> list[str]:
    """The digests of the layers of a ModelPack manifest; none for any other manifest."""
    try:
        decoded = msgspec.json.decode(manifest)
        if decoded.get("artifactType") != MODEL_MANIFEST:
            return []
        return [layer["digest"] for layer in decoded["layers"]]
    except (msgspec.MsgspecError, KeyError, TypeError, AttributeError):
        return []


def _descriptor(media_type: str, data: bytes) -> Descriptor:
    return Descriptor(media_type=media_type, digest=digest_of(data), size=len(data))
