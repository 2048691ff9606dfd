"""A layer is unpacked whole and verified, and can write nowhere but into its folder."""

from __future__ import annotations

import gzip
import random
import tarfile
from pathlib import Path

import msgspec
import pytest
from support.oci_samples import blob, tar_layer

from tandem.errors import RegistryError
from tandem.oci import LAYER_GZIP, LAYER_ZSTD, Layer, open_registry
from tandem.oci.blobs import bytes_source, digest_of
from tandem.oci.layer import make_layer
from tandem.oci.merge import merge
from tandem.oci.tar import data_entry, folder_entries
from tandem.oci.unpack import unpack_layer


@pytest.fixture
def registry(tmp_path):
    return open_registry(f"oci:{tmp_path}/images")


def special(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def stored(registry, *members) -> Layer:
    layer, data = tar_layer(*members)
    registry.put_blob(layer.descriptor, bytes_source(data))
    return layer


def test_what_was_packed_comes_out(registry, tmp_path):
    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    (source / "deep" / "run").write_text("#!/bin/sh\n")
    (source / "deep" / "run").chmod(0o755)
    (source / "link").symlink_to("deep/run")
    for compression in ("none", "fast", "small"):
        built = make_layer(
            folder_entries(source, "app"), kind="x", compression=compression, into=tmp_path / "out"
        )
        registry.put_blob(built.layer.descriptor, built.open)
        into = unpack_layer(registry, built.layer, tmp_path / compression)
        assert (into / "app/deep/run").read_text() == "#!/bin/sh\n"
        assert (into / "app/deep/run").stat().st_mode & 0o777 == 0o755
        assert str((into / "app/link").readlink()) == "deep/run"


def test_folder_that_is_there_is_used_as_it_is(registry, tmp_path):
    layer = stored(registry, ("app/a", b"1"))
    into = unpack_layer(registry, layer, tmp_path / "into")
    registry.path(layer.descriptor.digest).unlink()
    assert unpack_layer(registry, layer, into) == into


@pytest.mark.parametrize(
    "member",
    [
        ("../outside", b"x"),
        ("/outside", b"x"),
        ("app/../../outside", b"x"),
        ("app/.wh.gone", b""),
        special("dev", tarfile.CHRTYPE),
        special("disk", tarfile.BLKTYPE),
        special("pipe", tarfile.FIFOTYPE),
        special("link", tarfile.SYMTYPE, "/etc"),
        special("link", tarfile.SYMTYPE, "../outside"),
        special("app/link", tarfile.SYMTYPE, "x/../../../outside"),
        special("hard", tarfile.LNKTYPE, "../outside"),
        special("hard", tarfile.LNKTYPE, "/etc/passwd"),
        special("hard", tarfile.LNKTYPE, "nothing"),
    ],
)
def test_wicked_member_is_refused_and_leaves_nothing(registry, tmp_path, member):
    layer = stored(registry, ("app/a", b"1"), member)
    box = tmp_path / "box"
    with pytest.raises(RegistryError, match=r"refused|outside|deletes"):
        unpack_layer(registry, layer, box / "into")
    assert list(box.iterdir()) == []
    assert not (tmp_path / "outside").exists()


def test_file_below_a_link_is_refused(registry, tmp_path):
    link = special("app", tarfile.SYMTYPE, "elsewhere")
    layer = stored(registry, ("elsewhere/x", b""), link, ("app/file", b"x"))
    with pytest.raises(RegistryError, match="no folder"):
        unpack_layer(registry, layer, tmp_path / "into")


def test_name_that_comes_twice_is_refused(registry, tmp_path):
    layer = stored(registry, ("app/a", b"1"), ("app/a", b"2"))
    with pytest.raises(RegistryError, match="twice"):
        unpack_layer(registry, layer, tmp_path / "into")


def test_hard_link_inside_is_kept(registry, tmp_path):
    layer = stored(registry, ("app/a", b"1"), special("app/b", tarfile.LNKTYPE, "app/a"))
    assert (unpack_layer(registry, layer, tmp_path / "into") / "app/b").read_bytes() == b"1"


def test_layer_beyond_the_limit_is_refused(registry, tmp_path):
    built = make_layer(
        [data_entry("bomb", bytes(5_000_000))], kind="x", compression="fast", into=tmp_path / "out"
    )
    assert built.layer.descriptor.size < 50_000
    registry.put_blob(built.layer.descriptor, built.open)
    with pytest.raises(RegistryError, match="more than 1 MB"):
        unpack_layer(registry, built.layer, tmp_path / "into", most_bytes=1 << 20)
    assert not (tmp_path / "into").exists()


def test_content_other_than_the_diff_id_is_refused(registry, tmp_path):
    layer = stored(registry, ("app/a", b"1"))
    wrong = msgspec.structs.replace(layer, diff_id=digest_of(b"other"))
    with pytest.raises(RegistryError, match="does not unpack to"):
        unpack_layer(registry, wrong, tmp_path / "into")
    assert not (tmp_path / "into").exists()


def test_damaged_blob_is_refused(registry, tmp_path):
    layer = stored(registry, ("app/a", b"1" * 1000))
    path = registry.path(layer.descriptor.digest)
    path.write_bytes(path.read_bytes().replace(b"1111", b"1121", 1))
    with pytest.raises(RegistryError, match="damaged"):
        unpack_layer(registry, layer, tmp_path / "into")
    assert not (tmp_path / "into").exists()


@pytest.mark.parametrize(
    "data", [b"no tar", gzip.compress(b"no tar at all", mtime=0)[:-9]], ids=["plain", "gzip"]
)
def test_what_is_no_archive_is_refused(registry, tmp_path, data):
    descriptor, source = blob(data)
    if data != b"no tar":
        descriptor = msgspec.structs.replace(descriptor, media_type=LAYER_GZIP)
    registry.put_blob(descriptor, source)
    with pytest.raises(RegistryError):
        unpack_layer(registry, Layer(descriptor=descriptor, diff_id="x"), tmp_path / "into")


def test_several_gzip_members_are_one_layer(registry, tmp_path):
    layer, data = tar_layer(("app/a", b"1"))
    packed = gzip.compress(data[:700]) + gzip.compress(data[700:])
    descriptor, source = blob(packed)
    descriptor = msgspec.structs.replace(descriptor, media_type=LAYER_GZIP)
    registry.put_blob(descriptor, source)
    layer = msgspec.structs.replace(layer, descriptor=descriptor)
    assert (unpack_layer(registry, layer, tmp_path / "into") / "app/a").read_bytes() == b"1"


def test_compression_that_nobody_here_reads_is_said(registry, tmp_path):
    layer = stored(registry, ("app/a", b"1"))
    descriptor = msgspec.structs.replace(layer.descriptor, media_type=LAYER_ZSTD)
    with pytest.raises(RegistryError, match="only tar and gzip"):
        unpack_layer(
            registry, msgspec.structs.replace(layer, descriptor=descriptor), tmp_path / "into"
        )


def test_damaged_archives_are_refused_or_unpacked_and_never_leave_the_folder(registry, tmp_path):
    link = special("app/link", tarfile.SYMTYPE, "deep/b")
    _, good = tar_layer(("app/deep/b", b"1" * 600), link, ("app/" + "n" * 150, b"2"))
    chance = random.Random(1)
    outcomes = set()
    for number in range(150):
        data = bytearray(good)
        for _ in range(chance.randint(1, 6)):
            data[chance.randrange(len(data) - 1024)] = chance.choice(b"./0\0\xff72")
        # Headers stay believable, so that more than the checksum is tried.
        for start in range(0, len(data), 512):
            if data[start + 257 : start + 262] == b"ustar":
                data[start + 148 : start + 156] = b" " * 8
                total = sum(data[start : start + 512])
                data[start + 148 : start + 156] = b"%06o\0 " % total
        descriptor, source = blob(bytes(data))
        registry.put_blob(descriptor, source)
        layer = Layer(descriptor=descriptor, diff_id=descriptor.digest)
        box = tmp_path / "box" / str(number)
        try:
            unpack_layer(registry, layer, box / "into")
            outcomes.add("unpacked")
        except RegistryError:
            outcomes.add("refused")
            assert list(box.iterdir()) == []
    assert outcomes == {"unpacked", "refused"}
    assert {path.name for path in tmp_path.iterdir()} == {"box", "images"}


# --- whiteouts ------------------------------------------------------------------------------------


def merged(registry, tmp_path: Path, *layers) -> dict[str, str | None]:
    """The files of layers over each other, with their content; None for a folder."""
    folders = [
        unpack_layer(registry, stored(registry, *members), tmp_path / f"layer-{n}", deletions=True)
        for n, members in enumerate(layers)
    ]
    root = tmp_path / "root"
    root.mkdir()
    merge(folders, root)
    found: dict[str, str | None] = {}

    def walk(folder: Path, at: str) -> None:
        for path in folder.iterdir():
            found[at + path.name] = None if path.is_dir() else path.read_text()
            if path.is_dir():
                walk(path, f"{at}{path.name}/")

    walk(root, "")
    return found


LOWER = [("a", b"a"), ("d/x", b"x"), ("d/y", b"y"), ("d/e/z", b"z")]


@pytest.mark.parametrize(
    ("upper", "gone", "come"),
    [
        ([(".wh.a", b"")], {"a"}, {}),
        ([("./.wh.a", b"")], {"a"}, {}),
        ([("d/.wh.x", b"")], {"d/x"}, {}),
        ([("d/e/.wh.z", b"")], {"d/e/z"}, {}),
        ([(".wh.d", b"")], {"d", "d/x", "d/y", "d/e", "d/e/z"}, {}),
        ([("d/.wh..wh..opq", b"")], {"d/x", "d/y", "d/e", "d/e/z"}, {}),
        ([(".wh..wh..opq", b"")], {"a", "d", "d/x", "d/y", "d/e", "d/e/z"}, {}),
        # What the layer itself has stays, before and behind the whiteout.
        ([("a", b"new"), (".wh.a", b"")], set(), {"a": "new"}),
        ([("d/.wh..wh..opq", b""), ("d/x", b"new")], {"d/y", "d/e", "d/e/z"}, {"d/x": "new"}),
        ([(".wh.d", b""), ("d/x", b"new")], {"d/y", "d/e", "d/e/z"}, {"d/x": "new"}),
        ([(".wh.nothing", b""), ("n/.wh.x", b"")], set(), {"n": None}),
        # Notes of aufs.
        ([(".wh..wh.aufs", b""), (".wh..wh.plnk/1.2", b"")], set(), {}),
    ],
)
def test_what_an_upper_layer_deletes_is_gone(registry, tmp_path, upper, gone, come):
    below = {"a": "a", "d": None, "d/x": "x", "d/y": "y", "d/e": None, "d/e/z": "z"}
    found = merged(registry, tmp_path, LOWER, upper)
    assert found == {name: text for name, text in below.items() if name not in gone} | come


def test_a_layer_above_the_deletion_puts_its_own_there(registry, tmp_path):
    found = merged(registry, tmp_path, LOWER, [(".wh.d", b"")], [("d/new", b"1")])
    assert found == {"a": "a", "d": None, "d/new": "1"}


def test_a_layer_that_deletes_is_refused_where_layers_are_not_merged(registry, tmp_path):
    layer = stored(registry, ("app/a", b""), ("app/.wh.b", b""))
    with pytest.raises(RegistryError, match="deletes 'app/b'"):
        unpack_layer(registry, layer, tmp_path / "into")
    assert not (tmp_path / "into").exists()


@pytest.mark.parametrize(
    "member",
    [
        (".wh.", b""),
        (".wh..", b""),
        (".wh...", b""),
        ("d/.wh...", b""),
        ("../.wh.a", b""),
        ("d/../../.wh.a", b""),
        (".wh.d/x", b""),
        ("d/.wh..wh..opq/x", b""),
        special(".wh.a", tarfile.DIRTYPE),
        special(".wh.a", tarfile.SYMTYPE, "d"),
        special(".wh.a", tarfile.LNKTYPE, "d/x"),
        special(".wh.a", tarfile.CHRTYPE),
        special("d/.wh..wh..opq", tarfile.DIRTYPE),
        ("link/.wh.x", b""),
    ],
    ids=lambda member: member[0] if isinstance(member, tuple) else member.name,
)
def test_wicked_whiteout_is_refused_and_leaves_nothing(registry, tmp_path, member):
    link = special("link", tarfile.SYMTYPE, "d")
    layer = stored(registry, ("d/x", b"1"), link, member)
    box = tmp_path / "box"
    with pytest.raises(RegistryError, match=r"refused|outside"):
        unpack_layer(registry, layer, box / "into", deletions=True)
    assert list(box.iterdir()) == []


def test_a_whiteout_reaches_through_no_link_of_a_lower_layer(registry, tmp_path):
    link = special("link", tarfile.SYMTYPE, "d")
    found = merged(registry, tmp_path, [("d/x", b"1"), link], [("link/.wh.x", b"")])
    assert found == {"d": None, "d/x": "1", "link": None}, "a folder takes the link's place"


def test_random_layers_are_what_the_specification_says(registry, tmp_path):
    chance = random.Random(7)
    names = ["a", "b", "c"]
    for number in range(150):
        layers = []
        wanted: dict[str, str | None] = {}
        for level in range(4):
            deleted, files = set(), {}
            for _ in range(chance.randint(1, 5)):
                depth = chance.randint(1, 3)
                path = "/".join(chance.choice(names) for _ in range(depth))
                if chance.random() < 0.4:
                    deleted.add(path if chance.random() < 0.7 else f"{path}/")
                else:
                    files[path] = f"{number}.{level}"
            # A file is no folder of the same layer.
            files = {
                path: text
                for path, text in files.items()
                if not any(other.startswith(f"{path}/") for other in [*files, *deleted])
            }
            members = [(path, text.encode()) for path, text in files.items()]
            for path in deleted:
                folder, _, name = path.rpartition("/")
                last = f".wh.{name}" if name else ".wh..wh..opq"
                members.append((f"{folder}/{last}" if folder else last, b""))
            chance.shuffle(members)
            layers.append(members)
            # Below first, whatever the order in the archive; then what the layer has.
            for path in deleted:
                beneath = path if path.endswith("/") else f"{path}/"
                for known in list(wanted):
                    if known == path or known.startswith(beneath):
                        del wanted[known]
            made: dict[str, str | None] = dict(files)
            for path in [*files, *deleted]:
                folder = path.rpartition("/")[0]
                while folder:
                    made[folder] = None
                    folder = folder.rpartition("/")[0]
            for path, text in made.items():
                if text is not None or wanted.get(path) is not None:
                    for known in list(wanted):
                        if known == path or known.startswith(f"{path}/"):
                            del wanted[known]
            wanted |= made
        box = tmp_path / str(number)
        box.mkdir()
        assert merged(registry, box, *layers) == wanted, layers
