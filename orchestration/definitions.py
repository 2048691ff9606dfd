"""This code location: `dg` and `dagster -m` read it."""

from orchestration.apps import APPS
from tandem.dagster.definitions import build_defs

defs = build_defs(APPS)
