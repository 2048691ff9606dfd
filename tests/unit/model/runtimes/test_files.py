"""Opaque files: kept whole for the application to open, accepted by a person, never opened here."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from support.stores import MemoryStore

from tandem.errors import PackageError
from tandem.model import acceptance, judge
from tandem.model.examination import examine
from tandem.model.package import open_predictor, read
from tandem.model.publish import publish
from tandem.model.repository import Repository
from tandem.model.rules import Criteria
from tandem.model.writing import write


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/weights.h5").write_bytes(b"weights")
    (tmp_path / "model/labels.txt").write_text("labels: cat, dog")
    return tmp_path / "model"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "run_job", lambda job, *_, **__: examine(job))


def test_a_folder_of_files_becomes_a_package_and_comes_back_whole(
    tmp_path: Path, model: Path
) -> None:
    made = write(tmp_path / "package", model, name="pets", runtime="files")
    package = read(made.folder)
    assert [file.path for file in package.manifest.files] == ["labels.txt", "weights.h5"]
    assert package.golden().inputs == []
    with pytest.raises(PackageError, match=r"it finds them at \$TANDEM_MODEL"):
        open_predictor(package)


def test_one_file_is_enough(tmp_path: Path, model: Path) -> None:
    made = write(tmp_path / "package", model / "labels.txt", name="pets", runtime="files")
    assert made.has("labels.txt")


def test_it_is_published_and_waits_for_a_person(tmp_path: Path, model: Path) -> None:
    (model / "weights.h5").unlink()
    store = MemoryStore()
    version = publish(model, name="pets", runtime="files", store=store)
    assert version.outcome is not None
    assert version.outcome.state == "missing"
    assert any("tandem accept 1 --app pets" in line for line in version.outcome.lines())
    repository = Repository(store, "pets")
    acceptance.overrule(repository, 1, by="Ann", reason="tried it")
    verdict = acceptance.judge(repository, 1, Criteria(), cache=tmp_path / "cache")
    assert verdict.accepted
    assert repository.fetch(1, tmp_path / "fetched").has("labels.txt")


def test_a_pickle_needs_the_word_of_the_application(tmp_path: Path, model: Path) -> None:
    (model / "weights.h5").unlink()
    (model / "model.dat").write_bytes(pickle.dumps({"weights": [1.0]}))
    version = publish(model, name="pets", runtime="files", store=MemoryStore())
    assert version.outcome is not None
    assert version.outcome.state == "refused"
    assert any('trust = ["pickle"]' in line for line in version.outcome.lines())
    trusted = publish(model, name="pets", runtime="files", store=MemoryStore(), trust=["pickle"])
    assert trusted.outcome is not None
    assert trusted.outcome.state == "missing"


def test_folders_links_and_nothing_are_refused(tmp_path: Path, model: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(PackageError, match="no files"):
        write(tmp_path / "package", tmp_path / "empty", name="pets", runtime="files")
    (model / "more").mkdir()
    with pytest.raises(PackageError, match="pack it into one file"):
        write(tmp_path / "package", model, name="pets", runtime="files")
    (model / "more").rmdir()
    (model / "more").symlink_to("/etc/passwd")
    with pytest.raises(PackageError, match="not a plain file"):
        write(tmp_path / "package", model, name="pets", runtime="files")


@pytest.mark.parametrize("name", ["evaluation.json", "manifest.json", ".hidden", "a b"])
def test_names_that_mean_something_else_are_refused(tmp_path: Path, model: Path, name: str) -> None:
    (model / name).write_text("{}")
    with pytest.raises(PackageError, match="not a file of a model package"):
        write(tmp_path / "package", model, name="pets", runtime="files")
