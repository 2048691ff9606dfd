"""What `tandem init` writes into the recipe of a repository."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from support.repositories import Repository

from tandem.cli.init import init

APP = "from flask import Flask\napp = Flask(__name__)\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("TANDEM_STORE", "TANDEM_SOURCE", "TANDEM_STATE"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "shop"
    Repository(folder).commit({"app.py": APP, "requirements.txt": "flask\n"})
    monkeypatch.chdir(folder)
    return folder


def recipe(folder: Path) -> tuple[dict[str, Any], str]:
    """The recipe that is written, and what was printed."""
    done = CliRunner().invoke(init, ["--no-ask"])
    assert done.exit_code == 0, done.output
    table = tomllib.loads((folder / "pyproject.toml").read_text())["tool"]["tandem"]["app"]
    return table, done.output


def test_an_app_that_carries_its_model_is_released_as_code_alone(folder: Path) -> None:
    (folder / "model.pkl").write_bytes(b"")
    table, output = recipe(folder)
    assert table == {"name": "shop", "tests": False, "model": False}
    assert "code alone: model.pkl is packed" in output
    assert 'runtime="files"' in output


@pytest.mark.parametrize(
    "line", ["from tandem.serving import Tandem", 'os.environ["TANDEM_MODEL"]']
)
def test_an_app_that_asks_for_a_model_is_not(folder: Path, line: str) -> None:
    (folder / "app.py").write_text(f"{APP}{line}\n")
    assert "model" not in recipe(folder)[0]
