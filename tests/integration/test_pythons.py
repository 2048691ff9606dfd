"""Publishing and the extension, from the wheel, on each Python that this machine has."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from support.wheels import UV, build_wheel, run

PROGRAM = """
import numpy as np
from flask import Flask
from sklearn.linear_model import LogisticRegression
from tandem import publish
from tandem.serving import Tandem

rows = np.random.default_rng(0).normal(size=(400, 3)).astype("float32")
truth = rows[:, 0] > 0
fitted = LogisticRegression().fit(rows[::2], truth[::2])
published = publish(
    fitted, name="wine", sample=rows[:20], held_out=(rows[1::2], truth[1::2]),
    labels=["plain", "good"], store="file:store", progress=False,
)
assert published.outcome.state == "accepted", published.outcome.lines()

from tandem.model.repository import Repository
from tandem.storage import open_store
from pathlib import Path
Repository(open_store("file:store"), "wine").fetch(1, Path("model"))

app = Flask("wine")
tandem = Tandem(app)

@app.get("/own")
def own():
    return {"label": tandem.model.predict(rows[:1]).labels[0]}

client = app.test_client()
assert client.get("/own").json["label"] in ("plain", "good")
assert client.get("/_tandem/version").json["model"]["name"] == "wine"
answer = client.post("/score", json={"rows": rows[:2].tolist()})
assert len(answer.json["predictions"]) == 2, answer.data
print("well")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


def find_python(version: str) -> str | None:
    """An interpreter of pyenv, or on the PATH, that starts."""
    installed = sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python"))
    on_path = shutil.which(f"python{version}")
    for path in (*map(str, reversed(installed)), *([on_path] if on_path else [])):
        # What pyenv puts on the PATH is there for versions that are not chosen, too.
        if subprocess.run([path, "-c", ""], capture_output=True).returncode == 0:
            return path
    return None


@pytest.mark.timeout(600)
@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13", "3.14"])
def test_publishing_and_the_extension_work_on(version: str, wheel: Path, tmp_path: Path) -> None:
    interpreter = find_python(version)
    if interpreter is None:
        pytest.skip(f"this machine has no Python {version}")
    python = str(tmp_path / "venv" / "bin" / "python")
    run(UV, "venv", "--quiet", "--python", interpreter, str(tmp_path / "venv"))
    extras = f"tandem-release[serving] @ {wheel.as_uri()}"
    run(UV, "pip", "install", "--quiet", "--python", python, extras)
    (tmp_path / "program.py").write_text(PROGRAM)
    clean = {k: v for k, v in os.environ.items() if not k.startswith("TANDEM_")}
    clean["TANDEM_MODEL"] = "model"
    assert run(python, "program.py", cwd=tmp_path, env=clean).endswith("well\n")
