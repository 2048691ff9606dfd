"""The records of images and releases, in a real store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tandem.errors import NotFound, StorageError
from tandem.release.records import (
    AppRef,
    ImageRecord,
    Ledger,
    ModelRef,
    Proof,
    ReleaseRecord,
    changes,
)
from tandem.storage import Store, open_store
from tandem.util.clock import now


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(open_store(f"file:{tmp_path}/store"), "shop")


def image(ledger: Ledger, commit: str, version: int, *, good: bool = True) -> ImageRecord:
    summary = "answered" if good else "did not start"
    return ledger.images.append(
        lambda number: ImageRecord(
            number=number,
            digest=f"sha256:{commit}{version}",
            reference="",
            app=AppRef("shop", commit, f"tree of {commit}", "a subject"),
            model=ModelRef("shop", version, f"model {version}", {"accuracy": 0.9 + version / 100}),
            tests="3 tests passed",
            good=good,
            proofs=[Proof("starts_and_answers", good, summary)],
            created=now(),
        )
    )


def release(ledger: Ledger, of: ImageRecord) -> ReleaseRecord:
    last = ledger.releases.latest()
    return ledger.releases.append(
        lambda number: ReleaseRecord(
            number=number,
            time=now(),
            trigger="test",
            app=of.app,
            model=of.model,
            image=of.digest,
            image_number=of.number,
            reference="",
            tests=of.tests,
            proofs=of.proofs,
            target="process:1",
            url="",
            changed=changes(last, of.app, of.model),
        )
    )


def test_records_are_numbered_from_one_and_read_newest_first(ledger: Ledger) -> None:
    assert ledger.releases.latest() is None
    one = release(ledger, image(ledger, "a", 1))
    two = release(ledger, image(ledger, "b", 1))
    assert (one.number, two.number) == (1, 2)
    assert list(ledger.releases.newest_first()) == [two, one]
    assert ledger.releases.read(1) == one
    with pytest.raises(NotFound):
        ledger.releases.read(3)


def test_an_image_that_did_not_pass_is_passed_over_with_the_reason(ledger: Ledger) -> None:
    good = image(ledger, "a", 1)
    bad = image(ledger, "b", 1, good=False)
    found, passed_over = ledger.newest_good_image()
    assert found == good
    assert [(p.what, p.which, p.reason) for p in passed_over] == [
        ("image", bad.digest, "did not start")
    ]


def test_no_image_passed_is_no_image(ledger: Ledger) -> None:
    assert ledger.newest_good_image() == (None, [])
    image(ledger, "a", 1, good=False)
    assert ledger.newest_good_image()[0] is None


def test_a_release_says_what_it_changed(ledger: Ledger) -> None:
    first = release(ledger, image(ledger, "a", 1))
    assert first.changed == ["first release: commit a with model shop v1"]
    model = release(ledger, image(ledger, "a", 2))
    assert model.changed == ["model v1 → v2 (accuracy 0.9100 → 0.9200)"]
    both = release(ledger, image(ledger, "b", 3))
    assert len(both.changed) == 2
    assert both.changed[0] == "commit a → b (a subject)"
    again = release(ledger, image(ledger, "b", 3))
    assert again.changed == ["the same pair, put live again"]


def test_two_apps_in_one_store_do_not_meet(ledger: Ledger, tmp_path: Path) -> None:
    image(ledger, "a", 1)
    other = Ledger(open_store(f"file:{tmp_path}/store"), "other")
    assert other.images.latest() is None


def test_a_later_bad_verdict_on_the_same_image_counts(ledger: Ledger) -> None:
    first = image(ledger, "a", 1)
    image(ledger, "b", 1)
    bad = image(ledger, "b", 1, good=False)
    found, passed_over = ledger.newest_good_image()
    assert found == first
    assert [p.which for p in passed_over] == [bad.digest]
    again = image(ledger, "b", 1)
    assert ledger.newest_good_image()[0] == again


class LosesAnswers:
    """A store whose create-only writes are done, answered by nobody, and tried again."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def put(self, key: str, data: bytes, *, if_absent: bool = False, **options: Any) -> Any:
        if if_absent:
            self._store.put(key, data, if_absent=True)
        return self._store.put(key, data, if_absent=if_absent, **options)


def test_a_write_whose_answer_was_lost_is_one_record(tmp_path: Path) -> None:
    ledger = Ledger(LosesAnswers(open_store(f"file:{tmp_path}/store")), "shop")
    made = release(ledger, image(ledger, "a", 1))
    assert [record.number for record in ledger.releases.newest_first()] == [made.number] == [1]
    assert [record.number for record in ledger.images.newest_first()] == [1]


def test_equal_records_of_two_writers_are_two(ledger: Ledger) -> None:
    one, two = image(ledger, "a", 1), image(ledger, "a", 1)
    assert (one.number, two.number) == (1, 2)
    assert one.mark != two.mark


def test_a_record_that_was_cut_is_one_line(tmp_path: Path) -> None:
    store = open_store(f"file:{tmp_path}/store")
    ledger = Ledger(store, "shop")
    image(ledger, "a", 1)
    store.put("apps/shop/images/000002.json", b'{"number": 2, "dig')
    with pytest.raises(StorageError, match=r"000002\.json: the record is cut") as caught:
        ledger.images.latest()
    assert "\n" not in str(caught.value)


def test_newest_is_by_commit_then_model_and_not_by_which_proof_came_last(ledger: Ledger) -> None:
    newer_model = image(ledger, "b", 10)
    newer_commit = image(ledger, "c", 9)
    image(ledger, "b", 9)
    last = image(ledger, "rewound", 11)
    assert ledger.newest_good_image(["c", "b", "a"])[0] == newer_commit
    assert ledger.newest_good_image(["b", "a"])[0] == newer_model, "a rewound branch"
    assert ledger.newest_good_image(["other"])[0] == last, "no commit is known: the newest model"
    assert ledger.newest_good_image()[0] == last


def test_the_branch_is_asked_for_anew_only_where_a_commit_is_not_known(ledger: Ledger) -> None:
    asked: list[str] = []

    def ask() -> list[str]:
        asked.append("the remote")
        return ["b", "a"]

    assert ledger.newest_good_image(["a"], 1, ask=ask) == (None, [])
    old = image(ledger, "a", 1)
    assert ledger.newest_good_image(["a"], 1, ask=ask)[0] == old
    assert asked == []
    new = image(ledger, "b", 1)
    image(ledger, "a", 1)
    assert ledger.newest_good_image(["a"], 2, ask=ask)[0] == new
    assert asked == ["the remote"]


def test_in_order_of_commits_the_newest_verdict_on_an_image_counts(ledger: Ledger) -> None:
    old = image(ledger, "a", 1)
    image(ledger, "b", 2)
    bad = image(ledger, "b", 2, good=False)
    image(ledger, "a", 1)
    found, passed_over = ledger.newest_good_image(["b", "a"])
    assert found is not None
    assert found.digest == old.digest
    assert [p.which for p in passed_over] == [bad.digest]


def test_all_records_are_the_same_as_one_by_one(ledger: Ledger) -> None:
    assert ledger.images.all() == []
    for version in range(1, 21):
        image(ledger, "a", version)
    assert ledger.images.all() == list(ledger.images.newest_first())
