"""Apps as people write them (tests/apps), each released by the lines of docs/tutorial.md."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.app_repositories import AppRepository

from tandem.service import http

pytestmark = [pytest.mark.xdist_group("apps"), pytest.mark.timeout(900)]

CODE_ALONE = "[tool.tandem.app]\nmodel = false\n"
LINES = {
    "iris": CODE_ALONE + "tests = false\n",
    "digits": CODE_ALONE,
    "library": CODE_ALONE,
    "versioned": CODE_ALONE,
    "plain": CODE_ALONE,
}
"""What has to be said of an app; those that are not here are released without a line changed."""

FORM = {"Content-Type": "application/x-www-form-urlencoded"}
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def released(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of the app of that name, live on this machine."""
    app = AppRepository(request.param, tmp_path)
    if lines := LINES.get(request.param):
        app.say(lines)
    try:
        deployed, record = app.release()
        assert record.number == 1
        yield deployed.live.url
    finally:
        app.stop()


def on_process(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("released", [name], indirect=True)


@on_process("iris")
def test_a_form_that_is_answered_in_html_by_a_model_made_at_import(released: str) -> None:
    form = b"sepal_length=5.1&sepal_width=3.5&petal_length=1.4&petal_width=0.2"
    page = http.ask("POST", released, "/predict", body=form, headers=FORM)
    assert page.status == 200
    assert b"Species: setosa" in page.body


@on_process("digits")
def test_an_upload_to_a_script_beside_its_modules(released: str) -> None:
    picture = (Path(__file__).parents[1] / "apps/digits/tests/seven.png").read_bytes()
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="seven.png"\r\n\r\n'
    page = http.ask(
        "POST",
        released,
        "/",
        body=head + picture + b"\r\n--b--\r\n",
        headers={"Content-Type": "multipart/form-data; boundary=b"},
    )
    assert page.status == 200
    assert b"It is a 7" in page.body


@on_process("library")
def test_a_factory_with_blueprints_whose_root_redirects(released: str) -> None:
    assert http.ask("GET", released, "/").status == 302
    answer = http.ask("POST", released, "/recommend/", body=b'{"book": "dune"}', headers=JSON)
    assert b"Emma" in answer.body


@on_process("versioned")
def test_a_version_and_a_score_of_its_own_and_a_root_that_is_not_found(released: str) -> None:
    assert http.ask("GET", released, "/").status == 404
    assert http.ask("GET", released, "/version").body == b"7.2.0"
    answer = http.ask("PUT", released, "/score", body=b'{"income": 50000}', headers=JSON)
    assert b"550" in answer.body


@on_process("plain")
def test_an_app_that_is_no_flask_app(released: str) -> None:
    answer = http.ask("POST", released, "/", body=b"an awful day")
    assert answer.body == b'{"sentiment": "negative"}'
