"""Transformer classes of one's own: refused unless the application trusts them by name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.stores import MemoryStore

from tandem.errors import PackageError
from tandem.model import acceptance
from tandem.model.package import TRUSTED, open_predictor
from tandem.model.publish import publish
from tandem.model.repository import Repository
from tandem.model.rules import AcceptanceRule, Criteria
from tandem.model.writing import write

STEPS = """
from sklearn.base import BaseEstimator, TransformerMixin


class Halve(TransformerMixin, BaseEstimator):
    def fit(self, rows, truth=None):
        self.learned_ = 2.0
        return self

    def transform(self, rows):
        return rows / self.learned_
"""
NAME = "tiny_steps.halve.Halve"
X = np.random.default_rng(0).normal(size=(200, 2))


@pytest.fixture
def estimator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "code/tiny_steps").mkdir(parents=True)
    (tmp_path / "code/tiny_steps/__init__.py").write_text("")
    (tmp_path / "code/tiny_steps/halve.py").write_text(STEPS)
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    for name in [name for name in sys.modules if name.startswith("tiny_steps")]:
        monkeypatch.delitem(sys.modules, name)
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from tiny_steps.halve import Halve  # type: ignore[import-not-found]

    return make_pipeline(Halve(), LogisticRegression()).fit(X, X[:, 0] > 0)


def test_a_class_of_ones_own_is_loaded_only_where_it_is_trusted(
    tmp_path: Path, estimator: Any
) -> None:
    made = write(tmp_path / "package", estimator, name="tiny", sample=X)
    assert made.manifest.runtime == "sklearn"
    with pytest.raises(PackageError, match=f"does not trust: {NAME}; add"):
        open_predictor(made)
    given = open_predictor(made, trusted=TRUSTED | {NAME}).predict(X)
    np.testing.assert_allclose(given, estimator.predict_proba(X), atol=1e-9)


def test_publishing_says_at_once_that_it_is_not_trusted_and_what_lifts_it(estimator: Any) -> None:
    store = MemoryStore()
    held_out = (X, X[:, 0] > 0)
    version = publish(estimator, name="tiny", sample=X, held_out=held_out, store=store)
    assert version.outcome is not None
    assert version.outcome.state == "refused"
    assert any("trust in [tool.tandem.app]" in line for line in version.outcome.lines())
    again = publish(estimator, name="tiny", sample=X, held_out=held_out, store=store, trust=[NAME])
    assert again.outcome is not None
    assert again.outcome.state == "accepted", again.outcome.lines()


def test_the_release_accepts_it_once_the_application_trusts_it(
    tmp_path: Path, estimator: Any
) -> None:
    repository = Repository(MemoryStore(), "tiny")
    truth = (X, X[:, 0] > 0)
    made = write(tmp_path / "package", estimator, name="tiny", sample=X, held_out=truth)
    repository.publish(made)
    rule = AcceptanceRule(floor=0.5)
    refused = acceptance.judge(repository, 1, Criteria(rule=rule), cache=tmp_path / "cache")
    assert not refused.accepted
    trusting = Criteria(rule=rule, trust=(NAME,), modules=(tmp_path / "code",))
    verdict = acceptance.judge(repository, 1, trusting, cache=tmp_path / "cache")
    assert verdict.accepted, verdict.reason


def test_a_class_of_the_notebook_itself_is_refused_with_the_remedy(tmp_path: Path) -> None:
    program = (
        STEPS
        + f"""
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from tandem.model.writing import write
X = np.arange(20.0).reshape(10, 2)
model = make_pipeline(Halve(), LogisticRegression()).fit(X, X[:, 0] > 9)
write({str(tmp_path / "package")!r}, model, name="tiny", sample=X)
"""
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert "Halve: defined in this notebook or script; move it to a module" in done.stderr
