"""The wheel, installed elsewhere: a notebook publishes, an ordinary repository goes live."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.tiny import free_port
from support.wheels import ROOT, UV, build_wheel, run

MOST_PACKAGES = 13
"""Beyond scikit-learn with what it takes itself."""

PUBLISH = """
import models, tandem                      # the folder of the person's own, and the library
assert models.MINE
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression
X, y = load_wine(return_X_y=True)
fitted = LogisticRegression(max_iter=5000).fit(X[::2], y[::2])
published = tandem.publish(
    fitted, name="wine", sample=X[:20], held_out=(X[1::2], y[1::2]), store="file:.tandem/store"
)
print(published.number, published.outcome.state)
"""

APP = """
from flask import Flask, jsonify, request
app = Flask(__name__)

@app.route("/predict", methods=["POST"])
def predict():
    return jsonify(quality="good" if float(request.form["alcohol"]) > 11 else "plain")
"""

TESTS = """
from app import app

def test_a_strong_wine_is_good():
    answer = app.test_client().post("/predict", data={"alcohol": "12.5"})
    assert answer.json == {"quality": "good"}
"""


class Elsewhere:
    """A fresh environment with the wheel, and an empty folder far from the clone."""

    def __init__(self, folder: Path) -> None:
        self.python = folder / "venv" / "bin" / "python"
        self.folder = folder / "wine"
        self.folder.mkdir()
        self.url = f"http://127.0.0.1:{free_port()}"
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("TANDEM_", "DAGSTER_"))}
        clean.pop("PYTHONPATH", None)
        clean["TANDEM_TARGET"] = f"process:{self.url.rpartition(':')[2]}"
        self.environment = clean
        self.wheel = build_wheel(folder)
        run(UV, "venv", "--quiet", "--python", sys.executable, str(folder / "venv"))
        self.install = (UV, "pip", "install", "--quiet", "--python", str(self.python))

    def packages(self) -> set[str]:
        """What is installed."""
        listed = run(UV, "pip", "list", "--quiet", "--python", str(self.python))
        return {line.split()[0] for line in listed.splitlines()[2:]}

    def run(self, *words: str) -> str:
        """Run a program of the environment in the empty folder; what it printed."""
        program = str(self.python.with_name(words[0]))
        return run(program, *words[1:], cwd=self.folder, env=self.environment)


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Elsewhere]:
    made = Elsewhere(tmp_path_factory.mktemp("wheel"))
    yield made
    subprocess.run(
        [made.python.with_name("tandem"), "stop"],
        cwd=made.folder,
        env=made.environment,
        capture_output=True,
    )


@pytest.mark.timeout(900)
def test_a_notebook_publishes_and_an_ordinary_repository_goes_live(elsewhere: Elsewhere) -> None:
    run(*elsewhere.install, "scikit-learn")
    before = elsewhere.packages()
    run(*elsewhere.install, str(elsewhere.wheel))
    more = elsewhere.packages() - before - {"tandem-release"}
    assert len(more) <= MOST_PACKAGES, sorted(more)

    (elsewhere.folder / "models").mkdir()
    (elsewhere.folder / "models" / "__init__.py").write_text("MINE = True\n")
    (elsewhere.folder / "publish.py").write_text(PUBLISH)
    assert elsewhere.run("python", "publish.py").strip() == "1 accepted"

    run(*elsewhere.install, "--require-hashes", "-r", str(ROOT / "requirements" / "main.txt"))
    run(*elsewhere.install, "--no-deps", "--reinstall-package=tandem-release", str(elsewhere.wheel))
    (elsewhere.folder / "app.py").write_text(APP)
    (elsewhere.folder / "tests").mkdir()
    (elsewhere.folder / "tests" / "test_app.py").write_text(TESTS)
    (elsewhere.folder / "requirements.txt").write_text("Flask==3.0.3\n")
    (elsewhere.folder / ".gitignore").write_text(".tandem/\n")
    git = ("git", "-C", str(elsewhere.folder))
    run(*git, "init", "--quiet", "--initial-branch=main")
    run(*git, "add", "--all")
    run(*git, "-c", "user.name=a", "-c", "user.email=a@example.com", "commit", "--quiet", "-m", "1")

    said = elsewhere.run("tandem", "release")
    assert f"url      {elsewhere.url}" in said
    with urllib.request.urlopen(f"{elsewhere.url}/predict", b"alcohol=12.5", timeout=20) as answer:
        assert answer.read().strip() == b'{"quality":"good"}'
    assert "wine v1" in said
    assert elsewhere.run("tandem", "release").startswith("nothing changed since release 1")
