"""`process:`, the default: an image's command as a process of this machine.

The image is unpacked and its command run on a bare environment of this Python.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from tandem.errors import ImageFault, TandemError, TargetError
from tandem.oci import Registry
from tandem.targets.local import rootfs
from tandem.targets.local.bluegreen import BlueGreen
from tandem.targets.local.children import (
    Process,
    end_process,
    exit_code,
    known,
    process_alive,
    remember,
    terminate,
)
from tandem.targets.local.ports import HOST, is_free
from tandem.targets.local.runner import DRAIN_SECONDS, LOG_LINES, TAKEN, PortLost
from tandem.targets.local.state import Instance, digests_in_use, target_folder
from tandem.targets.protocol import DeployRequest, Say
from tandem.util.venv import bare_python

TOKEN = "TANDEM_INSTANCE"  # noqa: S105 - a name to find a process by, not a secret
FROM_OUTSIDE = {signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
"""What ends a process that did nothing wrong: the machine that is out of memory or is stopped, a
person."""
SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"


class Prepared(msgspec.Struct, frozen=True):
    """An image that is ready to start here."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    folder: str


def process_target(port: int, *, state: Path, app: str) -> BlueGreen:
    """The target `process:PORT`, remembering what it started under `state`."""
    return BlueGreen(ProcessRunner(state), port, target_folder(state, "process", app))


class ProcessRunner:
    """Runs an image's command on this machine's Python, in a session of its own."""

    scheme = "process"

    def __init__(self, state: Path) -> None:
        self.state = state.absolute()

    def prepare(self, request: DeployRequest, progress: Say) -> Prepared:
        """Unpack what is not unpacked yet, and work out what to start."""
        return prepare(
            request.registry, request.digest, self.state, progress, command=request.command
        )

    def start(self, instance: Instance, prepared: Prepared) -> Instance:
        """Start it in a session of its own, so that it outlives this process."""
        env = {
            "TANDEM_DRAIN_SECONDS": DRAIN_SECONDS,
            **prepared.env,
            **instance.env,
            "HOST": HOST,
            "PORT": str(instance.port),
            "TANDEM_IMAGE_DIGEST": instance.digest,
            **({"TANDEM_RELEASE": str(instance.release)} if instance.release else {}),
            TOKEN: instance.token,
        }
        log = Path(instance.log)
        log.parent.mkdir(parents=True, exist_ok=True)
        try:
            with log.open("ab") as output:
                child = subprocess.Popen(
                    prepared.argv, env=env, cwd=prepared.folder, start_new_session=True,
                    stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                )  # fmt: skip
        except OSError as problem:
            fault = ImageFault if _is_of_image(problem, prepared) else TargetError
            raise fault(f"{prepared.argv[0]} cannot be started: {problem.strerror}") from None
        return msgspec.structs.replace(instance, process=remember(child))

    def alive(self, instance: Instance) -> bool:
        """Whether its process runs."""
        return instance.process is not None and process_alive(instance.process)

    def ended(self, instance: Instance) -> TargetError | None:
        """None while it runs; else how it ended, see `Runner.ended`."""
        if self.alive(instance):
            return None
        code = exit_code(instance.process) if instance.process else None
        if code is None:
            return TargetError("how is not known: its process was started by another one")
        # A shell around it tells a signal as a number above 128.
        sent = -code if code < 0 else code - 128
        if sent in FROM_OUTSIDE:
            return TargetError(f"ended by {signal.Signals(sent).name}, from outside")
        if TAKEN in self.log_tail(instance).lower() and not is_free(instance.port):
            return PortLost(f"port {instance.port} was taken by another program")
        return ImageFault(f"ended by signal {-code}" if code < 0 else f"exit code {code}")

    def terminate(self, instance: Instance) -> None:
        """SIGTERM to its process, which drains and ends its own workers."""
        if instance.process:
            terminate(instance.process)
        else:
            for process in _of_token(instance.token):
                terminate(process)

    def kill(self, instance: Instance) -> None:
        """SIGKILL to all its processes, known by their session or by their token."""
        if instance.process and process_alive(instance.process):
            # Its process group is certainly its own as long as its leader is there.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(instance.process.pid, signal.SIGKILL)
            end_process(instance.process, grace=0)
        else:
            for process in _of_token(instance.token):
                end_process(process, grace=0)

    def log_tail(self, instance: Instance) -> str:
        """The last lines of its log file."""
        return tail(Path(instance.log))

    def describe(self, instance: Instance) -> dict[str, Any]:
        """Its process and private port."""
        pid = instance.process.pid if instance.process else None
        return {"pid": pid, "port": instance.port, "log": instance.log}

    def tidy(self, digests: set[str]) -> None:
        """Remove unpacked images and layers that nobody used lately."""
        rootfs.prune(self.state, digests | digests_in_use(self.state, self.scheme))

    def sweep(self) -> list[str]:
        """Stop the checks that a killed process left running."""
        return _sweep(self, self.state / "once")


