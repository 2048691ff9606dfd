"""Images as immutable values of layers and settings, pushed and pulled by digest."""

from __future__ import annotations

import contextlib
import hashlib
import re
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from tandem.errors import RegistryError
from tandem.oci import (
    CONFIG,
    INDEX,
    LAYER_GZIP,
    LAYER_TAR,
    LAYER_ZSTD,
    MANIFEST,
    Descriptor,
    Layer,
    Progress,
    Registry,
    Transfer,
)
from tandem.oci.layer import Built, Source, writing

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
_OCI_NAME = {
    "application/vnd.docker.image.rootfs.diff.tar.gzip": LAYER_GZIP,
    "application/vnd.docker.image.rootfs.diff.tar": LAYER_TAR,
    LAYER_GZIP: LAYER_GZIP,
    LAYER_TAR: LAYER_TAR,
    LAYER_ZSTD: LAYER_ZSTD,
}
_CONFIG = frozenset(
    {
        *("User", "ExposedPorts", "Env", "Entrypoint", "Cmd", "Volumes", "WorkingDir", "Labels"),
        *("StopSignal", "Healthcheck", "Shell"),
    }
)
"""What a container is started with; engines write more about the container they built in."""
KIND = "tandem.layer"
"""Annotation of a layer in the manifest: what it holds."""

ACCEPTED = (MANIFEST, INDEX, DOCKER_MANIFEST, DOCKER_INDEX)
LARGEST_MANIFEST = 4 << 20
"""Bytes; the distribution specification asks registries to take manifests of at least this size."""

PUSHED_AT_ONCE = 6


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
        found: dict[str, Any] = msgspec.json.decode(self.config)
        return found

    @property
    def config_descriptor(self) -> Descriptor:
        """The configuration as a blob."""
        return Descriptor(media_type=CONFIG, digest=digest_of(self.config), size=len(self.config))

    @property
    def manifest(self) -> bytes:
        """The exact bytes that a registry stores."""
        layers = []
        for layer in self.layers:
            one: dict[str, Any] = {
                "mediaType": layer.descriptor.media_type,
                "digest": layer.descriptor.digest,
                "size": layer.descriptor.size,
            }
            if layer.kind:
                one["annotations"] = {KIND: layer.kind}
            layers.append(one)
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
        return dict(one.partition("=")[::2] for one in env)

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
        """The image with these variables and labels added and these `config` members replaced.

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


def digest_of(data: bytes) -> str:
    """The sha256 digest of some bytes, as a registry writes it."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


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


