"""A pytest plugin for a commit's tests: writes how many were collected, and how many ended.

Copied beside the tests, where nothing else of Tandem is. What ends the interpreter in the middle
leaves no last line, and tests that did not run never count as passed.
"""

import os
from typing import Any

PATH = os.environ.get("TANDEM_SESSION")


def _write(path: str, line: str) -> None:
    with open(path, "a", encoding="utf-8") as stream:  # noqa: PTH123 - without imports
        stream.write(line + "\n")


class _Session:
    def __init__(self, path: str) -> None:
        self.path = path
        self.ended: set[str] = set()

    def pytest_collection_finish(self, session: Any) -> None:
        _write(self.path, f"collected={len(session.items)}")

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self.ended.add(nodeid)

    def pytest_unconfigure(self) -> None:
        _write(self.path, f"finished={len(self.ended)}")


def pytest_configure(config: Any) -> None:
    """Watch the session of the main process; the workers of pytest-xdist tell it what they did."""
    if PATH and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Session(PATH), "tandem_session_watch")


if PATH:
    # At import, which comes before the commit's own conftest.py: that may end the interpreter.
    _write(PATH, "started=1")