def _is_of_image(problem: OSError, prepared: Prepared) -> bool:
    """Whether the image names a program that it does not have, or that is none.

    What this machine lacks, its Python or the unpacked folder, it may have later.
    """
    ours = str(Path(prepared.argv[0]).parent) == prepared.env["PATH"].split(":")[0]
    is_unpacked = Path(prepared.folder).is_dir()
    return isinstance(problem, FileNotFoundError | PermissionError) and is_unpacked and not ours


def prepare(
    registry: Registry,
    digest: str,
    state: Path,
    progress: Say,
    *,
    command: tuple[str, ...] = (),
) -> Prepared:
    """Unpack the image; its command (or `command`) in this machine's paths."""
    config = rootfs.read_image(registry, digest)
    where = registry.reference(digest)
    argv = command or config.command
    if not argv:
        raise ImageFault(f"{where} names no command to start")
    rootfs.check_python(config, where=where)
    root = rootfs.compose(registry, digest, config, state, progress=progress)
    try:
        venv = bare_python(state)
    except TandemError as problem:
        raise TargetError(str(problem)) from None
    env = {name: rootfs.translate(root, value) for name, value in config.env.items()}
    # The image's own programs are for the image's own file system: here the command runs on this
    # machine's Python.
    env["PATH"] = f"{venv / 'bin'}:{SYSTEM_PATH}"
    env.setdefault("LANG", "C.UTF-8")
    program, *arguments = argv
    if Path(program).name.rstrip("0123456789.") == "python":
        program = str(venv / "bin" / "python3")
    else:
        program = rootfs.translate(root, program)
    folder = root.joinpath(*Path(config.working_dir).parts[1:])
    return Prepared(
        argv=(program, *(rootfs.translate(root, argument) for argument in arguments)),
        env=env,
        folder=str(folder if folder.is_dir() else root),
    )


def _sweep(runner: ProcessRunner, folder: Path) -> list[str]:
    """Stop what a killed check left running; a line each."""
    done = []
    for record in folder.glob("*.json"):
        try:
            instance = msgspec.json.decode(record.read_bytes(), type=Instance)
        except (OSError, msgspec.MsgspecError):
            continue
        if not (instance.owner and process_alive(instance.owner)):
            runner.kill(instance)
            record.unlink(missing_ok=True)
            Path(instance.log).unlink(missing_ok=True)
            done.append(f"a check of {instance.reference} was cut off: stopped it")
    return done


def _of_token(token: str) -> list[Process]:
    """The processes that were started with that token.

    For an instance whose process was not written down.
    """
    import psutil

    ours = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(TOKEN) == token:
                ours.append(known(process.pid))
    return ours


def tail(path: Path, lines: int = LOG_LINES) -> str:
    """The last lines of a log file."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 8192))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""
