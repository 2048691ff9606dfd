"""Asking an instance all that its recipe says: by the contract, or by health and questions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from support.answering import Answering, answering

from tandem.errors import ImageFault, TargetError
from tandem.model.package import Golden, Prediction
from tandem.service.probe import Asked, ask_instance, ask_private_instance
from tandem.service.questions import Expected, Question

GOLDEN = Golden([[1.0]], [], [Prediction(value=3.0)], 1e-5)
QUESTION = Question(path="/", expected=Expected(text=("hello",)))
OWN = Asked(questions=(QUESTION,))
PLAIN = Asked(contract=False, health="/health")
PLAIN_OWN = Asked(contract=False, health="/health", questions=(QUESTION,))
ALIVE = Asked(contract=False, health="")


@pytest.fixture
def service() -> Iterator[Answering]:
    with answering() as running:
        yield running


def version(digest: str) -> tuple[int, bytes]:
    body: Any = {
        "app": {"name": "wine", "commit": None},
        "model": {"name": "wine", "version": 1, "digest": "sha256:m"},
        "image": {"digest": digest},
    }
    return 200, json.dumps(body).encode()


def score(value: float) -> tuple[int, bytes]:
    return 200, json.dumps({"predictions": [{"value": value}]}).encode()


def test_an_app_with_the_extension_is_asked_by_the_contract(service: Answering) -> None:
    service.answers |= {"/version": version("sha256:i"), "/score": score(3.0)}
    answers = ask_instance(service.url, digest="sha256:i", golden=GOLDEN)
    assert answers.version and answers.version.model.version == 1
    assert str(answers).startswith("gave 1 of 1 golden predictions in ")


def test_routes_of_the_app_s_own_are_not_in_the_way_of_the_contract(service: Answering) -> None:
    service.answers |= {
        "/version": (200, b'{"version": "1.2.3"}'), "/score": (200, b"42 : 17"),
        "/_tandem/version": version("sha256:i"), "/_tandem/score": score(3.0),
    }  # fmt: skip
    assert ask_instance(service.url, digest="sha256:i", golden=GOLDEN).golden == 1


def test_an_app_with_the_extension_is_asked_its_own_questions_too(service: Answering) -> None:
    service.answers |= {
        "/version": version("sha256:i"), "/score": score(3.0), "/": (200, b"hello"),
    }  # fmt: skip
    answers = ask_instance(service.url, digest="sha256:i", golden=GOLDEN, asked=OWN)
    assert "1 of 1 golden predictions and answered 1 of 1 questions" in str(answers)
    service.answers["/"] = (200, b"goodbye")
    with pytest.raises(ImageFault, match="expected 'hello' in the answer"):
        ask_instance(service.url, digest="sha256:i", golden=GOLDEN, asked=OWN)


def test_another_image_at_the_url_is_no_verdict(service: Answering) -> None:
    service.answers |= {"/version": version("sha256:other"), "/score": score(3.0)}
    with pytest.raises(TargetError, match="says image sha256:other") as caught:
        ask_instance(service.url, digest="sha256:i", golden=GOLDEN)
    assert not isinstance(caught.value, ImageFault)


def test_an_app_without_the_extension_is_never_asked_who_it_is(service: Answering) -> None:
    service.answers |= {
        "/health": (204, b""), "/version": (200, b"<h1>1.2.3</h1>"), "/score": (500, b""),
        "/": (200, b"hello"),
    }  # fmt: skip
    answers = ask_instance(
        service.url,
        digest="sha256:i",
        golden=None,
        asked=PLAIN_OWN,
    )
    assert answers.version is None
    assert str(answers).startswith("answered 1 of 1 questions in ")
    assert [asked.path for asked in service.asked] == ["/health", "/"]


def test_an_app_without_questions_is_only_asked_whether_it_is_alive(service: Answering) -> None:
    # The root answers 404: with no health path any answer shows that it is alive.
    answers = ask_instance(service.url, digest="sha256:i", golden=None, asked=ALIVE)
    assert str(answers) == "is alive (/); it has no questions to be asked"


def test_a_health_path_that_answers_an_error_is_a_verdict_and_a_busy_one_is_none(
    service: Answering,
) -> None:
    service.answers["/health"] = (500, b"no model")
    with pytest.raises(ImageFault, match="/health answered 500: no model"):
        ask_instance(
            service.url,
            digest="sha256:i",
            golden=None,
            asked=PLAIN,
        )
    service.answers["/health"] = (503, b"")
    with pytest.raises(TargetError, match="/health answered 503") as caught:
        ask_instance(
            service.url,
            digest="sha256:i",
            golden=None,
            asked=PLAIN,
        )
    assert not isinstance(caught.value, ImageFault)


def test_a_private_instance_that_ended_over_its_questions_is_at_fault() -> None:
    with pytest.raises(ImageFault, match="stopped while it was asked"):
        ask_private_instance(
            "http://127.0.0.1:1",
            digest="sha256:i",
            golden=None,
            asked=PLAIN,
        )
