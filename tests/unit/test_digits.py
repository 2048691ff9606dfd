"""The digits model: as good as it says, the same whenever trained, tested on unseen rows."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import msgspec
import numpy as np
import pytest

from models import digits
from models.digits import data, training
from models.digits.training import TrainConfig, fit
from orchestration.apps import APPS
from tandem.errors import SettingError
from tandem.model import acceptance
from tandem.model.interface import Takes, mismatch
from tandem.model.package import as_array, open_predictor
from tandem.model.repository import Repository
from tandem.model.rules import Criteria
from tandem.storage import open_store

ROOT = Path(__file__).resolve().parents[2]
QUICK = TrainConfig(hidden=16, epochs=3, copies=1, folds=0)


@pytest.fixture(scope="module")
def quick() -> training.Trained:
    return fit(QUICK)


def test_the_default_model_is_one_to_be_proud_of() -> None:
    trained = fit(msgspec.structs.replace(TrainConfig(), folds=0))
    assert trained.metrics["accuracy"] >= 0.98
    assert trained.metrics["top3_accuracy"] >= 0.995
    assert trained.metrics["worst_digit_recall"] >= 0.93
    assert trained.metrics["calibration_error"] <= 0.03


def test_the_same_settings_give_the_same_package(quick: training.Trained, tmp_path: Path) -> None:
    first = training.package_of(quick, tmp_path / "a")
    second = training.package_of(fit(QUICK), tmp_path / "b", publisher="somebody else")
    assert first.digest == second.digest


def test_another_seed_gives_another_model_on_the_same_held_out_rows(
    quick: training.Trained, tmp_path: Path
) -> None:
    other = fit(msgspec.structs.replace(QUICK, seed=1))
    first = training.package_of(quick, tmp_path / "a")
    second = training.package_of(other, tmp_path / "b")
    assert first.digest != second.digest
    assert first.manifest.evaluation is not None
    assert second.manifest.evaluation is not None
    assert first.manifest.evaluation.file == second.manifest.evaluation.file


def test_training_never_sees_the_held_out_rows() -> None:
    _, truth = data.load()
    near, far = data.hold_out(truth, 0.2)
    assert not set(near) & set(far)
    assert len(near) + len(far) == len(truth) == 1797
    shares = np.bincount(truth[far]) / np.bincount(truth)
    assert shares == pytest.approx(0.2, abs=0.01)


def test_blocks_are_contiguous_and_folds_are_stratified() -> None:
    _, truth = data.load()
    for near, far in data.blocks(truth, 5):
        assert np.array_equal(far, np.arange(far[0], far[-1] + 1))
        assert not set(near) & set(far)
    for _, far in data.stratified(truth, 5):
        assert np.bincount(truth[far]).min() >= 34


def test_cross_validation_is_told_in_both_kinds() -> None:
    said: list[str] = []
    trained = fit(msgspec.structs.replace(QUICK, folds=2), progress=said.append)
    for kind in ("accuracy_folds", "accuracy_unseen_writers"):
        assert 0 < trained.metrics[f"{kind}_worst"] <= trained.metrics[kind] <= 1
        assert kind in trained.description
    assert any("held-out" in line for line in said)


def test_copies_keep_what_they_show_and_stay_pictures() -> None:
    rows, truth = data.load()
    more, told = data.with_copies(
        rows[:50], truth[:50], 3, seed=0, rotation=12, scale=0.1, shift=0.5
    )
    assert more.shape == (200, 64)
    assert np.array_equal(told, np.tile(truth[:50], 4))
    assert np.array_equal(more[:50], rows[:50])
    assert more.min() >= 0
    assert more.max() <= data.INK + 1e-4
    # Warped, not mangled: nearly all of the ink is still there.
    assert more[50:].sum() / (3 * rows[:50].sum()) == pytest.approx(1, abs=0.1)


def test_an_unwarped_copy_is_the_original() -> None:
    rows, truth = data.load()
    more, _ = data.with_copies(rows[:9], truth[:9], 1, seed=0, rotation=0, scale=0, shift=0)
    assert more[9:] == pytest.approx(rows[:9], abs=1e-4)


def test_training_publishes_a_version_that_knows_its_pictures(tmp_path: Path) -> None:
    repository = Repository(open_store(f"file:{tmp_path}/store"), "digits")
    said: list[str] = []
    trained = digits.train(
        QUICK,
        repository=repository,
        state=tmp_path / "state",
        training_commit="c" * 40,
        publisher="a test",
        progress=said.append,
    )
    assert trained.new
    assert trained.version == repository.latest()
    assert trained.version is not None
    manifest = trained.version.manifest
    assert manifest.labels == [str(digit) for digit in range(10)]
    assert manifest.training_commit == "c" * 40
    assert manifest.image is not None
    assert (manifest.image.width, manifest.image.height, manifest.image.maximum) == (8, 8, 16)
    assert manifest.parameters["hidden"] == 16
    assert manifest.runtime == "onnx"
    assert list((tmp_path / "state").iterdir()) == []
    again = digits.train(QUICK, repository=repository, state=tmp_path / "state")
    assert not again.new
    assert again.version == trained.version
    assert "published: digits v1" in said


def test_the_published_model_reads_digits(quick: training.Trained, tmp_path: Path) -> None:
    made = training.package_of(quick, tmp_path / "package")
    rows, truth = quick.held_out
    answers = open_predictor(made).predict(as_array(made.manifest, rows.tolist()))
    assert (answers.argmax(axis=1) == truth).mean() == pytest.approx(
        quick.metrics["accuracy"], abs=1e-6
    )


def test_its_confusion_matrix_counts_every_held_out_row(quick: training.Trained) -> None:
    table = np.asarray(quick.measured.confusion)
    assert table.sum() == quick.measured.rows == len(quick.held_out[0])
    assert np.trace(table) / table.sum() == pytest.approx(quick.metrics["accuracy"], abs=1e-6)
    assert sum(one.rows for one in quick.measured.calibration) == table.sum()


def test_the_speed_of_one_answer_is_measured(quick: training.Trained, tmp_path: Path) -> None:
    speed = training.measure(training.package_of(quick, tmp_path / "package"))
    assert speed.onnx is not None
    assert speed.sklearn is not None
    assert 0 < speed.onnx < speed.sklearn


@pytest.mark.parametrize(
    "setting", [{"hidden": 0}, {"folds": 1}, {"test_fraction": 0.9}, {"learning_rate": 0.0}]
)
def test_a_setting_out_of_its_range_is_named(setting: dict[str, float]) -> None:
    with pytest.raises(SettingError, match=next(iter(setting))):
        fit(msgspec.structs.replace(QUICK, **setting))


def test_importing_the_model_loads_nothing_heavy() -> None:
    script = (
        "import sys; sys.path[:0] = sys.argv[1:]\n"
        "import models.digits\n"
        "print(sorted({'sklearn', 'matplotlib', 'onnxruntime', 'dagster'} & set(sys.modules)))"
    )
    paths = [path for path in sys.path if path]
    done = subprocess.run(
        [sys.executable, "-c", script, *paths], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_it_is_judged_as_the_project_judges_it_and_fits_the_code(tmp_path: Path) -> None:
    trained = fit(msgspec.structs.replace(TrainConfig(), folds=0, epochs=12, copies=4))
    repository = Repository(open_store(f"file:{tmp_path}/store"), "digits")
    repository.publish(training.package_of(trained, tmp_path / "package"))
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())
    takes = msgspec.convert(told["tool"]["tandem"]["app"]["model"], Takes)
    rule = Criteria(rule=APPS[0].rule, takes=takes)
    verdict = acceptance.judge(repository, 1, rule, cache=tmp_path)
    assert verdict.accepted, verdict.reason
    summaries = {check.name: check.summary for check in verdict.checks}
    assert "359 held-out rows of the application" in summaries["good_enough"]
    assert "answered ONNX as scikit-learn" in summaries["answers_match"]


def test_digits_without_a_picture_do_not_fit_the_code(
    quick: training.Trained, tmp_path: Path
) -> None:
    made = training.package_of(quick, tmp_path / "package")
    numbers = msgspec.structs.replace(made.manifest, image=None)
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())
    takes = msgspec.convert(told["tool"]["tandem"]["app"]["model"], Takes)
    assert mismatch(made.manifest, None, takes) == ""
    assert "it takes no pictures, the commit takes pictures of 8 x 8" in mismatch(
        numbers, None, takes
    )
