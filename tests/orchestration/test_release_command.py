"""`make release`: the jobs that are needed, and no other."""

from __future__ import annotations

import pytest

from tandem.dagster.release_command import Outcome, release_needed


def release(way) -> Outcome:
    return release_needed(way.defs, way.tiny.app, way.tiny.project, way.instance)


def jobs(outcome: Outcome) -> list[str]:
    return [one.job for one in outcome.jobs]


def test_the_first_release_builds_and_releases(way) -> None:
    way.tiny.commit("one")
    way.tiny.publish()
    outcome = release(way)
    assert outcome.good
    assert outcome.changed
    assert jobs(outcome) == ["tiny_build", "tiny_release"]
    assert outcome.jobs[0].steps["app_build"] > 0


def test_the_second_says_that_nothing_changed(way) -> None:
    way.tiny.commit("one")
    way.tiny.publish()
    release(way)
    outcome = release(way)
    assert (outcome.good, outcome.changed, outcome.jobs) == (True, False, [])
    assert outcome.reason.startswith("nothing changed since release 1: commit ")


def test_a_new_model_needs_no_build(way) -> None:
    way.tiny.commit("one")
    way.tiny.publish(0.98)
    release(way)
    way.tiny.publish(0.99)
    outcome = release(way)
    assert outcome.good
    assert jobs(outcome) == ["tiny_image", "tiny_release"]


def test_what_died_is_put_live_again(way) -> None:
    way.tiny.commit("one")
    way.tiny.publish()
    release(way)
    way.tiny.project.target.stop(progress=lambda _: None)
    outcome = release(way)
    assert jobs(outcome) == ["tiny_release"]
    assert way.tiny.project.target.current() is not None
    assert way.tiny.project.ledger.releases.latest().number == 1, "the same release, again"


def test_a_red_commit_is_told_and_what_was_good_stays(way) -> None:
    way.tiny.commit("one")
    way.tiny.publish()
    release(way)
    way.tiny.commit("bad", verdict="red")
    outcome = release(way)
    assert not outcome.good
    assert jobs(outcome) == ["tiny_build"]
    assert "tests::test_verdict" in outcome.jobs[0].error
    assert way.tiny.project.target.current() is not None
    again = release(way)
    assert (again.good, again.jobs) == (True, [])
    assert "is held back: 1 of 2 tests failed: tests::test_verdict" in again.reason


@pytest.mark.parametrize("what", ["commit", "model"])
def test_what_is_missing_is_said_in_one_line(way, what: str) -> None:
    if what == "commit":
        way.tiny.publish()
        way.tiny.commit("bad", verdict="red")
    else:
        way.tiny.commit("one")
        way.tiny.publish(0.1)
    outcome = release(way)
    assert not outcome.good
    assert "\n" not in outcome.reason
    wanted = {"commit": "tests::test_verdict", "model": "floor 0.9"}[what]
    assert wanted in " ".join(one.error for one in outcome.jobs)
