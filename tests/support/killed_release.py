"""A release of the tiny app in a process of its own that kills itself at a set moment.

    PYTHONPATH=.:tests python tests/support/killed_release.py FOLDER MOMENT PORT

MOMENT is `step:N` (before the N-th step), `effect:N` (just before the N-th effect: a file that
takes its name, or a process that is started) or `never`. Prints the number of effects.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.tiny import Tiny
from tandem.release.build import build_app
from tandem.release.deploy import deploy
from tandem.release.judging import judge_missing
from tandem.release.pack import pack
from tandem.release.pair import choose_pair
from tandem.release.project import Project
from tandem.release.prove import prove
from tandem.release.record import record_release

STEPS: tuple[Callable[[Project], object], ...] = (
    build_app,
    judge_missing,
    lambda project: prove(project, pack(project, choose_pair(project))),
    deploy,
    lambda project: record_release(project, trigger="test"),
)


def main(folder: str, moment: str, port: str) -> None:
    """Run the steps, and die when it is time."""
    what, _, text = moment.partition(":")
    last = int(text or 0)
    effects = 0

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def counted(effect: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            nonlocal effects
            effects += 1
            if what == "effect" and effects == last:
                die()
            return effect(*arguments, **options)

        return run

    for module, name in ((os, "rename"), (os, "replace"), (os, "link"), (os, "unlink")):
        setattr(module, name, counted(getattr(module, name)))
    subprocess.Popen.__init__ = counted(subprocess.Popen.__init__)  # type: ignore[method-assign]

    tiny = Tiny(Path(folder), TANDEM_TARGET=f"process:{port}")
    for number, step in enumerate(STEPS):
        if what == "step" and number == last:
            die()
        step(tiny.project)
    if what == "step":
        die()
    print(effects)


if __name__ == "__main__":
    main(*sys.argv[1:])
