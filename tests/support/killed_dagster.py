"""A release of the tiny app through Dagster's own jobs, in a process that a test may kill.

    PYTHONPATH=.:tests python tests/support/killed_dagster.py FOLDER PORT

Keeps Dagster's records in FOLDER/dagster, prints what it does line by line, and `done` at the end.
"""

from __future__ import annotations

import logging
import shutil
import sys
from pathlib import Path

from support.tiny import Tiny
from tandem.dagster import recovery
from tandem.dagster.definitions import build_defs
from tandem.dagster.release_command import release_needed
from tandem.dagster.signals import heed_sigterm

ROOT = Path(__file__).resolve().parents[2]


def main(folder: str, port: str) -> int:
    """Release, with the instance that a killed one has left."""
    heed_sigterm()
    home = Path(folder) / "dagster"
    home.mkdir(exist_ok=True)
    shutil.copy(ROOT / "dagster.yaml", home)
    log = logging.getLogger("tandem")
    log.setLevel(logging.INFO)
    handler = logging.StreamHandler(sys.stdout)
    log.addHandler(handler)
    tiny = Tiny(Path(folder), TANDEM_TARGET=f"process:{port}")
    defs = build_defs(apps=[tiny.app], resource_overrides={"tandem": tiny.tandem})
    with recovery.opened(home) as instance:
        outcome = release_needed(
            defs, tiny.app, tiny.project, instance, say=lambda text: print(text, flush=True)
        )
    print("done" if outcome.good else outcome, flush=True)
    return 0 if outcome.good else 1


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
