"""Images as immutable values of layers and settings; every change gives a new one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from tandem.oci import CONFIG, MANIFEST, Descriptor, Layer
from tandem.oci.blobs import digest_of

_CONFIG = frozenset(
    {
        *("User", "ExposedPorts", "Env", "Entrypoint", "Cmd", "Volumes", "WorkingDir", "Labels"),
        *("StopSignal", "Healthcheck", "Shell"),
    }
)
"""What a container is started with; engines write more about the container they built in."""
KIND = "tandem.layer"
"""Annotation of a layer in the manifest: what it holds."""


class Platform(msgspec.Struct, frozen=True):
    """What an image runs on, in Go's names: `linux`, `amd64`."""

    os: str = "linux"
    architecture: str = "amd64"
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """An image that may or may not be in a registry yet. Every change gives a new one."""

    config: bytes
    """The exact bytes of its configuration."""
    layers: tuple[Layer, ...] = ()
    annotations: Mapping[str, str] = {}

    @property
    def settings(self) -> dict[str, Any]:
        """The configuration as the OCI image specification writes it."""
        settings: dict[str, Any] = msgspec.json.decode(self.config)
        return settings

    @property
    def config_descriptor(self) -> Descriptor:
        """The configuration as a blob."""
        return Descriptor(media_type=CONFIG, digest=digest_of(self.config), size=len(self.config))

    @property
    def manifest(self) -> bytes:
        """The exact bytes that a registry stores."""
        layers = []
        for layer in self.layers:
            entry: dict[str, Any] = {
                "mediaType": layer.descriptor.media_type,
                "digest": layer.descriptor.digest,
                "size": layer.descriptor.size,
            }
            if layer.kind:
                entry["annotations"] = {KIND: layer.kind}
            layers.append(entry)
        config = self.config_descriptor
        manifest: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": config.digest, "size": config.size},
            "layers": layers,
        }
        if self.annotations:
            manifest["annotations"] = dict(sorted(self.annotations.items()))
        return msgspec.json.encode(manifest)

    @property
    def digest(self) -> str:
        """The name of the image: the digest of its manifest."""
        return digest_of(self.manifest)

    @property
    def size(self) -> int:
        """Bytes that a machine without any of its layers would pull."""
        return sum(layer.descriptor.size for layer in self.layers) + len(self.config)

    @property
    def labels(self) -> dict[str, str]:
        """The labels in its configuration."""
        return dict((self.settings.get("config") or {}).get("Labels") or {})

    @property
    def environment(self) -> dict[str, str]:
        """The environment that its process starts with."""
        env = (self.settings.get("config") or {}).get("Env") or []
        return dict(variable.partition("=")[::2] for variable in env)

    @property
    def platform(self) -> Platform:
        """What it runs on."""
        settings = self.settings
        return Platform(
            settings.get("os", ""), settings.get("architecture", ""), settings.get("variant", "")
        )

    def append(self, layer: Layer, *, created_by: str = "") -> Image:
        """The image with one more layer on top."""
        settings = self.settings
        rootfs = settings.setdefault("rootfs", {"type": "layers", "diff_ids": []})
        rootfs["diff_ids"] = [*(rootfs.get("diff_ids") or []), layer.diff_id]
        history = list(settings.get("history") or [])
        # History is optional, but when it is there it has one line for each layer.
        if sum(not step.get("empty_layer") for step in history) == len(self.layers):
            step = {"created_by": created_by or f"tandem {layer.kind or 'layer'}"}
            if "created" in settings:
                step["created"] = settings["created"]
            settings["history"] = [*history, step]
        else:
            settings.pop("history", None)
        return msgspec.structs.replace(self, config=_encode(settings), layers=(*self.layers, layer))

    def with_config(
        self,
        *,
        env: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        created: str | None = None,
        **config: Any,
    ) -> Image:
        """The image with variables and labels added, and `config` members replaced.

        `config` takes the specification's names (`Cmd`, `User`, `WorkingDir`, …); None removes one.
        `created` is RFC 3339 and an input like any other: the clock is never asked.
        """
        settings = self.settings
        inner = dict(settings.get("config") or {})
        if env:
            merged = self.environment | dict(env)
            inner["Env"] = [f"{name}={value}" for name, value in merged.items()]
        if labels:
            inner["Labels"] = self.labels | dict(labels)
        inner |= config
        settings["config"] = {
            name: value for name, value in inner.items() if name in _CONFIG and value is not None
        }
        for name in ("container", "container_config", "docker_version"):
            settings.pop(name, None)
        if created is not None:
            settings["created"] = created
        return msgspec.structs.replace(self, config=_encode(settings))

    def with_annotations(self, annotations: Mapping[str, str]) -> Image:
        """The image with these annotations added to its manifest."""
        return msgspec.structs.replace(self, annotations=dict(self.annotations) | dict(annotations))


def _encode(settings: Mapping[str, Any]) -> bytes:
    return msgspec.json.encode(settings, order="sorted")


def scratch(platform: Platform) -> Image:
    """An image with nothing in it."""
    settings: dict[str, Any] = {
        "architecture": platform.architecture,
        "os": platform.os,
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": []},
        "history": [],
    }
    if platform.variant:
        settings["variant"] = platform.variant
    return Image(config=_encode(settings))


def make_image(
    base: Image | None,
    layers: Iterable[Layer],
    *,
    platform: Platform | None = None,
    env: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    created: str | None = None,
    **config: Any,
) -> Image:
    """An image of `layers` on `base`, with these settings.

    Without a base it holds nothing else and is for `platform`.
    """
    image = base or scratch(platform or Platform())
    if base is not None:
        image = msgspec.structs.replace(
            base,
            layers=tuple(msgspec.structs.replace(layer, kind="base") for layer in base.layers),
            annotations={},
        )
    image = image.with_config(env=env, labels=labels, created=created, **config)
    for layer in layers:
        image = image.append(layer)
    return image.with_annotations(annotations) if annotations else image
