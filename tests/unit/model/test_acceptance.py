"""Gates: who may go live is measured on the same held-out rows, with care, and told in words."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from support.stores import MemoryStore

import tandem
from tandem import sandbox
from tandem.errors import NotFound, PackageError, SandboxError, SettingError
from tandem.model import acceptance, metrics, writing
from tandem.model import judge as judge_parent
from tandem.model import package as packages
from tandem.model.acceptance import (
    Verdict,
    judge,
    newest_accepted,
    overrule,
    standing_verdict,
    verdict,
)
from tandem.model.examination import examine
from tandem.model.judge_job import Check
from tandem.model.package import Package
from tandem.model.repository import Repository
from tandem.model.rules import AcceptanceRule, Criteria

ROWS = np.arange(400, dtype=np.float64).reshape(200, 2)
TRUTH = np.array([0, 1] * 100)


def said() -> Any:
    """An estimator that reads its answer out of the first column."""
    from sklearn.linear_model import LogisticRegression

    estimator = LogisticRegression().fit([[0.0, 0.0], [1.0, 0.0]], [0, 1])
    estimator.coef_ = np.array([[50.0, 0.0]])
    estimator.intercept_ = np.array([-25.0])
    return estimator


def rows_of(right: float, count: int = 200) -> tuple[Any, Any]:
    """Rows whose first column is the truth in the share `right`, and its opposite in the rest."""
    truth = np.array([0, 1] * (count // 2))
    shown = truth.copy()
    wrong = round(count * (1 - right))
    shown[:wrong] = 1 - shown[:wrong]
    return np.column_stack([shown, np.arange(count)]).astype(float), truth


class Ward:
    """A repository with versions of a known accuracy, all on one truth."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = MemoryStore()
        self.repository = Repository(self.store, "tiny")

    def publish(self, right: float, **details: Any) -> int:
        """The next version, right on that share of its held-out rows."""
        rows, truth = rows_of(right)
        details = {"held_out": (rows, truth), "sample": rows, "onnx": False} | details
        number = len(self.store.objects)
        made = writing.write(self.folder / f"p{number}", said(), name="tiny", **details)
        return self.repository.publish(made)[0].number

    def judge(self, number: int, *, again: bool = False, **details: Any) -> Verdict:
        return judge(
            self.repository,
            number,
            self.rule(**details),
            cache=self.folder / "cache",
            again=again,
        )

    def rule(self, **details: Any) -> Criteria:
        if "held_out" in details:
            details["held_out"] = str(details["held_out"])
        of_rule = {k: details.pop(k) for k in ("champion", "takes", "lock") if k in details}
        return Criteria(rule=AcceptanceRule(**{"floor": 0.9, "least_rows": 3} | details), **of_rule)


@pytest.fixture
def ward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ward:
    # In this process: what the other process is for has tests of its own.
    monkeypatch.setattr(judge_parent, "run_job", lambda job, *_, **__: examine(job))
    return Ward(tmp_path)


def check(result: Verdict, name: str) -> Check:
    return next(one for one in result.checks if one.name == name)


def test_a_good_first_version_is_accepted(ward: Ward) -> None:
    result = ward.judge(ward.publish(0.95))
    assert result.accepted, result.reason
    assert {one.name for one in result.checks} == set(acceptance.CHECKS)
    details = check(result, "good_enough").details
    assert details["value"] == pytest.approx(0.95)
    low, high = details["interval_95"]
    assert low < 0.95 < high
    assert details["rows"] == 200


def test_a_version_below_the_floor_is_refused_with_its_number(ward: Ward) -> None:
    result = ward.judge(ward.publish(0.8))
    assert not result.accepted
    assert "accuracy 0.8000 on 200 held-out rows" in result.reason
    assert "expected at least 0.9" in result.reason


def test_what_it_tells_of_itself_does_not_count_where_it_can_be_measured(ward: Ward) -> None:
    result = ward.judge(ward.publish(0.5, metrics={"accuracy": 1.0}))
    assert not result.accepted
    assert check(result, "good_enough").details["told"] == 1.0


