"""Blue/green on one machine: a new instance beside the old one, then the front's file switched
over, then the old drained.

How an instance is run is the business of a `Runner` (a process, a container). What was started is
written down before it is started, so that whoever comes after a killed deploy knows what to stop.
The order is what makes it safe:

    start the new one → it answers → switch the front → the public URL answers
    → write down that it is live → drain the old one
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, NoReturn, Protocol, cast

import msgspec

from tandem.errors import ImageFault, TandemError, TargetError
from tandem.service import client
from tandem.targets import Check, DeployRequest, Live, Say
from tandem.targets.local import proxy as front_program
from tandem.util import processes

HOST = "127.0.0.1"
LOCK_WAIT = 600.0
"""Seconds to wait for another deploy to end."""
DRAIN = 15.0
"""Seconds an old instance has to end by itself before the next command ends it."""
EXIT_WAIT = 5.0
A_MOMENT = 0.5
LOG_LINES = 15
CLOCK_SLACK = 2.0
KEEP = 10
"""Logs and unpacked images that stay, for a look back and for a quick way back."""


class PortLost(TargetError):
    """Another program took the port that was chosen for an instance: worth another try at once."""


class Process(msgspec.Struct, frozen=True):
    """A process that is this one and no other: a number alone is used again."""

    pid: int
    created: float = 0.0
    """In epoch seconds; only of what an edition before `mark` wrote down."""
    mark: str = ""
    """Its identity, see `tandem.util.processes`."""


class Instance(msgspec.Struct, frozen=True, kw_only=True):
    """One started service; `process` or `container` say what runs it, once it is known."""

    token: str
    digest: str
    reference: str
    release: int
    env: Mapping[str, str]
    port: int
    started: str
    log: str
    live_since: str = ""
    process: Process | None = None
    container: str | None = None
    owner: Process | None = None
    """For an instance that must not outlive its starter: the starter."""


class Retiring(msgspec.Struct, frozen=True):
    """An instance to end, whether it was told so, and when it will be made to: in seconds since
    the machine started, in that start."""

    instance: Instance
    deadline: float
    told: bool = False
    boot: str = ""


class Front(msgspec.Struct, frozen=True):
    """The front's process and the port it holds."""

    port: int
    process: Process


