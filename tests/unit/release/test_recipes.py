"""What a recipe changes about a release: code alone, and classes of the application's own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.tiny import CHECK, PYPROJECT, SERVICE, Tiny

from tandem.errors import NothingToPack
from tandem.model.publish import publish
from tandem.release.build import build_app
from tandem.release.deploy import deploy
from tandem.release.judging import judge_missing
from tandem.release.pack import pack
from tandem.release.pair import choose_pair
from tandem.release.prove import prove
from tandem.release.record import record_release

PLAIN = '''
"""A service of the standard library that knows nothing of Tandem."""
import os
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def log_message(self, *arguments):
        pass
    def do_GET(self):
        status = 200 if self.path == "/hello" else 404
        self.send_response(status)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"hello")

HTTPServer((os.environ.get("HOST", "127.0.0.1"), int(os.environ["PORT"])), Handler).serve_forever()
'''
QUESTION = """
[[tool.tandem.app.question]]
path = "/hello"
expect.text = "hello"
"""
STEPS = """
from sklearn.base import BaseEstimator, TransformerMixin

class Halve(TransformerMixin, BaseEstimator):
    def fit(self, rows, truth=None):
        self.learned_ = 2.0
        return self
    def transform(self, rows):
        return rows / self.learned_
"""


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Tiny]:
    made = Tiny(tmp_path / "tiny")
    yield made
    made.close()


def commit(tiny: Tiny, recipe: str, service: str, **files: str) -> None:
    tiny.repository.commit(
        {
            "pyproject.toml": recipe,
            "lock.txt": "",
            "check.py": CHECK,
            "verdict.txt": "green",
            "app/__main__.py": service,
            **{name.replace("__", "/"): text for name, text in files.items()},
        }
    )


def test_code_alone_is_released_and_its_own_questions_are_asked(tiny: Tiny) -> None:
    project = tiny.project
    recipe = PYPROJECT.format(name="tiny").replace("extension = true", "model = false")
    commit(tiny, recipe + QUESTION, PLAIN)
    assert build_app(project).passed
    judge_missing(project)
    packed = pack(project, choose_pair(project))
    assert packed.model.is_none
    assert packed.reference
    record = prove(project, packed)
    assert record.good, record.proofs
    assert "answered 1 of 1 questions" in record.proofs[0].summary
    deploy(project)
    release = record_release(project, trigger="test")
    assert release.changed == [f"first release: commit {release.app.commit[:10]} with no model"]


def test_a_wrong_answer_to_a_question_of_the_recipe_is_the_images_fault(tiny: Tiny) -> None:
    recipe = PYPROJECT.format(name="tiny").replace("extension = true", "model = false")
    commit(tiny, recipe + QUESTION.replace('"hello"', '"goodbye"'), PLAIN)
    build_app(tiny.project)
    record = prove(tiny.project, pack(tiny.project, choose_pair(tiny.project)))
    assert not record.good
    assert "expected 'goodbye'" in record.proofs[0].summary


def test_a_class_that_the_recipe_trusts_is_judged_with_the_commits_own_module(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = tmp_path / "code"
    code.mkdir()
    (code / "tiny_own_steps.py").write_text(STEPS)
    monkeypatch.syspath_prepend(str(code))
    monkeypatch.delitem(sys.modules, "tiny_own_steps", raising=False)
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from tiny_own_steps import Halve  # type: ignore[import-not-found]

    rows = np.random.default_rng(0).normal(size=(400, 2))
    truth = rows[:, 0] > 0
    fitted = make_pipeline(Halve(), LogisticRegression()).fit(rows[::2], truth[::2])
    held_out = (rows[1::2], truth[1::2])
    publish(
        fitted, name="tiny", sample=rows[:9], held_out=held_out, store=tiny.project.store,
        progress=False, check=False,
    )  # fmt: skip
    recipe = PYPROJECT.format(name="tiny")
    commit(tiny, recipe, SERVICE, **{"tiny_own_steps.py": STEPS})
    build_app(tiny.project)
    judge_missing(tiny.project)
    with pytest.raises(NothingToPack, match=r"does not trust: tiny_own_steps\.Halve"):
        choose_pair(tiny.project)
    trusting = recipe + 'trust = ["tiny_own_steps.Halve"]\n'
    commit(tiny, trusting, SERVICE, **{"tiny_own_steps.py": STEPS})
    build_app(tiny.project)
    judge_missing(tiny.project)
    pair = choose_pair(tiny.project)
    assert pair.version is not None
    assert pair.version.number == 1