def pair(ward: Ward, champion: float, candidate: float) -> tuple[int, int]:
    """Two versions that are asked the same rows: one reads column 0, the other column 1."""
    truth = np.array([0, 1] * 100)
    rows = np.column_stack([truth, truth]).astype(float)
    for column, right in ((0, champion), (1, candidate)):
        wrong = round(200 * (1 - right))
        rows[:wrong, column] = 1 - rows[:wrong, column]
    numbers = []
    for column in (0, 1):
        estimator = said()
        estimator.coef_ = np.array([[50.0, 0.0]]) if column == 0 else np.array([[0.0, 50.0]])
        made = writing.write(
            ward.folder / f"pair-{column}",
            estimator,
            name="tiny",
            sample=rows,
            held_out=(rows, truth),
            onnx=False,
        )
        numbers.append(ward.repository.publish(made)[0].number)
    return numbers[0], numbers[1]


def test_a_version_that_is_clearly_worse_than_the_champion_is_refused(ward: Ward) -> None:
    champion, candidate = pair(ward, 1.0, 0.92)
    result = ward.judge(candidate, champion=champion)
    assert not result.accepted
    assert f"champion v{champion} 1.0000 on the same rows: gain -0.0800" in result.reason
    assert "worse by more than the margin 0.02" in result.reason


def test_a_version_that_is_better_than_the_champion_is_accepted(ward: Ward) -> None:
    champion, candidate = pair(ward, 0.92, 1.0)
    result = ward.judge(candidate, champion=champion)
    assert result.accepted
    details = check(result, "good_enough").details
    assert details["gain"] == pytest.approx(0.08)
    assert 0 < details["gain_at_least"] < 0.08


def test_a_version_as_good_as_the_champion_is_accepted(ward: Ward) -> None:
    champion, candidate = pair(ward, 0.95, 0.95)
    assert ward.judge(candidate, champion=champion).accepted


def test_a_margin_of_nothing_wants_certainty(ward: Ward) -> None:
    champion, candidate = pair(ward, 1.0, 0.995)
    assert not ward.judge(candidate, champion=champion, margin=0.0).accepted
    assert ward.judge(candidate, champion=champion, margin=0.02, again=True).accepted


def test_a_champion_that_is_gone_does_not_hold_up(ward: Ward) -> None:
    result = ward.judge(ward.publish(0.95), champion=99)
    assert result.accepted
    assert "champion v99 is no longer there" in check(result, "good_enough").summary


def test_a_publishers_word_alone_accepts_nothing_but_a_named_person_may(ward: Ward) -> None:
    told = ward.publish(0.95, held_out=None, metrics={"accuracy": 0.97})
    result = ward.judge(told)
    assert not result.accepted
    assert "0.9700 as reported by its publisher" in result.reason
    assert "held_out=(rows, truth)" in result.reason
    overrule(ward.repository, told, by="Ann", reason="measured in the field")
    assert ward.judge(told).accepted
    assert ward.judge(told, floor=0.97).accepted, "what a person accepted stays accepted"


def write_held_out(ward: Ward, right: float, count: int = 200) -> Path:
    rows, truth = rows_of(right, count)
    path = ward.folder / f"held-out-{right}-{count}.json"
    path.write_text(json.dumps({"rows": rows.tolist(), "truth": [str(one) for one in truth]}))
    return path


def test_the_applications_own_rows_come_before_the_publishers(ward: Ward) -> None:
    number = ward.publish(1.0)
    result = ward.judge(number, held_out=write_held_out(ward, 0.72))
    assert not result.accepted
    assert "accuracy 0.7200 on 200 held-out rows of the application" in result.reason


def test_the_live_versions_rows_come_before_the_publishers(ward: Ward) -> None:
    champion = ward.publish(0.91)
    easy = ward.publish(1.0, metrics={"accuracy": 1.0})
    result = ward.judge(easy, champion=champion, floor=0.8)
    found = check(result, "good_enough")
    assert found.details["value"] == pytest.approx(0.91)
    assert f"held-out rows of the champion v{champion}" in found.summary


