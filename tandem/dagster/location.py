"""The code location of a folder that has none of its own: for `dagster dev -m`."""

from pathlib import Path

from tandem.dagster.definitions import build_defs
from tandem.release.app import find_apps

defs = build_defs(find_apps(Path.cwd()))
