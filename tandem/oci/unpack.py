"""Extract one layer into a folder: verified, bounded, and only there."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
from isal import isal_zlib
from isal.igzip_lib import IsalError

from tandem.errors import RegistryError
from tandem.oci import LAYER_GZIP, LAYER_TAR, Layer, Progress, Registry
from tandem.oci.blobs import CHUNK, reader
from tandem.oci.spool import reason

MOST_BYTES = 32 << 30
MOST_ENTRIES = 500_000

WHITEOUT = ".wh."
"""Before a name: what the layers below have under that name is gone (OCI image specification,
"Image Layer Filesystem Changeset")."""
OPAQUE = ".wh..wh..opq"
"""In a folder: all that the layers below have in it is gone."""
AUFS = ".wh..wh."
"""Notes of a file system that layers were once made with; they mean nothing here."""
DELETIONS = WHITEOUT
"""File at the top of an extracted layer that lists what it deletes; no entry can have this name."""


def unpack_layer(
    registry: Registry,
    layer: Layer,
    into: Path,
    *,
    most_bytes: int = MOST_BYTES,
    deletions: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Extract a layer to the new folder `into`, which appears whole or not at all.

    A folder that is there already is used as it is. With `deletions`, what the layer deletes of
    those below is listed in the folder, for `merge`; without, such a layer is refused, because its
    files alone are not what it says.

    Two processes may do the same at once. Raises `RegistryError` for content that is not that of
    the digest, names outside the folder, links that lead out of it, devices, and more than
    `most_bytes`.
    """
    if into.is_dir():
        return into
    temporary = None
    try:
        into.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".partial-", dir=into.parent))
        _extract(registry, layer, temporary, most_bytes, progress, deletions=deletions)
        temporary.chmod(0o755)
        try:
            temporary.rename(into)
        except OSError:
            if not into.is_dir():
                raise
    except OSError as problem:
        raise RegistryError(
            f"unpacking {layer.descriptor.digest} into {into}: {reason(problem)}"
        ) from None
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    return into


def _extract(
    registry: Registry,
    layer: Layer,
    root: Path,
    most: int,
    progress: Progress | None,
    *,
    deletions: bool,
) -> None:
    where = f"layer {layer.descriptor.digest}"
    plain = hashlib.sha256()
    written = entries = 0
    deleted: list[str] = []

    def unpacked() -> Iterator[bytes]:
        for block in decompressed(registry, layer, progress):
            plain.update(block)
            yield block

    stream = reader(unpacked())
    try:
        with tarfile.open(fileobj=stream, mode="r|", bufsize=CHUNK) as archive:
            for member in archive:
                entries += 1
                written += member.size if member.isreg() else 0
                if written > most or entries > MOST_ENTRIES:
                    raise RegistryError(
                        f"{where} unpacks to more than {most >> 20} MB or {MOST_ENTRIES} entries: "
                        "refused"
                    )
                gone = _place(archive, member, root, where)
                if gone is None:
                    continue
                if not deletions:
                    raise RegistryError(
                        f"{where} deletes {gone!r}: only layers that add files are taken here"
                    )
                deleted.append(gone)
    except (tarfile.TarError, ValueError, OverflowError, EOFError) as problem:
        raise RegistryError(f"{where} is not a tar archive: {problem}") from None
    # To the end: the registry compares the digest there, and the last zeros belong to the diff_id.
    while stream.read(CHUNK):
        pass
    if f"sha256:{plain.hexdigest()}" != layer.diff_id:
        raise RegistryError(f"{where} does not unpack to {layer.diff_id}, as the image says")
    if deleted:
        (root / DELETIONS).write_bytes(msgspec.json.encode(deleted))


def decompressed(
    registry: Registry, layer: Layer, progress: Progress | None = None
) -> Iterator[bytes]:
    """The uncompressed tar of a layer in chunks of bounded size."""
    kind = layer.descriptor.media_type
    if kind not in (LAYER_TAR, LAYER_GZIP):
        raise RegistryError(
            f"layer {layer.descriptor.digest} is {kind}: only tar and gzip can be unpacked"
        )
    unpacker = isal_zlib.decompressobj(31)
    for block in registry.get_blob(layer.descriptor.digest):
        if progress:
            progress(len(block))
        if kind == LAYER_TAR:
            yield block
            continue
        rest = block
        try:
            while rest:
                if unpacker.eof:  # several gzip members in a row are one file (RFC 1952)
                    unpacker = isal_zlib.decompressobj(31)
                yield unpacker.decompress(rest, CHUNK)
                rest = unpacker.unconsumed_tail or unpacker.unused_data
        except IsalError as problem:  # type: ignore[misc]
            raise RegistryError(
                f"layer {layer.descriptor.digest} is not gzip as its type says: {problem}"
            ) from None
    if kind == LAYER_GZIP:
        yield unpacker.flush()