class State(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of what a target started."""

    live: Instance | None = None
    starting: Instance | None = None
    retiring: tuple[Retiring, ...] = ()
    front: Front | None = None
    deployer: str = ""
    """The process that put `starting` there."""
    front_is_new: bool = False
    """Until the deploy that opened it is done there may be another one, on the port that was set
    before."""


class Runner(Protocol):
    """Runs instances of images on this machine."""

    scheme: str

    def prepare(self, request: DeployRequest, progress: Say) -> Any:
        """All that can be done before anything starts; what it returns is handed to `start`."""

    def start(self, instance: Instance, prepared: Any) -> Instance:
        """Start it, listening on `HOST:instance.port`; returns it with what identifies it."""

    def alive(self, instance: Instance) -> bool:
        """Whether it runs."""

    def ended(self, instance: Instance) -> TargetError | None:
        """None while it runs; else how it ended, judged by what ended it.

        An `ImageFault` when it did so by itself, `PortLost` when its port was taken, and a plain
        `TargetError` when something outside of it did.
        """

    def terminate(self, instance: Instance) -> None:
        """Ask it to finish its work and end; does not wait."""

    def kill(self, instance: Instance) -> None:
        """End it and all that it started, now; also where it was recorded and its identity was
        not."""

    def log_tail(self, instance: Instance) -> str:
        """The last lines it wrote."""

    def describe(self, instance: Instance) -> dict[str, Any]:
        """What to show of it."""

    def tidy(self, digests: set[str]) -> None:
        """Forget what is kept for images other than these and the latest ones."""

    def sweep(self) -> list[str]:
        """End the private checks (see `run_once`) whose process is gone; a line each."""


class BlueGreen:
    """A target of one machine: one public port, and behind it instances that replace one
    another."""

    def __init__(self, runner: Runner, port: int, folder: Path) -> None:
        self.runner = runner
        self.port = port
        self.folder = folder
        self.name = f"{runner.scheme}:{port}"

    def url(self) -> str:
        """Where users reach the service."""
        return f"http://{HOST}:{self.port}"

    def current(self) -> Live | None:
        """What is live; None where nothing is, where it died, or where a killed deploy left it
        undecided."""
        state = self._read()
        if state.live and self._serves(state):
            return self._live(state.live, state)
        return None

    def details(self) -> dict[str, Any]:
        """All there is to show of what is live."""
        live = self.current()
        return dict(live.detail) if live else {}

    def drift(self) -> list[str]:
        """What is otherwise than the last release left it."""
        state = self._read()
        if state.live is None:
            return []
        lines = []
        if not self.runner.alive(state.live):
            lines.append(f"the service of release {state.live.release} has stopped")
        if state.front is None or not process_alive(state.front.process):
            lines.append(f"the front of {self.url()} has stopped")
        elif not lines and not self._serves(state):
            lines.append(f"{self.url()} does not lead to release {state.live.release}")
        return lines

    def sweep(self) -> list[str]:
        """Clean up what a killed deploy or check left behind; see `Target.sweep`."""
        said = self.runner.sweep()
        if not _left_behind(self._read()):
            return said
        with self._try_lock() as ours:
            # Read again with the lock: it may have been the work of a deploy that is done.
            if ours and _left_behind(self._read()):
                self._recover(said.append)
        return said

    def deploy(self, request: DeployRequest, *, check: Check, progress: Say) -> Live:
        """Make the image live; see `Target.deploy`."""
        with self._lock(progress):
            state = self._recover(progress)
            if unchanged := self._unchanged(state, request, check, progress):
                return unchanged
            prepared = self.runner.prepare(request, progress)
            state = self._ensure_front(state, progress)
            return self._replace(state, request, prepared, check, progress)

    def stop(self, *, progress: Say) -> bool:
        """Stop the service and its front; False where there was nothing."""
        if not self.folder.is_dir():
            return False
        with self._lock(progress):
            state = self._recover(progress)
            there = bool(state.live or state.front or state.retiring)
            # The front first: it takes no new connection, and keeps those that are open while the
            # service drains.
            fronts = self._fronts()
            for front in fronts:
                terminate(front)
            live = (state.live,) if state.live else ()
            state = self._retire(msgspec.structs.replace(state, live=None, front=None), *live)
            for retiring in state.retiring:
                progress(f"waiting for release {retiring.instance.release} to finish its work")
                while self.runner.alive(retiring.instance) and not _is_over(retiring):
                    time.sleep(0.02)
                self.runner.kill(retiring.instance)
            for front in fronts:
                end_process(front)
            self._backend_file.unlink(missing_ok=True)
            self._write(State())
            return there

    # Steps of a deploy

    def _replace(
        self, state: State, request: DeployRequest, prepared: Any, check: Check, progress: Say
    ) -> Live:
        try:
            return self._try(state, request, prepared, check, progress)
        except PortLost as problem:
            progress(f"trying once more on another port: {problem}")
            return self._try(self._read(), request, prepared, check, progress)

    def _try(
        self, state: State, request: DeployRequest, prepared: Any, check: Check, progress: Say
    ) -> Live:
        old = state.live if state.live and self.runner.alive(state.live) else None
        new = Instance(
            token=secrets.token_hex(8),
            digest=request.digest,
            reference=request.registry.reference(request.digest),
            release=request.release,
            env=dict(request.env),
            port=free_port(),
            started=now(),
            log="",
        )
        log = self.folder.absolute() / "logs" / f"release-{request.release:06d}-{new.token}.log"
        new = msgspec.structs.replace(new, log=str(log))
        switched = False
        try:
            # Written down before it is there: whoever comes after a kill in between looks for its
            # token.
            state = self._write(
                msgspec.structs.replace(state, starting=new, deployer=processes.identity())
            )
            progress(
                f"starting release {request.release} beside "
                + (f"release {old.release}" if old else "nothing")
            )
            new = self.runner.start(new, prepared)
            state = self._write(msgspec.structs.replace(state, starting=new))
            private = f"http://{HOST}:{new.port}"
            took = client.wait_ready(private, request.deadline, lambda: self.runner.ended(new))
            progress(f"ready after {took:.1f} s; asking it")
            self._ask(check, private, new)
            switched = True
            self._point_at(new)
            progress(f"switched {self.url()} to release {request.release}; asking again")
            self._await_front(state)
            self._ask(check, self.url(), new)
        except BaseException as problem:
            tail = self.runner.log_tail(new)
            self._put_back(state, old, new, switched)
            after = f"release {old.release} is still live" if old else "nothing is live"
            if not isinstance(problem, Exception):
                raise
            why = str(problem) if isinstance(problem, TandemError | OSError) else repr(problem)
            # What it says of the image stays: that is a verdict, and all else is tried again.
            kept = isinstance(problem, ImageFault | PortLost)
            fault = type(problem) if kept else TargetError
            raise fault(
                f"release {request.release} did not go live, {after}: {why}"
                + (f"; its last log lines:\n{tail}" if tail else "; it logged nothing")
            ) from (None if isinstance(problem, TandemError) else problem)
        new = msgspec.structs.replace(new, live_since=now())
        # The front of another port ends with the connections it has; before the line below says
        # that all is done.
        if state.front_is_new:
            for front in self._fronts():
                if state.front and front.pid != state.front.process.pid:
                    terminate(front)
        # A dead predecessor is retired too: parts of it may have outlived it.
        gone = (state.live,) if state.live else ()
        if old:
            progress(f"release {old.release} finishes its open requests and ends")
        state = self._retire(
            msgspec.structs.replace(state, live=new, starting=None, front_is_new=False), *gone
        )
        with contextlib.suppress(OSError):
            self._tidy(state)
        return self._live(new, state)

    def _ask(self, check: Check, url: str, instance: Instance) -> None:
        """The check; if it fails because the instance ended, that is what is wrong."""
        with judged_by_its_end(lambda: self.runner.ended(instance)):
            check(url)

    def _unchanged(
        self, state: State, request: DeployRequest, check: Check, progress: Say
    ) -> Live | None:
        live = state.live
        if not (live and self._serves(state)):
            return None
        if (live.digest, live.release, live.env) != (
            request.digest,
            request.release,
            dict(request.env),
        ):
            return None
        try:
            check(self.url())
        except TandemError as problem:
            progress(f"release {live.release} is live but does not answer as it should: {problem}")
            return None
        progress(f"release {live.release} is live already; nothing restarted")
        return self._live(live, state)

    def _put_back(self, state: State, old: Instance | None, new: Instance, switched: bool) -> None:
        state = msgspec.structs.replace(state, starting=None)
        if switched:
            self._point_at(old)
            self._retire(state, new)
        else:
            self.runner.kill(new)
            self._write(state)

    def _recover(self, progress: Say) -> State:
        """Finish what a killed command left: the live one serves again, all else is on its way
        out."""
        state = self._read()
        cut_off = state.starting
        if cut_off:
            progress(f"the deploy of release {cut_off.release} was cut off: stopping it")
            self._point_at(state.live)
        state = self._retire(
            msgspec.structs.replace(state, starting=None), *((cut_off,) if cut_off else ())
        )
        left = []
        for one in state.retiring:
            if self.runner.alive(one.instance) and not _is_over(one):
                left.append(one)
            else:
                self.runner.kill(one.instance)
        return self._write(msgspec.structs.replace(state, retiring=tuple(left)))

    def _retire(self, state: State, *instances: Instance) -> State:
        """Write down that these are to end, and tell all that were not told yet."""
        new = (Retiring(instance, _uptime() + DRAIN, boot=_boot()) for instance in instances)
        state = self._write(msgspec.structs.replace(state, retiring=(*state.retiring, *new)))
        if all(one.told for one in state.retiring):
            return state
        for one in state.retiring:
            if not one.told:
                self.runner.terminate(one.instance)
        told = tuple(msgspec.structs.replace(one, told=True) for one in state.retiring)
        return self._write(msgspec.structs.replace(state, retiring=told))

    def _tidy(self, state: State) -> None:
        """Forget what no release from here on needs: old logs, old images."""
        logs = sorted((self.folder / "logs").glob("release-*.log"), key=lambda log: log.name)
        for log in logs[:-KEEP]:
            log.unlink()
        kept = [state.live, *(one.instance for one in state.retiring)]
        self.runner.tidy({instance.digest for instance in kept if instance})

    # The front

    def _ensure_front(self, state: State, progress: Say) -> State:
        """The front on the wanted port, started where it is not."""
        front = state.front
        if front and front.port == self.port and process_alive(front.process):
            return state
        progress(f"opening {self.url()}")
        log = self.folder / "logs" / "front.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as errors:
            start = errors.seek(0, os.SEEK_END)
            child = subprocess.Popen(
                [sys.executable, "-I", "-S", front_program.__file__, HOST, str(self.port),
                 str(self._backend_file)],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
                cwd="/", env={}, start_new_session=True,
            )  # fmt: skip
        with cast(IO[bytes], child.stdout) as said:
            ready = said.readline() == front_program.READY
        if ready:
            process = remember(child)
        else:
            child.wait()
            process = self._lost_front() or _raise(self._port_taken(log, start))
        return self._write(
            msgspec.structs.replace(state, front=Front(self.port, process), front_is_new=True)
        )

    def _port_taken(self, log: Path, start: int) -> TargetError:
        with log.open("rb") as errors:
            errors.seek(start)
            said = errors.read().decode(errors="replace").strip().splitlines()
        return TargetError(
            f"TANDEM_TARGET={self.name}: {said[-1] if said else 'the front did not start'}; "
            f"free that port or choose another, such as {self.runner.scheme}:{self.port + 1}"
        )

    def _lost_front(self) -> Process | None:
        """A front on this port that a killed deploy opened and did not live to write down."""
        return next(iter(self._fronts(str(self.port))), None)

    def _fronts(self, port: str | None = None) -> list[Process]:
        """The fronts that read this target's file, known by their arguments."""
        import psutil

        found = []
        for process in psutil.process_iter(["cmdline"]):
            argv = process.info["cmdline"] or []
            ours = argv[-1:] == [str(self._backend_file)] and front_program.__file__ in argv
            if ours and port in (None, argv[-2]):
                with contextlib.suppress(OSError):
                    found.append(known(process.pid))
        return found

    def _point_at(self, instance: Instance | None) -> None:
        if instance is None:
            self._backend_file.unlink(missing_ok=True)
        else:
            write_atomically(self._backend_file, f"{instance.port} {instance.token}\n".encode())

    def _await_front(self, state: State) -> None:
        if not (state.front and process_alive(state.front.process)):
            raise TargetError(
                f"the front of {self.url()} has stopped: see {self.folder / 'logs' / 'front.log'}"
            )

    def _serves(self, state: State) -> bool:
        """Whether the front is there, points at the live one, and the live one runs.

        While a deploy is switching it points at the next one, and may yet point back.
        """
        live, front = state.live, state.front
        if not (live and front and front.port == self.port and process_alive(front.process)):
            return False
        try:
            pointed = self._backend_file.read_text().split()
        except OSError:
            return False
        right = [[str(live.port), live.token]]
        if state.starting and _is_switching(state):
            right.append([str(state.starting.port), state.starting.token])
        return pointed in right and self.runner.alive(live)

    # What is remembered

    @property
    def _backend_file(self) -> Path:
        return self.folder.absolute() / "backend"

    def _read(self) -> State:
        path = self.folder / "state.json"
        try:
            return msgspec.json.decode(path.read_bytes(), type=State)
        except FileNotFoundError:
            return State()
        except msgspec.MsgspecError as problem:
            raise TargetError(
                f"{path} is not what Tandem wrote ({problem}): remove it and release again"
            ) from None

    def _write(self, state: State) -> State:
        write_atomically(
            self.folder / "state.json", msgspec.json.format(msgspec.json.encode(state))
        )
        return state

    def _live(self, instance: Instance, state: State) -> Live:
        return Live(
            url=self.url(),
            digest=instance.digest,
            reference=instance.reference,
            since=instance.live_since or instance.started,
            release=instance.release,
            switching=_is_switching(state),
            detail={
                **self.runner.describe(instance),
                "draining": [
                    one.instance.release
                    for one in state.retiring
                    if self.runner.alive(one.instance)
                ],
            },
        )

    @contextlib.contextmanager
    def _lock(self, progress: Say) -> Iterator[None]:
        """One command at a time on this target.

        The kernel lets go of it when its holder dies, and only then: one that is stopped, or cut
        off from all else, still has it.
        """
        end = time.monotonic() + LOCK_WAIT
        said = False
        while True:
            with self._try_lock() as ours:
                if ours:
                    yield
                    return
            if not said:
                progress(f"waiting for another deploy to {self.name}")
                said = True
            if time.monotonic() > end:
                raise TargetError(
                    f"another deploy to {self.name} has not ended in {LOCK_WAIT:.0f} s"
                )
            time.sleep(0.05)

    @contextlib.contextmanager
    def _try_lock(self) -> Iterator[bool]:
        """Whether the lock is ours for as long as the context lasts."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True


def _left_behind(state: State) -> bool:
    """Whether there is something to clean up, unless a deploy is at it."""
    return state.starting is not None or any(
        not retiring.told or _is_over(retiring) for retiring in state.retiring
    )


def _is_switching(state: State) -> bool:
    """Whether a deploy is on that may switch at any moment; of another container's it is taken to
    be."""
    return state.starting is not None and processes.alive(state.deployer) is not False


def _is_over(retiring: Retiring) -> bool:
    return retiring.boot != _boot() or _uptime() >= retiring.deadline


def _uptime() -> float:
    """Seconds since this machine started, asleep or not: no clock that is set moves them."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _boot() -> str:
    """This start of this machine."""
    return processes.identity().partition("/")[0]


# Small things that process: and docker: share.


def now() -> str:
    """This moment as RFC 3339 in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def write_atomically(path: Path, data: bytes) -> None:
    """Replace the file whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".writing-", dir=path.parent)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    Path(name).replace(path)


