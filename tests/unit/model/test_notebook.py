"""Publishing from anybody's notebook: light, nothing that only Linux has, beside other folders."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import tandem

HIDDEN = ["fcntl", "pwd", "grp", "resource", "termios", "pty", "tty", "syslog", "spwd", "crypt"]

HIDE = f"""
import sys

class Hides:
    def find_spec(self, name, path=None, target=None):
        if name in {HIDDEN!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

for name in {HIDDEN!r}:
    sys.modules.pop(name, None)
sys.meta_path.insert(0, Hides())
"""

TRAIN = """
import numpy as np
from sklearn.linear_model import LogisticRegression
X = np.random.default_rng(0).normal(size=(200, 2))
model = LogisticRegression().fit(X, X[:, 0] > 0)
"""

PUBLISH = """
from tandem import publish
version = publish(model, name="wine", sample=X[:50], held_out=(X, X[:, 0] > 0), store=STORE)
print(version.number, version.outcome.state, *version.outcome.lines())
"""

LIGHT = """
import json, sys, time
import sklearn.pipeline, sklearn.utils.validation
import tandem
first = sorted({name.partition(".")[0] for name in sys.modules})
started = time.process_time()
from tandem import publish
seconds = time.process_time() - started
print(json.dumps([seconds, first, sorted({name.partition(".")[0] for name in sys.modules})]))
"""


def run(program: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        capture_output=True,
        text=True,
        cwd=folder,
        # As an installed library is found: on a path, and not by an editable install's own finder.
        env=os.environ | {"PYTHONPATH": str(Path(tandem.__file__).parents[1])},
        timeout=250,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_publishing_and_judging_import_nothing_that_only_linux_has(tmp_path: Path) -> None:
    store = f"STORE = {str(f'file:{tmp_path}/store')!r}"
    said = run(TRAIN + HIDE + store + PUBLISH, tmp_path)
    assert said.startswith("1 accepted"), said
    assert (tmp_path / "store/models/wine/versions/000001.json").exists()
    run(TRAIN + HIDE + "import tandem.model.judge_process", tmp_path)


def test_publishing_works_beside_folders_of_ones_own(tmp_path: Path) -> None:
    for name in ("models", "serving", "orchestration"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('not this one')")
    (tmp_path / "tandem").mkdir()
    (tmp_path / "tandem/README.md").write_text("a clone")
    store = f"STORE = {str(f'file:{tmp_path}/store')!r}"
    assert run(TRAIN + store + PUBLISH, tmp_path).startswith("1 accepted")


@pytest.mark.parametrize("heavy", ["dagster", "flask", "onnxruntime", "azure", "boto3", "docker"])
def test_importing_publish_brings_nothing_heavy(tmp_path: Path, heavy: str, light: str) -> None:
    seconds, first, second = json.loads(light)
    assert heavy not in first
    assert heavy not in second
    assert "msgspec" not in first, "tandem alone imports nothing"
    assert seconds < 0.5, "of computing, beyond scikit-learn"


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> str:
    return run(LIGHT, tmp_path_factory.mktemp("light"))
