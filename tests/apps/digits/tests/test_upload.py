import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "app"))

from app import app  # noqa: E402


def test_a_seven():
    with open(os.path.join(os.path.dirname(__file__), "seven.png"), "rb") as file:
        page = app.test_client().post("/", data={"file": file})
    assert b"It is a 7" in page.data
