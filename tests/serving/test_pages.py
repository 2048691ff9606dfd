"""What is sent to browsers: pages without foreign resources, and headers that forbid them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import serving
import tandem.serving

FILES = sorted(
    file
    for package in (serving, tandem.serving)
    for file in (Path(package.__file__).parent / "page").iterdir()
)
PARTS = ["", "docs", "page.css", "form.js", "answer.js", "docs.js", "icon.svg"]
PAGES = ["/", "/draw.js", "/draw.css", *(f"/_tandem/{part}" for part in PARTS)]


@pytest.mark.parametrize("path", PAGES)
def test_pages_forbid_what_is_not_theirs(example, path):
    answer = example().get(path)
    assert answer.status == 200
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_pages_name_no_foreign_resource(file):
    text = file.read_text()
    loaded = re.findall(r"""(?:src|href|url|import|fetch)\s*[=(]\s*["']?([^"')\s>]+)""", text)
    foreign = [name for name in loaded if "//" in name and "www.rfc-editor.org" not in name]
    assert not foreign
    # What a strict policy would block anyway.
    assert not re.search(r"<style|<script>|\sstyle=|\son[a-z]+=|javascript:", text)


@pytest.mark.parametrize("path", PAGES)
def test_an_unchanged_page_is_not_sent_again(example, path):
    client = example()
    tag = client.get(path).headers["etag"]
    answer = client.get(path, **{"If-None-Match": tag})
    assert (answer.status, answer.body) == (304, b"")


@pytest.mark.parametrize("path", ["/version", "/healthz", "/_tandem/nothing", "/openapi.json"])
def test_answers_for_programs_are_never_rendered_or_kept(app, path):
    headers = app().get(path).headers
    assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"


def test_unknown_addresses_and_methods_are_said(app):
    answer = app().get("/_tandem/admin")
    assert (answer.status, answer.json["title"]) == (404, "Not Found")
    answer = app().ask("PUT", "/score", b"{}")
    assert (answer.status, answer.headers["allow"]) == (405, "OPTIONS, POST")
    assert answer.json["detail"] == "PUT is not supported here; supported: OPTIONS, POST."


def test_the_usual_place_of_the_api_s_page_leads_to_it(app):
    answer = app().get("/docs")
    assert (answer.status, answer.headers["location"]) == (302, "/_tandem/docs")


def test_other_media_types_are_refused(app):
    for headers in (
        {},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
    ):
        assert app().ask("POST", "/score", b"{}", headers).status == 415
    headers = {"Content-Type": "Application/JSON; charset=utf-8"}
    assert app().ask("POST", "/score", b"{}", headers).status == 422


def test_version_tells_what_answers_and_why(app):
    told = app("iris", release=41, image_digest="sha256:abc").get("/version").json
    assert told["model"]["runtime"] == "sklearn"
    assert told["model"]["runtime_reason"] == "ONNX was not asked for"
    assert told["image"] == {"digest": "sha256:abc"}
    assert told["release"] == 41
    assert {"python", "flask", "granian", "numpy", "scikit-learn"} <= set(told["libraries"])
    assert app().get("/version").json["model"]["runtime"] == "onnx"