def test_with_neither_the_publishers_rows_count_and_the_page_says_so(ward: Ward) -> None:
    found = check(ward.judge(ward.publish(0.97)), "good_enough")
    assert "held-out rows of its publisher, as there are no others" in found.summary


def test_a_few_rows_accept_nothing_however_right_they_are(ward: Ward) -> None:
    three = rows_of(1.0, 4)
    number = ward.publish(1.0, held_out=(three[0][:3], three[1][:3]))
    result = ward.judge(number, floor=0.5, least_rows=30)
    assert "3 held-out rows of its publisher" in result.reason
    assert "expected 30" in result.reason
    result = ward.judge(number, floor=0.5, least_rows=3)
    assert "expected at least 0.5" in result.reason, "Wilson's interval: 0.44 to 1"


def test_the_floor_holds_for_the_lower_end_of_the_interval(ward: Ward) -> None:
    number = ward.publish(0.95)
    low, high = check(ward.judge(number), "good_enough").details["interval_95"]
    assert ward.judge(number, floor=low - 0.001, again=True).accepted
    assert not ward.judge(number, floor=low + 0.001, again=True).accepted
    assert low < 0.95 < high


def test_held_out_rows_of_the_application_that_are_none_are_one_line(ward: Ward) -> None:
    path = ward.folder / "broken.json"
    path.write_text('{"rows": [[1, 2]], "truth": []}')
    with pytest.raises(SettingError, match=r"broken\.json: 1 rows with 0 answers"):
        ward.judge(ward.publish(0.95), held_out=path)
    with pytest.raises(SettingError, match="No such file"):
        ward.judge(ward.publish(0.96), held_out=ward.folder / "nowhere.json")
    path.write_text('{"rows": [[1, 2, 3]], "truth": ["0"]}')
    result = ward.judge(ward.publish(0.97), held_out=path)
    assert "cannot be measured on the held-out rows of the application" in result.reason


def test_another_rule_judges_what_was_never_live_again(ward: Ward) -> None:
    first, second = ward.publish(0.95), ward.publish(0.96)
    for number in (first, second):
        assert ward.judge(number).accepted
    stricter = ward.rule(floor=0.99, champion=first)
    version = ward.repository.version
    assert standing_verdict(ward.repository, version(second), stricter) is None
    assert standing_verdict(ward.repository, version(first), stricter).accepted
    assert not ward.judge(second, floor=0.99, champion=first).accepted
    assert ward.judge(second, champion=first, margin=1.0).accepted, "a mended gate heals it"


def test_the_recorded_answers_may_differ_by_what_the_application_allows(ward: Ward) -> None:
    def lie(made: Package) -> None:
        path = made.folder / "golden.json"
        told = json.loads(path.read_bytes())
        for answer, prediction in zip(told["answers"], told["predictions"], strict=True):
            best = answer.index(max(answer))
            for values, first in ((answer, best), (prediction["probabilities"], 0)):
                values[first] -= 0.05
                values[1 - first] += 0.05
        told["tolerance"] = 0.001
        path.write_text(json.dumps(told))

    number = forged(ward, lie)
    assert "more than 0.001" in ward.judge(number).reason
    assert "more than 0.0001" in ward.judge(number, tolerance=0.0001, again=True).reason


@pytest.mark.parametrize(
    ("metric", "floor", "accepted"),
    [
        ("balanced_accuracy", 0.9, True),
        ("f1_macro", 0.9, True),
        ("log_loss", 5.0, True),
        ("log_loss", 0.01, False),
    ],
)
def test_other_metrics_have_their_own_direction(
    ward: Ward, metric: str, floor: float, accepted: bool
) -> None:
    assert ward.judge(ward.publish(0.95), metric=metric, floor=floor).accepted is accepted


