"""The process that opens a published model: `python -m tandem.model.judge_process`.

With `--ahead` it has imported all that it may need before it reads what to judge.

A package is untrusted, so this runs in the sandbox, with bounded memory and computing time. What a
crafted file crashes here is a refusal, no more.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import importlib.abc
import math
import os
import sys
from pathlib import Path
from typing import Any

import msgspec

from tandem.model.examination import examine
from tandem.model.judge_job import MACHINERY, READY, Job
from tandem.model.package import ONNX, SKOPS

_OF_THE_MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE}


def main() -> None:
    """Judge the job on standard input, and say what was found on standard output."""
    sys.meta_path.insert(0, _NoPandas())
    if "--ahead" in sys.argv:
        _import_runtimes(None)
    told = sys.stdin.buffer.read()
    if not told:
        return  # nothing is to be judged
    job = msgspec.json.decode(told, type=Job)
    _import_runtimes(job)
    _limit(job.seconds)
    # What a library prints must not get between the checks.
    answer = os.dup(1)
    os.dup2(2, 1)
    os.write(answer, READY)
    try:
        found = examine(job)
    except OSError as problem:
        if problem.errno not in _OF_THE_MACHINE:
            raise
        print(problem.strerror, file=sys.stderr)
        sys.exit(MACHINERY)
    with open(answer, "wb") as stream:  # noqa: PTH123 - a descriptor
        stream.write(msgspec.json.encode(found))


def _limit(seconds: int) -> None:
    """Bound the computing time from now on, and write no core dump (POSIX)."""
    try:
        import resource
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    used = resource.getrusage(resource.RUSAGE_SELF)
    end = math.ceil(used.ru_utime + used.ru_stime) + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (end, end + 5))


class _NoPandas(importlib.abc.MetaPathFinder):
    """No pandas, as in the image; scikit-learn imports it wherever it is installed."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> None:
        """Refuse pandas, and leave all else to the other finders."""
        if fullname == "pandas":
            raise ModuleNotFoundError("pandas is not used here", name=fullname)


def _import_runtimes(job: Job | None) -> None:
    """Import what opening takes: those seconds are not the package's."""
    wanted = ["onnxruntime"]
    if job is None or _has_estimator(job):
        wanted += ["skops.io", "sklearn.neural_network"]
    for name in wanted:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def _has_estimator(job: Job) -> bool:
    champion = Path(job.champion) if job.champion else None
    return (Path(job.candidate) / SKOPS).exists() or (
        champion is not None and not (champion / ONNX).exists()
    )


if __name__ == "__main__":
    main()
