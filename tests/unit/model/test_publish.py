"""Publishing from a notebook: what the release will say is heard at once, with the remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.stores import MemoryStore
from support.tiny import ROWS, SAMPLE, TRUTH, onnx_file

from tandem.errors import NotFound, SandboxError
from tandem.model import acceptance, judge
from tandem.model.examination import examine
from tandem.model.interface import Takes
from tandem.model.kept_criteria import keep, kept_criteria
from tandem.model.publish import Published, publish
from tandem.model.repository import Repository
from tandem.model.rules import AcceptanceRule, Criteria

LABELS = ["high", "low"]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    # In this process: what the other process is for has tests of its own.
    monkeypatch.setattr(judge, "run_job", lambda job, *_, **__: examine(job))


def published(store: MemoryStore, accuracy: float = 0.99, **details: Any) -> Published:
    given = {"sample": SAMPLE, "held_out": (ROWS, TRUTH), "labels": LABELS} | details
    return publish(onnx_file(accuracy), name="tiny", store=store, **given)


def told(version: Published) -> str:
    assert version.outcome is not None
    return "\n".join(version.outcome.lines())


def test_a_good_model_is_accepted_at_once_by_a_process_of_its_own(
    capsys: pytest.CaptureFixture[str],
) -> None:
    version = published(MemoryStore())
    assert version.outcome is not None
    assert version.outcome.state == "accepted", told(version)
    assert "tiny v1 accepted by every check" in capsys.readouterr().err
    assert repr(version).endswith(" accepted")


def test_nothing_is_printed_without_progress(
    quick: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told(published(MemoryStore(), progress=False))
    assert capsys.readouterr().err == ""


def test_a_first_model_without_held_out_rows_is_published_and_says_who_accepts_it(
    quick: None, tmp_path: Path
) -> None:
    store = MemoryStore()
    version = published(store, held_out=None)
    assert version.outcome is not None
    assert version.outcome.state == "missing"
    assert "held_out=(X, y)" in told(version)
    assert "tandem accept 1 --app tiny --by NAME --reason WHY" in told(version)
    repository = Repository(store, "tiny")
    acceptance.overrule(repository, 1, by="Ann", reason="the first one")
    verdict = acceptance.judge(repository, 1, Criteria(), cache=tmp_path, again=True)
    assert verdict.accepted


def test_a_model_below_the_rule_of_the_last_release_is_refused_with_its_number(
    quick: None,
) -> None:
    store = MemoryStore()
    keep(Repository(store, "tiny"), Criteria(rule=AcceptanceRule(floor=0.95)))
    version = published(store, 0.8)
    assert version.outcome is not None
    assert version.outcome.state == "refused"
    assert "by the criteria of the last release" in told(version)
    assert "floor 0.95" in told(version)
    assert "train a better one" in told(version)


def test_rows_that_only_the_application_has_are_measured_at_the_release(
    quick: None, tmp_path: Path
) -> None:
    store = MemoryStore()
    repository = Repository(store, "tiny")
    rule = AcceptanceRule(floor=0.95, held_out=str(tmp_path / "secret.json"))
    keep(repository, Criteria(rule=rule))
    assert b"secret" not in store.read("models/tiny/criteria.json")[0]
    version = published(store, 0.5)
    assert version.outcome is not None
    good = next(check for check in version.outcome.checks if check.name == "good_enough")
    assert good.summary == "measured at the release, on the application's own rows"


def test_an_interface_that_does_not_fit_the_code_is_heard_at_once(quick: None) -> None:
    store = MemoryStore()
    keep(Repository(store, "tiny"), Criteria(takes=Takes(features=3)))
    version = published(store)
    assert "same_interface" in told(version)
    assert "[tool.tandem.app.model]" in told(version)


def test_what_a_release_judged_by_is_kept_and_changes_with_it() -> None:
    store = MemoryStore()
    repository = Repository(store, "tiny")
    assert kept_criteria(repository) is None
    first = Criteria(rule=AcceptanceRule(floor=0.9), lock={"skops": "1"}, champion=3)
    keep(repository, first)
    before = store.objects["models/tiny/criteria.json"]
    keep(repository, first)
    assert store.objects["models/tiny/criteria.json"] == before, "nothing new is written"
    keep(repository, Criteria(trust=("mine.Step",)))
    kept = kept_criteria(repository)
    assert kept is not None
    assert kept.criteria().trust == ("mine.Step",)


def test_a_machine_that_cannot_examine_publishes_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise SandboxError("no namespaces")

    monkeypatch.setattr(judge, "run_job", fails)
    version = published(MemoryStore())
    assert version.number == 1
    assert version.outcome is not None
    assert version.outcome.state == "unknown"
    assert "the release checks it" in told(version)


def test_a_regression_is_measured_by_its_own_metric(quick: None) -> None:
    from sklearn.linear_model import LinearRegression

    rows = np.arange(400, dtype=np.float64).reshape(200, 2)
    values = rows.sum(axis=1)
    estimator = LinearRegression().fit(rows, values)
    version = publish(
        estimator, name="line", sample=rows, held_out=(rows, values), store=MemoryStore()
    )
    assert version.outcome is not None
    assert version.outcome.state == "accepted", told(version)


def test_another_metric_than_the_rules_may_be_taken_upon_themselves(
    quick: None, tmp_path: Path
) -> None:
    store = MemoryStore()
    keep(Repository(store, "tiny"), Criteria(rule=AcceptanceRule(metric="r2")))
    version = published(store)
    assert version.outcome is not None
    assert version.outcome.state == "refused"
    assert "r2 does not measure a classification" in told(version)
    assert "a person takes it upon themselves: tandem accept 1" in told(version)
    repository = Repository(store, "tiny")
    criteria = Criteria(rule=AcceptanceRule(metric="r2"))
    acceptance.overrule(repository, 1, by="Ann", reason="accuracy is what counts")
    assert acceptance.judge(repository, 1, criteria, cache=tmp_path).accepted


def test_no_outcome_is_worked_out_where_none_is_wanted() -> None:
    version = published(MemoryStore(), check=False)
    assert version.outcome is None
    with pytest.raises(NotFound):
        Repository(MemoryStore(), "tiny").version(1)