@pytest.mark.parametrize(
    ("metric", "floor", "accepted"),
    [("r2", 0.9, True), ("mae", 1.0, True), ("rmse", 1.0, True), ("mae", 1e-9, False)],
)
def test_a_regression_is_judged_by_its_errors(
    ward: Ward, metric: str, floor: float, accepted: bool
) -> None:
    from sklearn.linear_model import LinearRegression

    truth = ROWS[:, 0] * 2 + np.sin(ROWS[:, 1])
    made = writing.write(
        ward.folder / "regression",
        LinearRegression().fit(ROWS, truth),
        name="tiny",
        sample=ROWS,
        held_out=(ROWS, truth),
    )
    number = ward.repository.publish(made)[0].number
    assert ward.judge(number, metric=metric, floor=floor).accepted is accepted


def test_a_metric_of_another_task_is_refused(ward: Ward) -> None:
    result = ward.judge(ward.publish(0.95), metric="r2")
    assert "r2 does not measure a classification" in result.reason
    with pytest.raises(PackageError, match="expected one of"):
        ward.judge(ward.publish(0.96), metric="glamour")


def test_accuracy_is_what_scikit_learn_says_it_is() -> None:
    from sklearn import metrics as scikit

    generator = np.random.default_rng(3)
    truth = generator.integers(0, 3, 90)
    chances = generator.dirichlet(np.ones(3), 90)
    answers = chances.argmax(axis=1)
    told = (truth, answers, chances[np.arange(90), truth])
    for name, theirs in (
        ("accuracy", scikit.accuracy_score(truth, answers)),
        ("balanced_accuracy", scikit.balanced_accuracy_score(truth, answers)),
        ("f1_macro", scikit.f1_score(truth, answers, average="macro")),
        ("log_loss", scikit.log_loss(truth, chances)),
    ):
        assert metrics.metric_of(told, name, None) == pytest.approx(theirs), name
    values, guesses = generator.normal(size=90), generator.normal(size=90)
    for name, theirs in (
        ("mae", scikit.mean_absolute_error(values, guesses)),
        ("rmse", scikit.root_mean_squared_error(values, guesses)),
        ("r2", scikit.r2_score(values, guesses)),
    ):
        assert metrics.metric_of((values, guesses), name, None) == pytest.approx(theirs), name


# --- verdicts


def test_a_verdict_is_given_once_and_read_back(ward: Ward) -> None:
    number = ward.publish(0.95)
    assert verdict(ward.repository, number) is None
    first = ward.judge(number)
    before = ward.store.objects.copy()
    assert ward.judge(number) == first == verdict(ward.repository, number)
    assert ward.store.objects == before
    assert not ward.judge(number, floor=0.99).accepted, "by another rule it is judged again"


def test_a_version_that_is_not_there_is_not_judged(ward: Ward) -> None:
    with pytest.raises(NotFound):
        ward.judge(7)


def test_the_newest_accepted_version_is_found_with_what_was_passed_over(ward: Ward) -> None:
    for right in (0.95, 0.96, 0.5):
        number = ward.publish(right)
        if right != 0.96:
            ward.judge(number)
    version, passed_over = newest_accepted(ward.repository, ward.rule())
    assert version is not None
    assert version.number == 1
    assert [number for number, _ in passed_over] == [3, 2]
    assert "0.5000" in passed_over[0][1]
    assert passed_over[1][1] == "not judged yet"
    version, passed_over = newest_accepted(ward.repository, ward.rule(), ward.judge)
    assert version is not None
    assert (version.number, [number for number, _ in passed_over]) == (2, [3])


def test_a_person_overrules_with_a_name_and_a_reason_that_stay(ward: Ward) -> None:
    number = ward.publish(0.5)
    ward.judge(number)
    overrule(ward.repository, number, by="Ann", reason="the old one is worse at night")
    stored = verdict(ward.repository, number)
    assert stored is not None
    assert stored.accepted
    assert stored.reason == "accepted by Ann: the old one is worse at night"
    assert not check(stored, "good_enough").passed
    version, _ = newest_accepted(ward.repository, ward.rule())
    assert version is not None
    assert version.number == number


def test_overruling_takes_a_name_a_reason_and_a_refusal(ward: Ward) -> None:
    number = ward.publish(0.95)
    with pytest.raises(NotFound):
        overrule(ward.repository, number + 1, by="Ann", reason="why not")
    ward.judge(number)
    with pytest.raises(PackageError, match="accepted already"):
        overrule(ward.repository, number, by="Ann", reason="why not")
    with pytest.raises(PackageError, match="a name and a reason"):
        overrule(ward.repository, number, by=" ", reason="x")


