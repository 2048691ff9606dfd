"""Questions that a repository suggests by its tests, routes and forms."""

from __future__ import annotations

from pathlib import Path

from tandem.build.proposals import propose

APP = """
from flask import Flask, request
app = Flask(__name__)
@app.route("/")
def index(): return "hello"
@app.get("/about")
def about(): return "about"
@app.route("/wine/<int:number>")
def wine(number): return "wine"
@app.route("/predict", methods=["POST"])
def predict(): return request.form["alcohol"] + request.form.get("hue", "")
"""
TESTS = """
from app import app
PATH = "/x"
def test_json():
    client = app.test_client()
    client.post("/score", json={"rows": [[1, 2.5]]})
    client.get("/about")
    client.post(PATH, json={})
    client.post("/upload", data={"file": open("x")})
"""


def proposals(folder: Path, **files: str) -> dict[str, dict]:
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return {str(found): found.table for found in propose(folder)}


def test_what_the_tests_send_comes_first_and_forms_follow(tmp_path: Path) -> None:
    found = proposals(tmp_path, app=APP, tests__test_app=TESTS)
    assert list(found) == ["POST /score", "POST /predict", "GET /about", "GET /"]
    assert found["POST /score"]["json"] == {"rows": [[1, 2.5]]}
    assert found["POST /predict"]["form"] == {"alcohol": "1", "hue": "1"}


def test_code_that_cannot_be_read_suggests_nothing(tmp_path: Path) -> None:
    assert proposals(tmp_path, app="print 'old'") == {}
