"""The Flask app: the page, and the extension with pictures as a question."""

from __future__ import annotations

import os
from pathlib import Path

from flask import Flask, Response

from serving.pictures import Bounds, Pictures
from tandem.serving import Tandem
from tandem.serving.routes import page_file

HERE = Path(__file__).parent
PAGE = HERE / "page"

app = Flask("digits", static_folder=None, root_path=str(HERE))
tandem = Tandem(
    app,
    adapters=[Pictures(Bounds.read(os.environ))],
    public=["/", "/draw.js", "/draw.css"],
    recorded_model="../models/digits/recorded",  # not packed: for tests and `flask run`
)


@app.get("/")
def page() -> Response:
    """The page: draw a digit, and see what the model reads."""
    return page_file(PAGE / "index.html")


@app.get("/<any('draw.js', 'draw.css'):name>")
def part(name: str) -> Response:
    """A part of the page."""
    return page_file(PAGE / name)