def test_a_person_may_accept_what_nobody_has_judged_yet(ward: Ward) -> None:
    number = ward.publish(0.95, held_out=None)
    said = overrule(ward.repository, number, by="Ann", reason="measured in the field")
    assert not said.accepted
    assert said.reason == "accepted by Ann if it is safe: measured in the field"
    with pytest.raises(PackageError, match="accepted by Ann"):
        overrule(ward.repository, number, by="Bob", reason="me too")
    version = ward.repository.version(number)
    assert standing_verdict(ward.repository, version, ward.rule()) is None
    result = ward.judge(number)
    assert result.accepted
    assert result.overruled_by == "Ann"


def test_a_word_given_before_judging_makes_nothing_unsafe_acceptable(ward: Ward) -> None:
    number = forged(ward, lambda made: (made.folder / "model.skops").write_bytes(b"PK"))
    overrule(ward.repository, number, by="Ann", reason="trust me")
    assert not ward.judge(number).accepted


# --- packages that do not load, or lie


def forged(ward: Ward, change: Any) -> int:
    """A version whose files were changed before it was published, with a manifest that fits."""
    rows, truth = rows_of(0.95)
    made = writing.write(
        ward.folder / "forged", said(), name="tiny", sample=rows, held_out=(rows, truth)
    )
    change(made)
    path = made.folder / "manifest.json"
    told = json.loads(path.read_bytes())
    for file in told["files"]:
        data = (made.folder / file["path"]).read_bytes()
        file.update(sha256=hashlib.sha256(data).hexdigest(), size=len(data))
    path.write_text(json.dumps(told))
    return ward.repository.publish(packages.read(made.folder))[0].number


def onnx(made: Package, build: Any) -> None:
    from onnx import TensorProto, helper

    nodes, initializers = build(helper, TensorProto)
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, [None, 2])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, None)],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    (made.folder / "model.onnx").write_bytes(model.SerializeToString())


def nan(helper: Any, kinds: Any) -> Any:
    return [
        helper.make_node("Sub", ["rows", "rows"], ["zero"]),
        helper.make_node("Div", ["zero", "zero"], ["probabilities"]),
    ], []


def opposite(helper: Any, kinds: Any) -> Any:
    return [
        helper.make_node("Softmax", ["rows"], ["probabilities"]),
    ], []


def three(helper: Any, kinds: Any) -> Any:
    return [helper.make_node("Concat", ["rows", "rows"], ["probabilities"], axis=1)], []


def endless(helper: Any, kinds: Any) -> Any:
    size = helper.make_tensor("size", kinds.INT64, [2], [10**6, 10**7])
    return [
        helper.make_node("ConstantOfShape", ["size"], ["much"]),
        helper.make_node("ReduceSum", ["much"], ["sum"], keepdims=0),
        helper.make_node("Add", ["rows", "sum"], ["probabilities"]),
    ], [size]