def free_port() -> int:
    """A port of this machine that is free now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def tail(path: Path, lines: int = LOG_LINES) -> str:
    """The last lines of a log file."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 8192))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


def is_free(port: int) -> bool:
    """Whether nobody has that port of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


@contextlib.contextmanager
def judged_by_its_end(ended: Callable[[], TargetError | None]) -> Iterator[None]:
    """What fails while an instance is asked is what ended the instance, where it has ended."""
    try:
        yield
    except TargetError as problem:
        # It closes its connections before it counts as ended.
        wait_until(lambda: ended() is not None, A_MOMENT)
        if end := ended():
            raise type(end)(f"{problem}: it has stopped, {end}") from None
        raise


_children: dict[str, subprocess.Popen[bytes]] = {}
"""Started by this process, by their identity; they outlive it on purpose, but must be reaped while
it lives, and how they ended is known to it alone."""


def known(pid: int) -> Process:
    """A running process as one to write down. Raises `OSError` when it is gone."""
    return Process(pid, mark=processes.identity(pid))


def remember(child: subprocess.Popen[bytes]) -> Process:
    """The identity of a child that was just started."""
    # It is there, running or not, until it is reaped.
    process = known(child.pid)
    _children[process.mark] = child
    return process


def exit_code(process: Process) -> int | None:
    """How a child of this process ended, a signal as a negative number; None where that is not
    known."""
    child = _children.get(process.mark)
    if child is None:
        return None
    # It counts as ended once its first thread has; the kernel tells how when the last one has.
    with contextlib.suppress(subprocess.TimeoutExpired):
        return child.wait(EXIT_WAIT)
    return None


def process_alive(process: Process) -> bool:
    """Whether that very process still runs; one of another container is none of ours."""
    child = _children.get(process.mark)
    if child is not None and child.poll() is not None:
        return False
    if process.mark:
        return processes.alive(process.mark) is True
    return _was_written_down(process)


def _was_written_down(process: Process) -> bool:
    """Whether a process runs that was written down with the time of its start alone."""
    import psutil

    try:
        found = psutil.Process(process.pid)
        # A clock that is set by a second moves what psutil computes from it.
        same = abs(found.create_time() - process.created) < CLOCK_SLACK
        return same and found.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def terminate(process: Process) -> None:
    """Ask a process to end, if it is still there."""
    if process_alive(process):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGTERM)


def end_process(process: Process, *, grace: float = 2.0) -> None:
    """Terminate a process, wait for it, kill it after `grace` seconds."""
    end = time.monotonic() + grace
    sent = signal.SIGTERM if grace else signal.SIGKILL
    while process_alive(process):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, sent)
        while process_alive(process) and (time.monotonic() < end or sent == signal.SIGKILL):
            time.sleep(0.005)
        sent = signal.SIGKILL


def _raise(error: TargetError) -> NoReturn:
    raise error


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether the condition came true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True