def _place(archive: tarfile.TarFile, member: tarfile.TarInfo, root: Path, where: str) -> str | None:
    """Put an entry into the folder; of a whiteout, return what it deletes."""
    name = member.name.removeprefix("./").rstrip("/")
    if name in ("", "."):
        return None
    parts = name.split("/")
    if name.startswith("/") or any(part in ("", ".", "..") for part in parts) or "\0" in name:
        raise RegistryError(
            f"{where} names {member.name!r}, which is outside of the image: refused"
        )
    if any(part.startswith(WHITEOUT) for part in parts):
        return _deleted(member, parts, root, where)
    target = _parent(root, parts, where) / parts[-1]
    kind = _KINDS.get(member.type)
    if kind is None:
        raise RegistryError(f"{where} has {name!r}, which is no file, folder or link: refused")
    kind(archive, member, root, target, where)
    return None


def _deleted(member: tarfile.TarInfo, parts: list[str], root: Path, where: str) -> str | None:
    """The path that a whiteout deletes; a folder's whole content ends with a slash."""
    *folders, last = parts
    if any(part.startswith(AUFS) and part != OPAQUE for part in parts):
        return None
    if any(part.startswith(WHITEOUT) for part in folders):
        raise RegistryError(f"{where} has {member.name!r} below a whiteout: refused")
    name = last.removeprefix(WHITEOUT)
    if not member.isreg() or (last != OPAQUE and name in ("", ".", "..")):
        raise RegistryError(f"{where} has {member.name!r}, which deletes no name: refused")
    # The folder is made: `merge` finds by it that there is something to delete.
    _parent(root, parts, where)
    return "/".join([*folders, "" if last == OPAQUE else name])


# --- one entry ------------------------------------------------------------------------------------


def _parent(root: Path, parts: list[str], where: str) -> Path:
    """The folder that an entry goes into; no folder on the way may be a link."""
    here = root
    for part in parts[:-1]:
        here = here / part
        try:
            here.mkdir(mode=0o755)
        except FileExistsError:
            if here.is_symlink() or not here.is_dir():
                raise RegistryError(
                    f"{where} puts {'/'.join(parts)!r} below {part!r}, which is no folder: refused"
                ) from None
    return here


def _folder(
    archive: tarfile.TarFile, member: tarfile.TarInfo, root: Path, target: Path, where: str
) -> None:
    try:
        target.mkdir(mode=0o755)
    except FileExistsError:
        if target.is_symlink() or not target.is_dir():
            raise RegistryError(f"{where} names {member.name!r} twice: refused") from None


def _file(
    archive: tarfile.TarFile, member: tarfile.TarInfo, root: Path, target: Path, where: str
) -> None:
    content = archive.extractfile(member)
    if content is None:
        raise RegistryError(f"{where} has no content for {member.name!r}: refused")
    # Owner may always read and write: a layer that is unpacked twice is removed by the same user.
    mode = 0o755 if member.mode & 0o111 else 0o444 if not member.mode & 0o222 else 0o644
    try:
        handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    except FileExistsError:
        raise RegistryError(f"{where} names {member.name!r} twice: refused") from None
    with os.fdopen(handle, "wb") as file:
        shutil.copyfileobj(content, file, CHUNK)


def _link(
    archive: tarfile.TarFile, member: tarfile.TarInfo, root: Path, target: Path, where: str
) -> None:
    leads_to = os.path.normpath(target.parent / member.linkname)
    # Behind a name, ".." would be taken from wherever that name leads.
    back = ".." in member.linkname.lstrip("./").split("/")
    if member.linkname.startswith("/") or back or not Path(leads_to).is_relative_to(root):
        raise RegistryError(
            f"{where} has a link {member.name!r} to {member.linkname!r}, outside of the image: "
            "refused"
        )
    with contextlib.suppress(FileExistsError):
        target.symlink_to(member.linkname)
        return
    raise RegistryError(f"{where} names {member.name!r} twice: refused")


def _hard_link(
    archive: tarfile.TarFile, member: tarfile.TarInfo, root: Path, target: Path, where: str
) -> None:
    parts = member.linkname.removeprefix("./").split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise RegistryError(
            f"{where} has a link {member.name!r} to {member.linkname!r}, outside of the image: "
            "refused"
        )
    existing = _parent(root, parts, where) / parts[-1]
    if existing.is_symlink() or not existing.is_file():
        raise RegistryError(f"{where} has a link {member.name!r} to nothing: refused")
    try:
        os.link(existing, target, follow_symlinks=False)
    except FileExistsError:
        raise RegistryError(f"{where} names {member.name!r} twice: refused") from None


_Placer = Callable[[tarfile.TarFile, tarfile.TarInfo, Path, Path, str], None]
_KINDS: dict[bytes, _Placer] = {
    tarfile.REGTYPE: _file,
    tarfile.AREGTYPE: _file,
    tarfile.DIRTYPE: _folder,
    tarfile.SYMTYPE: _link,
    tarfile.LNKTYPE: _hard_link,
}