def forever(helper: Any, kinds: Any) -> Any:
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["on"]),
            helper.make_node("Tanh", ["sum_in"], ["sum_out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("number", kinds.INT64, []),
            helper.make_tensor_value_info("go", kinds.BOOL, []),
            helper.make_tensor_value_info("sum_in", kinds.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("on", kinds.BOOL, []),
            helper.make_tensor_value_info("sum_out", kinds.FLOAT, None),
        ],
    )
    yes = helper.make_tensor("yes", kinds.BOOL, [], [True])
    loop = helper.make_node("Loop", ["", "yes", "rows"], ["probabilities"], body=body)
    return [loop], [yes]


@pytest.mark.parametrize(
    ("build", "words"), [(nan, "NaN"), (three, "4] for 2 labels")], ids=["nan", "labels"]
)
def test_a_graph_that_answers_nonsense_is_refused(ward: Ward, build: Any, words: str) -> None:
    result = ward.judge(forged(ward, lambda made: onnx(made, build)))
    assert not result.accepted
    assert words in check(result, "loads_safely").summary


def test_a_graph_that_answers_other_than_the_estimator_is_refused(ward: Ward) -> None:
    result = ward.judge(forged(ward, lambda made: onnx(made, opposite)))
    assert check(result, "loads_safely").passed
    assert not check(result, "answers_match").passed
    assert "differ" in check(result, "answers_match").summary
    with pytest.raises(PackageError, match="answers_match cannot be overruled"):
        overrule(ward.repository, result.version, by="Ann", reason="I trust it")


def test_an_estimator_of_another_scikit_learn_is_refused_with_both_versions(ward: Ward) -> None:
    number = ward.publish(0.95)
    result = ward.judge(number, lock={"scikit-learn": "0.24.2", "skops": "0.1"})
    assert not result.accepted
    assert "0.24.2" in result.reason
    with pytest.raises(PackageError, match="cannot be overruled"):
        overrule(ward.repository, number, by="Ann", reason="we know it")


# --- the other process


def test_judging_in_another_process_gives_the_same_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ward = Ward(tmp_path)
    number = ward.publish(0.95)
    alone = ward.judge(number)
    monkeypatch.setattr(judge_parent, "run_job", lambda job, *_, **__: examine(job))
    assert alone.accepted, alone.reason
    assert ward.judge(number, again=True).checks == alone.checks


def test_a_judge_that_was_started_ahead_gives_the_same_verdict_and_is_used_once(
    tmp_path: Path,
) -> None:
    ward = Ward(tmp_path)
    number = ward.publish(0.95)
    alone = ward.judge(number)
    judge_parent.start_ahead(tmp_path / "cache")
    judge_parent.start_ahead(tmp_path / "cache")
    assert ward.judge(number, again=True).checks == alone.checks
    assert ward.judge(number, again=True).checks == alone.checks
    judge_parent.start_ahead(tmp_path / "cache")
    judge_parent.end_ahead()
    assert not judge_parent._ahead


def test_a_package_that_needs_all_the_memory_is_refused(tmp_path: Path) -> None:
    ward = Ward(tmp_path)
    result = ward.judge(forged(ward, lambda made: onnx(made, endless)))
    assert not result.accepted
    assert not check(result, "loads_safely").passed


def instead(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> list[Any]:
    """Another program in place of the judge, in the same sandbox; the list is how it ended."""
    ended: list[Any] = []
    program = folder / "instead"
    program.write_text(f"#!/bin/sh\n{script}\n")
    real = sandbox.run

    def run(argv: Any, **given: Any) -> Any:
        given["readable"] = [*given["readable"], program]
        ended.append(real(["/bin/sh", str(program)], **given))
        return ended[-1]

    monkeypatch.setattr(sandbox, "run", run)
    return ended


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo ready; kill -SEGV $$", "signal 11"),
        ("echo ready; kill -XCPU $$", "s of computing"),
        ("echo ready; exec sleep 60", "took longer"),
        ("echo ready; echo nonsense", "ended without a verdict"),
        ("echo ready; echo 'who knows' >&2; exit 3", "exit 3): who knows"),
    ],
    ids=["crash", "computing", "time", "nonsense", "exit"],
)
def test_a_package_that_ends_or_keeps_its_process_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, words: str
) -> None:
    instead(monkeypatch, tmp_path, script)
    monkeypatch.setattr(judge_parent, "WAIT", 0.02)
    ward = Ward(tmp_path)
    result = ward.judge(ward.publish(0.95))
    assert not result.accepted
    assert words in result.reason


@pytest.mark.parametrize(
    "script",
    ["exit 1", "echo ready; kill -KILL $$", "echo ready; kill -TERM $$", "echo ready; exit 75"],
    ids=["not started", "killed", "ended", "disk full"],
)
def test_a_fault_of_the_machine_is_no_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    ward = Ward(tmp_path)
    number = ward.publish(0.95)
    with monkeypatch.context() as patched:
        instead(patched, tmp_path, script)
        with pytest.raises(SandboxError, match=f"v{number} could not be judged"):
            ward.judge(number)
    assert verdict(ward.repository, number) is None
    assert ward.judge(number).accepted, "it is tried again"


