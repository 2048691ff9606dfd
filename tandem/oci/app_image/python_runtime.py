"""The Python of an image: wheels are chosen and byte code is compiled for it."""

from __future__ import annotations

import platform as host
import sys

import msgspec

from tandem.oci.image import Platform

ARCHITECTURES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}


class PythonRuntime(msgspec.Struct, frozen=True, kw_only=True):
    """A version of Python on one kind of machine."""

    version: str
    """`3.11`: the part that wheels and byte code depend on."""
    platform: Platform
    libc: str
    """`glibc2.36`: a wheel for a newer one does not load."""

    @property
    def key(self) -> str:
        """A name for it: the same wheels fit wherever it is the same."""
        return f"cp{self.version}-{self.platform}-{self.libc}"


def host_python() -> PythonRuntime:
    """The Python that runs this."""
    name, version = host.libc_ver()
    machine = host.machine().lower()
    return PythonRuntime(
        version=f"{sys.version_info.major}.{sys.version_info.minor}",
        platform=Platform(sys.platform, ARCHITECTURES.get(machine, machine)),
        libc=f"{name or 'libc'}{version}",
    )