def compose(
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
    """An image of `layers` on top of `base` (or of nothing, for `platform`) with these settings."""
    image = base or scratch(platform or Platform())
    if base is not None:
        image = msgspec.structs.replace(
            base,
            layers=tuple(msgspec.structs.replace(one, kind="base") for one in base.layers),
            annotations={},
        )
    image = image.with_config(env=env, labels=labels, created=created, **config)
    for layer in layers:
        image = image.append(layer)
    return image.with_annotations(annotations) if annotations else image


class Sending:
    """One blob on its way to a registry, in a thread of `pool`."""

    def __init__(
        self,
        pool: ThreadPoolExecutor,
        registry: Registry,
        descriptor: Descriptor,
        source: Source,
        *,
        mount_from: str | None = None,
        known: Callable[[], bool] | None = None,
        opened: Future[Any] | None = None,
        progress: Progress | None = None,
    ) -> None:
        """`known` tells without asking the registry that the blob is not there; `opened` is an
        upload that was opened for it, in case.
        """
        self._asked: Future[bool] = Future()

        def send() -> Transfer:
            started = time.perf_counter()
            try:
                absent = bool(known and known()) or registry.head_blob(descriptor.digest) is None
            except BaseException as problem:
                self._asked.set_exception(problem)
                raise
            self._asked.set_result(absent)
            if absent:
                session = {"session": opened.result()} if opened else {}
                return registry.put_blob(
                    descriptor,
                    source,
                    mount_from=mount_from,
                    absent=True,
                    progress=progress,
                    **session,
                )
            if opened and not opened.exception():
                registry.cancel_upload(opened.result())  # type: ignore[attr-defined]
            return present(descriptor, time.perf_counter() - started)

        self._done = pool.submit(send)

    def was_absent(self) -> bool:
        """Whether it was not there yet; known before it has gone up."""
        return self._asked.result()

    def result(self) -> Transfer:
        """What happened to it. Raises `RegistryError`."""
        return self._done.result()


def present(descriptor: Descriptor, seconds: float = 0.0) -> Transfer:
    """What is told of a blob that was there already."""
    return Transfer(
        digest=descriptor.digest, size=descriptor.size, how="present", sent=0, seconds=seconds
    )


def push(
    registry: Registry,
    image: Image,
    sources: Mapping[str, Source] | None = None,
    *,
    tag: str | None = None,
    mount_from: Mapping[str, str] | None = None,
    based_on: Image | None = None,
    under_way: Mapping[str, Sending] | None = None,
    progress: Progress | None = None,
) -> list[Transfer]:
    """Make the image be in the registry, whole, by digest and, when given, under `tag`.

    `sources` opens the blob of each layer that may be missing there, by digest; `mount_from` names
    the repository of the same registry that has it. An image that was just read from this registry
    and repository is `based_on`: its layers are there without asking. Blobs that are `under_way`,
    by digest, are waited for. Blobs go up side by side; the manifest goes last. Returns what
    happened to each layer and to the config. Raises `RegistryError`.
    """
    sources = sources or {}
    mount_from = mount_from or {}

    def missing(layer: Layer) -> Source:
        def refuse() -> Any:
            raise RegistryError(
                f"{registry.url} does not have layer {layer.descriptor.digest} "
                f"({layer.kind or 'of the image'}) and there is nothing here to upload it from: "
                "build the app image again"
            )

        return refuse

    known = {layer.descriptor.digest for layer in based_on.layers} if based_on else set()
    # All are asked for at once: on a small change, waiting for answers is most of the time.
    with ThreadPoolExecutor(PUSHED_AT_ONCE) as pool:
        sending = dict(under_way or {})
        for layer in image.layers:
            digest = layer.descriptor.digest
            if digest not in known and digest not in sending:
                sending[digest] = Sending(
                    pool,
                    registry,
                    msgspec.structs.replace(layer.descriptor, annotations=None),
                    sources.get(digest) or missing(layer),
                    mount_from=mount_from.get(digest),
                    progress=progress,
                )
        config = Sending(
            pool,
            registry,
            image.config_descriptor,
            bytes_source(image.config),
            # It names its layers: one that was never there was in no image yet.
            known=lambda: any(one.was_absent() for one in sending.values()),
            progress=progress,
        )
        layers = {layer.descriptor.digest: layer.descriptor for layer in image.layers}
        done = [
            sending[digest].result() if digest in sending else present(descriptor)
            for digest, descriptor in layers.items()
        ]
        done.append(config.result())
    # No manifest can be there already whose config was not.
    if done[-1].how == "present":
        found = registry.get_manifest(tag or image.digest)
        if found is not None and found[0].digest == image.digest:
            return done
    stored = registry.put_manifest(image.manifest, MANIFEST, tag=tag)
    if stored.digest != image.digest:
        raise RegistryError(
            f"{registry.url} says that it stored {stored.digest}, but {image.digest} was sent: "
            "do not use it"
        )
    return done


def push_on_top(
    registry: Registry,
    reference: str,
    make: Callable[[], Built],
    change: Callable[[Image], Image],
    *,
    tag: str | None = None,
    expect_new: bool = False,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> tuple[Image, list[Transfer]]:
    """Put one more layer on an image of this registry, and make the result be there under `tag`.

    `make` makes the layer, and `change` gives the image below the settings that go with it. The
    layer goes up while that image is still being read: neither waits for the other's answers. A
    layer that is expected to be new has its upload opened while it is being made. `cache`: see
    `pull`. Returns the whole image and what happened to its blobs. Raises as `pull` and `push` do.
    """
    open_upload = getattr(registry, "open_upload", None) if expect_new else None
    with ThreadPoolExecutor(3) as pool:
        opened = pool.submit(open_upload) if open_upload else None
        reading = pool.submit(pull, registry, reference, cache=cache)
        built = make()
        one = Sending(
            pool, registry, built.layer.descriptor, built.open, opened=opened, progress=progress
        )
        below = reading.result()
        image = change(below).append(built.layer)
        under_way = {built.layer.descriptor.digest: one}
        return image, push(
            registry, image, tag=tag, based_on=below, under_way=under_way, progress=progress
        )


def bytes_source(data: bytes) -> Source:
    """Bytes in memory as the source of a blob."""
    import io

    return lambda: io.BytesIO(data)


def registry_source(registry: Registry, digest: str) -> Source:
    """A blob in another registry as the source of a blob."""
    from tandem.oci.layer import reader

    return lambda: contextlib.closing(reader(registry.get_blob(digest)))


def pull(
    registry: Registry,
    reference: str,
    *,
    platform: Platform | None = None,
    cache: Path | None = None,
) -> Image:
    """The image that a tag or digest names; of an index, the one for `platform`.

    The folder `cache` keeps configurations by their digest, so that each is read once. Raises
    `RegistryError` when there is none, or none for that platform, or it is not made as the
    specification says.
    """
    where = registry.reference(reference) if ":" in reference else f"{registry.url}:{reference}"
    found = registry.get_manifest(reference)
    if found is None:
        raise RegistryError(f"there is no image {where}")
    descriptor, data = found
    try:
        manifest = msgspec.json.decode(data)
        if descriptor.media_type in (INDEX, DOCKER_INDEX):
            wanted = platform or Platform()
            for one in manifest["manifests"]:
                offered = one.get("platform") or {}
                if (offered.get("os"), offered.get("architecture")) == (
                    wanted.os,
                    wanted.architecture,
                ):
                    return pull(registry, one["digest"])
            offers = ", ".join(
                "{os}/{architecture}".format(
                    **{"os": "?", "architecture": "?"} | one.get("platform", {})
                )
                for one in manifest["manifests"]
            )
            raise RegistryError(f"{where} is not made for {wanted}, only for {offers or 'nothing'}")
        config = _config(registry, manifest["config"]["digest"], manifest["config"]["size"], cache)
        diff_ids = msgspec.json.decode(config)["rootfs"]["diff_ids"]
        layers = manifest["layers"]
        if len(diff_ids) != len(layers):
            raise RegistryError(
                f"{where}: {len(layers)} layers, but the configuration names {len(diff_ids)}"
            )
        return Image(
            config=config,
            annotations=manifest.get("annotations") or {},
            layers=tuple(
                Layer(
                    descriptor=Descriptor(
                        media_type=_OCI_NAME[layer["mediaType"]],
                        digest=layer["digest"],
                        size=layer["size"],
                    ),
                    diff_id=diff_id,
                    kind=(layer.get("annotations") or {}).get(KIND, ""),
                )
                for layer, diff_id in zip(layers, diff_ids, strict=True)
            ),
        )
    except (msgspec.MsgspecError, KeyError, TypeError, AttributeError) as problem:
        raise RegistryError(
            f"{where} is not an image that Tandem can read: {type(problem).__name__} {problem}"
        ) from None


def _config(registry: Registry, digest: str, size: int, cache: Path | None) -> bytes:
    name = digest.removeprefix("sha256:")
    if cache is None or not re.fullmatch(r"[0-9a-f]{64}", name):
        return read_blob(registry, digest, size)
    with contextlib.suppress(OSError):
        kept = (cache / name).read_bytes()
        if digest_of(kept) == digest:
            return kept
    data = read_blob(registry, digest, size)
    with writing(cache, f"writing to {cache}", RegistryError) as (file, keep):
        file.write(data)
        keep(name)
    return data


def read_blob(registry: Registry, digest: str, size: int) -> bytes:
    """A small blob whole."""
    if size > LARGEST_MANIFEST:
        raise RegistryError(
            f"{registry.url}: {digest} has {size} bytes, too many for a configuration"
        )
    return b"".join(registry.get_blob(digest))
