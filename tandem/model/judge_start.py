"""Starting the judge's process: in the sandbox on Linux, elsewhere bounded in time.

Elsewhere is a notebook on macOS or Windows, whose owner made the model that is judged.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

PROGRAM = "tandem.model.judge_process"
_KEPT = ("SYSTEMROOT", "TEMP", "TMP", "PATH")
"""What Windows cannot start a process without."""


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """How the process ended: an exit code (negative: a signal), or `stopped`."""

    code: int | None
    stdout: bytes
    stderr: bytes
    stopped: str = ""


def start(
    stdin: bytes | Callable[[], bytes],
    shown: Sequence[Path],
    *,
    seconds: float,
    memory: int,
    option: str = "",
    modules: Sequence[Path] = (),
) -> Ended:
    """Run the judge's process to its end, with `shown` and `modules` to be read.

    `modules` are folders of the application's own modules, for classes that it trusts. Raises
    `SandboxError` where it cannot be started.
    """
    ours = Path(__file__).parents[1]
    argv = [sys.executable, "-m", PROGRAM, *([option] if option else [])]
    env = {
        "PATH": os.defpath,
        "PYTHONPATH": os.pathsep.join([str(ours.parent), *_site(), *map(str, modules)]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OPENBLAS_NUM_THREADS": "2",
        "OMP_NUM_THREADS": "2",
    }
    if sys.platform != "linux":
        return _plain(argv, env, stdin, seconds)
    try:
        from tandem import sandbox
        from tandem.util.folders import scratch
    except ImportError:
        # A Python without what the sandbox is made of: whoever publishes here made the model, too.
        return _plain(argv, env, stdin, seconds)

    libraries = [Path(sys.prefix), *map(Path, _site()), ours]
    with scratch("judge") as folder:
        done = sandbox.run(
            argv,
            folder=folder,
            readable=[*libraries, *shown, *modules],
            env=env,
            limits=sandbox.Limits(seconds=seconds, memory=memory, output=64 * 2**20),
            stdin=stdin,
        )
    stderr = sandbox.redact(done.stderr.decode(errors="replace")).encode()
    return Ended(code=done.code, stdout=done.stdout, stderr=stderr, stopped=done.stopped)


def _plain(
    argv: Sequence[str],
    env: dict[str, str],
    stdin: bytes | Callable[[], bytes],
    seconds: float,
) -> Ended:
    given = stdin if isinstance(stdin, bytes) else stdin()
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    with tempfile.TemporaryDirectory(prefix="tandem-judge-") as folder:
        try:
            done = subprocess.run(
                argv, input=given, cwd=folder, env=kept | env, capture_output=True, timeout=seconds
            )
        except subprocess.TimeoutExpired as problem:
            said = problem.stdout or b""
            return Ended(code=None, stdout=said, stderr=b"", stopped=f"took over {seconds:.0f} s")
    return Ended(code=done.returncode, stdout=done.stdout, stderr=done.stderr)


def _site() -> list[str]:
    # Where this process found its libraries, in case it was not through its interpreter alone.
    return [path for path in sys.path if path.endswith("site-packages")]