def test_the_judge_finds_no_credential_and_nothing_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_STORAGE_KEY", "secret-of-the-account")
    ours = tmp_path / "store.json"
    ours.write_text("{}")
    state = Path(tandem.__file__).parents[1] / "pyproject.toml"
    look = f"echo ready; (env; cat /proc/*/environ; ls -d {ours} {state}) >&2; exit 3"
    ended = instead(monkeypatch, tmp_path, look)
    ward = Ward(tmp_path)
    assert "exit 3" in ward.judge(ward.publish(0.95)).reason
    said = ended[0].stderr.decode()
    assert "PYTHONPATH" in said
    assert "secret-of-the-account" not in said
    for hidden in (ours, state):
        assert f"'{hidden}': No such file" in said


def test_a_graph_without_end_is_refused_when_its_budget_is_used_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judge_parent, "SECONDS", 2.0)
    ward = Ward(tmp_path)
    result = ward.judge(forged(ward, lambda made: onnx(made, forever)))
    assert not result.accepted
    assert "of computing" in result.reason


# --- what is measured besides


def test_what_it_does_on_its_held_out_rows_is_kept_with_the_verdict(ward: Ward) -> None:
    champion, candidate = pair(ward, 0.92, 0.95)
    ward.judge(candidate, champion=champion)
    stored = verdict(ward.repository, candidate)
    assert stored is not None
    measured = stored.measured
    assert measured is not None
    assert measured.rows == 200
    assert measured.labels == ["0", "1"]
    # Of the first ten rows, one each of both labels in turn, all are answered wrong.
    assert measured.confusion == [[95, 5], [5, 95]]
    assert measured.metrics["accuracy"] == pytest.approx(0.95)
    assert measured.champion["accuracy"] == pytest.approx(0.92)
    assert [(one.rows, one.right) for one in measured.calibration] == [(200, 0.95)]
    assert measured.speed is not None
    assert measured.speed.onnx is None
    assert measured.speed.sklearn


def test_the_speed_of_both_forms_is_measured_without_held_out_rows(ward: Ward) -> None:
    number = ward.publish(0.95, held_out=None, onnx=True, metrics={"accuracy": 0.97})
    measured = ward.judge(number).measured
    assert measured is not None
    assert measured.speed is not None
    assert measured.speed.onnx
    assert measured.speed.sklearn
    assert not measured.confusion


def test_without_held_out_rows_it_is_measured_on_the_champions(ward: Ward) -> None:
    champion = ward.publish(0.92)
    candidate = ward.publish(0.95, held_out=None, metrics={"accuracy": 0.97})
    result = ward.judge(candidate, champion=champion)
    assert result.measured is not None
    assert result.measured.rows == 200
    assert result.measured.confusion
    assert result.measured.metrics["accuracy"] != 0.97
    assert result.measured.champion["accuracy"] == pytest.approx(0.92)


def test_a_package_that_does_not_load_has_nothing_measured(ward: Ward) -> None:
    assert ward.judge(forged(ward, lambda made: onnx(made, nan))).measured is None


def test_rows_of_a_label_that_the_model_does_not_know_are_counted() -> None:
    manifest = msgspec.convert(
        {
            "name": "tiny",
            "created": "",
            "task": "classification",
            "layout": "matrix",
            "features": [],
            "labels": ["b", "a"],
            "runtime": "onnx",
            "runtime_reason": "",
            "files": [],
        },
        packages.Manifest,
    )
    held_out = packages.HeldOut(rows=[[0.0]] * 3, truth=["a", "b", "c"])
    answers = np.array([[0.2, 0.8], [0.9, 0.1], [0.6, 0.4]])
    measured = metrics.evaluate(manifest, held_out, answers)
    assert measured.labels == ["b", "a", "c"]
    assert measured.confusion == [[1, 0, 0], [0, 1, 0], [1, 0, 0]]
    assert measured.is_whole()
    assert not msgspec.structs.replace(measured, labels=["b"]).is_whole()
