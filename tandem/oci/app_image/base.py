"""The base image that an app image is built on, and the Python that it has."""

from __future__ import annotations

import re

import msgspec

from tandem.errors import BuildError
from tandem.oci.app_image.python_runtime import PythonRuntime, host_python
from tandem.oci.image import Image, Platform
from tandem.oci.pull import pull
from tandem.oci.remote.client import open_reference


class BaseImage(msgspec.Struct, frozen=True, kw_only=True):
    """A base image as its registry has it."""

    reference: str
    digest: str
    image: Image
    runtime: PythonRuntime

    @property
    def pinned(self) -> str:
        """The reference by digest, so that what was checked is what is built on."""
        return open_reference(self.reference)[0].reference(self.digest)


def find_base(reference: str) -> BaseImage:
    """The base image that a reference names, for this machine's architecture.

    Raises `RegistryError` when it is not there, `BuildError` when it is of the wrong kind.
    """
    registry, name = open_reference(reference)
    stored = registry.get_manifest(name)
    if stored is None:
        raise BuildError(f"TANDEM_BASE_IMAGE={reference}: there is no such image")
    wanted = Platform("linux", host_python().platform.architecture)
    image = pull(registry, stored[0].digest, platform=wanted)
    return BaseImage(
        reference=reference,
        digest=stored[0].digest,
        image=image,
        runtime=base_runtime(image),
    )


def base_runtime(base: Image) -> PythonRuntime:
    """The Python that a base image states in PYTHON_VERSION, as official ones do.

    Raises `BuildError` when it is for another kind of machine than this one's containers, or has
    none.
    """
    where = "TANDEM_BASE_IMAGE"
    wanted = host_python().platform.architecture
    if base.platform.os != "linux" or base.platform.architecture not in ("amd64", "arm64"):
        raise BuildError(f"{where} is for {base.platform}: expected linux/{wanted}")
    if base.platform.architecture != wanted:
        raise BuildError(
            f"{where} is for {base.platform}, this machine builds and checks linux/{wanted}: "
            "take a base image for that"
        )
    stated = base.environment.get("PYTHON_VERSION") or base.labels.get("tandem.python", "")
    match = re.match(r"(\d+\.\d+)", stated)
    if not match:
        raise BuildError(
            f"{where} does not state which Python it has: expected PYTHON_VERSION in its "
            "environment, as in the official python images"
        )
    if any("apk add" in str(step.get("created_by")) for step in base.settings.get("history") or []):
        raise BuildError(
            f"{where} is an Alpine image: the locked wheels are for glibc, so take a "
            "Debian-based one (python:3.11-slim)"
        )
    # The oldest that the wheels of today are made for; a base may state a newer one.
    libc = base.labels.get("tandem.libc") or "glibc2.28"
    return PythonRuntime(version=match[1], platform=base.platform, libc=libc)
