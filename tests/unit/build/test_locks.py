"""What has no hashes is resolved once, and the same versions are found ever after."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.oci_samples import wheel

from tandem.build.locks import Locks, lock
from tandem.errors import BuildError, RecipeError
from tandem.storage import open_store

PYTHON = "3.11"


@pytest.fixture
def locks(tmp_path: Path) -> Locks:
    return Locks(open_store(f"file:{tmp_path / 'store'}"), "shop")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels, the only one that is looked into."""
    folder = tmp_path / "wheels"
    for name in ("thing", "other_thing"):
        wheel(folder, name, "1.0", {f"{name}.py": "x = 1\n"})
    monkeypatch.setenv("UV_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return folder


def checkout(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "requirements.txt").write_text(text)
    return folder


def test_a_file_with_hashes_is_taken_as_it_is(tmp_path: Path, locks: Locks) -> None:
    text = "thing==1.0 --hash=sha256:ab\n"
    found = lock(checkout(tmp_path / "a", text), "requirements.txt", locks=locks, python=PYTHON)
    assert (found.own, found.text) == (True, text)


def test_names_are_resolved_to_versions_with_hashes(
    tmp_path: Path, locks: Locks, index: Path
) -> None:
    folder = checkout(tmp_path / "a", "thing>=0.5\n")
    found = lock(folder, "requirements.txt", locks=locks, python=PYTHON, also=["other_thing"])
    assert not found.own
    assert "thing==1.0" in found.text
    assert "other-thing==1.0" in found.text
    assert found.text.count("--hash=sha256:") == 2
    assert "://" not in found.text


def test_a_newer_version_does_not_change_what_was_resolved(
    tmp_path: Path, locks: Locks, index: Path
) -> None:
    folder = checkout(tmp_path / "a", "thing\n")
    before = lock(folder, "requirements.txt", locks=locks, python=PYTHON)
    wheel(index, "thing", "2.0", {"thing.py": "x = 2\n"})
    assert lock(folder, "requirements.txt", locks=locks, python=PYTHON) == before
    checkout(folder, "thing>1\n")
    assert "thing==2.0" in lock(folder, "requirements.txt", locks=locks, python=PYTHON).text


def test_a_library_that_is_not_there_is_the_commits_fault(
    tmp_path: Path, locks: Locks, index: Path
) -> None:
    folder = checkout(tmp_path / "a", "missing==3.0\n")
    with pytest.raises(RecipeError, match=r"requirements\.txt cannot be installed .* missing"):
        lock(folder, "requirements.txt", locks=locks, python=PYTHON)


def test_an_index_that_is_unreachable_is_nobodys_fault(
    tmp_path: Path, locks: Locks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://user:secret@127.0.0.1:9/simple")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    folder = checkout(tmp_path / "a", "missing==3.0\n")
    with pytest.raises(BuildError, match="could not be resolved") as caught:
        lock(folder, "requirements.txt", locks=locks, python=PYTHON)
    assert not isinstance(caught.value, RecipeError)
    assert "secret" not in str(caught.value)
