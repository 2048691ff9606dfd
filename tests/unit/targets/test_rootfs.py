"""Unpacked images: layers are composed by links, and the image's paths lead into them."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.small_image import MemoryRegistry

from tandem.errors import TandemError, TargetError
from tandem.oci.merge import merge
from tandem.targets.local import process, rootfs


def folder(base: Path, name: str, *files: str) -> Path:
    for file in files:
        path = base / name / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return base / name


def test_a_folder_of_one_layer_is_a_link_to_it(tmp_path: Path) -> None:
    model = folder(tmp_path, "model-layer", "model/deep/file")
    app = folder(tmp_path, "app-layer", "app/main.py")
    root = tmp_path / "root"
    root.mkdir()
    merge([app, model], root)
    assert (root / "model").is_symlink()
    assert (root / "model/deep/file").read_text() == "model-layer"


def test_folders_of_several_layers_are_merged_and_the_upper_file_wins(tmp_path: Path) -> None:
    lower = folder(tmp_path, "lower", "app/lib/a.py", "app/both.py")
    upper = folder(tmp_path, "upper", "app/code/b.py", "app/both.py")
    root = tmp_path / "root"
    root.mkdir()
    merge([lower, upper], root)
    assert (root / "app/lib").is_symlink() and (root / "app/code").is_symlink()
    assert not (root / "app").is_symlink()
    assert (root / "app/both.py").read_text() == "upper"


def test_a_file_over_a_folder_and_a_folder_over_a_file_take_its_place(tmp_path: Path) -> None:
    lower = folder(tmp_path, "lower", "x/inside", "y")
    upper = folder(tmp_path, "upper", "x", "y/inside")
    root = tmp_path / "root"
    root.mkdir()
    merge([lower, upper], root)
    assert (root / "x").read_text() == "upper"
    assert (root / "y/inside").read_text() == "upper"


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("/app/lib:/app", "ROOT/app/lib:ROOT/app"),
        ("/etc/nothing", "/etc/nothing"),
        ("/app/../../outside", "/app/../../outside"),
        ("relative/app", "relative/app"),
        ("http://host/app", "http://host/app"),
        ("/", "/"),
    ],
)
def test_only_absolute_paths_that_the_image_has_lead_into_it(
    tmp_path: Path, text: str, want: str
) -> None:
    folder(tmp_path, "root", "app/lib/x")
    assert rootfs.translate(tmp_path / "root", text) == want.replace("ROOT", f"{tmp_path}/root")


def test_layers_that_are_there_already_are_not_pulled_again(tmp_path: Path) -> None:
    registry = MemoryRegistry()
    first, second = registry.small("one"), registry.small("two")
    process.prepare(registry, first, tmp_path, print)
    registry.pulled.clear()
    process.prepare(registry, second, tmp_path, print)
    assert len(registry.pulled) == 2, "the config and the one layer that is new"


def test_an_image_for_another_python_is_refused(tmp_path: Path) -> None:
    registry = MemoryRegistry()
    digest = registry.small("one", python="3.7")
    with pytest.raises(TargetError, match=r"made for Python 3\.7, this machine's is .*docker:"):
        process.prepare(registry, digest, tmp_path, print)


def test_an_image_without_a_command_is_refused(tmp_path: Path) -> None:
    registry = MemoryRegistry()
    with pytest.raises(TargetError, match="no command"):
        process.prepare(registry, registry.image([]), tmp_path, print)


def test_an_image_that_the_registry_does_not_have_is_one_line(tmp_path: Path) -> None:
    missing = "sha256:" + "0" * 64
    with pytest.raises(TandemError, match="no image"):
        process.prepare(MemoryRegistry(), missing, tmp_path, print)


def test_old_images_are_removed_with_the_layers_that_only_they_had(tmp_path: Path) -> None:
    registry = MemoryRegistry()
    digests = [registry.small(word) for word in ("one", "two", "three")]
    for digest in digests:
        process.prepare(registry, digest, tmp_path, print)
    rootfs.prune(tmp_path, {digests[0]}, keep=1)
    assert len(list((tmp_path / "roots").iterdir())) == 3, "just used: somebody may need them"
    rootfs.prune(tmp_path, {digests[0]}, keep=1, grace=-1)
    left = {root.name for root in (tmp_path / "roots").iterdir()}
    assert left == {digests[0].removeprefix("sha256:"), digests[2].removeprefix("sha256:")}
    models = [path.read_text() for path in (tmp_path / "layers").glob("*/model/word.txt")]
    assert sorted(models) == ["one", "three"]
    assert (tmp_path / "roots" / min(left) / "app" / "lib" / "library.py").exists()
