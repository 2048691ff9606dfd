"""`python3 -m serving`: the example's app, as its image starts it."""

from tandem.serving.__main__ import run

run(["serving.app:app"])
