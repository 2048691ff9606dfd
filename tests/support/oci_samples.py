"""Small layers, images and wheels for the tests of tandem.oci."""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from tandem.oci import LAYER_TAR, Descriptor, Layer, Registry
from tandem.oci.blobs import BlobSource, bytes_source, digest_of
from tandem.oci.image import Image, Platform, make_image


def blob(data: bytes) -> tuple[Descriptor, BlobSource]:
    """Bytes as a blob: what it is called, and what gives them."""
    descriptor = Descriptor(media_type=LAYER_TAR, digest=digest_of(data), size=len(data))
    return descriptor, bytes_source(data)


def tar_layer(*members: tarfile.TarInfo | tuple[str, bytes]) -> tuple[Layer, bytes]:
    """A layer of exactly these members, however wicked."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for member in members:
            if isinstance(member, tuple):
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                archive.addfile(info, io.BytesIO(member[1]))
            else:
                archive.addfile(member)
    data = out.getvalue()
    descriptor, _ = blob(data)
    return Layer(descriptor=descriptor, diff_id=descriptor.digest, kind="application"), data


def small_image(content: bytes = b"hello") -> tuple[Image, dict[str, BlobSource]]:
    """An image of one small layer, and what gives its blob."""
    layer, data = tar_layer(("app/file", content))
    image = make_image(None, [layer], platform=Platform("linux", "amd64"), labels={"a": "b"})
    return image, {layer.descriptor.digest: bytes_source(data)}


def read(registry: Registry, digest: str) -> bytes:
    """A blob whole."""
    return b"".join(registry.get_blob(digest))


def wheel(folder: Path, name: str, version: str, files: dict[str, str]) -> tuple[str, str]:
    """Write a wheel of these files into `folder`; returns its requirement and its sha256."""
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nLicense: MIT\n"
    content = {
        **files,
        f"{info}/METADATA": metadata,
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\n"
        "Tag: py3-none-any\n",
    }
    rows = []
    for path, text in content.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=")
        rows.append(f"{path},sha256={digest.decode()},{len(text.encode())}")
    content[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,", ""])
    path = folder / f"{name}-{version}-py3-none-any.whl"
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for one, text in content.items():
            archive.writestr(one, text)
    return f"{name}=={version}", hashlib.sha256(path.read_bytes()).hexdigest()


def locked(folder: Path, *wheels: tuple[str, str]) -> Path:
    """A hash-locked requirements file for these wheels."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder / "serving.txt"
    lock.write_text("".join(f"{what} --hash=sha256:{digest}\n" for what, digest in wheels))
    return lock


def pem() -> tuple[str, str]:
    """A private key and its public one, for signing."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return private.decode(), public.decode()
