"""`python3 -m serving`: the example's service."""

from tandem.serving.__main__ import run

run()
