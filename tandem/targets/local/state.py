"""What a target of this machine remembers in its folder, and the lock on it.

Every write is whole. Names in the file stay as the first edition wrote them: what it started is
found again.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from tandem.errors import TargetError
from tandem.targets.local.children import Process
from tandem.targets.protocol import SERVICE_PORT, Say
from tandem.util import processes
from tandem.util.files import locked, write_whole

LOCK_WAIT = 600.0
"""Seconds to wait for another deploy to end."""
DRAIN = 15.0
"""Seconds an old instance has to end by itself before the next command ends it."""


class Instance(msgspec.Struct, frozen=True, kw_only=True):
    """One started service; `process` or `container` say what runs it, once known."""

    token: str
    digest: str
    reference: str
    release: int
    env: Mapping[str, str]
    port: int
    started: str
    log: str
    live_since: str = ""
    command: tuple[str, ...] = ()
    """What was started instead of the image's own command."""
    inside: int = SERVICE_PORT
    """The port in its container."""
    process: Process | None = None
    container: str | None = None
    owner: Process | None = None
    """For an instance that must not outlive its starter: the starter."""


class Retiring(msgspec.Struct, frozen=True):
    """An instance to end, whether it was told, and when it will be made to.

    In seconds since the machine started, in that start.
    """

    instance: Instance
    deadline: float
    told: bool = False
    boot: str = ""


class ProxyProcess(msgspec.Struct, frozen=True):
    """The proxy's process and the port it holds."""

    port: int
    process: Process


class State(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of what a target started."""

    live: Instance | None = None
    starting: Instance | None = None
    retiring: tuple[Retiring, ...] = ()
    proxy: ProxyProcess | None = msgspec.field(default=None, name="front")
    deployer: str = ""
    """The process that put `starting` there."""
    proxy_is_new: bool = msgspec.field(default=False, name="front_is_new")
    """A proxy on the previous port may still run until the deploy that set this is done."""


class StateFolder:
    """The folder of one target; `name` is what the settings call the target."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.name = name

    def read(self) -> State:
        """What is remembered; nothing where nothing was ever written."""
        path = self.folder / "state.json"
        try:
            return msgspec.json.decode(path.read_bytes(), type=State)
        except FileNotFoundError:
            return State()
        except msgspec.MsgspecError as problem:
            raise TargetError(
                f"{path} is not what Tandem wrote ({problem}): remove it and release again"
            ) from None

    def write(self, state: State) -> State:
        """Remember `state`, and return it."""
        write_whole(self.folder / "state.json", msgspec.json.format(msgspec.json.encode(state)))
        return state

    @contextlib.contextmanager
    def lock(self, progress: Say) -> Iterator[None]:
        """One command at a time on this target.

        The kernel lets go of it when its holder dies, and only then: one that is stopped, or cut
        off from all else, still has it.
        """
        end = time.monotonic() + LOCK_WAIT
        is_reported = False
        while True:
            with self.try_lock() as ours:
                if ours:
                    yield
                    return
            if not is_reported:
                progress(f"waiting for another deploy to {self.name}")
                is_reported = True
            if time.monotonic() > end:
                raise TargetError(
                    f"another deploy to {self.name} has not ended in {LOCK_WAIT:.0f} s"
                )
            time.sleep(0.05)

    @contextlib.contextmanager
    def try_lock(self) -> Iterator[bool]:
        """Whether the lock is ours for as long as the context lasts."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder / "lock", wait=False) as ours:
            yield ours


def target_folder(state: Path, scheme: str, app: str) -> Path:
    """Where the target of `app` remembers what it started.

    The first edition had one folder for all: it stays with the first app that asks for it.
    """
    shared = state / scheme
    if (shared / "state.json").exists():
        # A link is there at once with its content, and there is never a second one.
        owner = shared / "app"
        with contextlib.suppress(FileExistsError):
            owner.symlink_to(app)
        if str(owner.readlink()) == app:
            return shared
    return shared / "apps" / re.sub(r"[^\w.-]", "-", app)


def digests_in_use(state: Path, scheme: str) -> set[str]:
    """The images that the targets of all apps run, or are about to."""
    digests = set()
    shared = state / scheme
    for path in (shared / "state.json", *shared.glob("apps/*/state.json")):
        try:
            remembered = msgspec.json.decode(path.read_bytes(), type=State)
        except (OSError, msgspec.MsgspecError):
            continue
        instances = (remembered.live, remembered.starting)
        digests |= {instance.digest for instance in instances if instance}
        digests |= {ending.instance.digest for ending in remembered.retiring}
    return digests


def is_left_behind(state: State) -> bool:
    """Whether there is something to clean up, unless a deploy is at it."""
    return state.starting is not None or any(
        not retiring.told or is_over(retiring) for retiring in state.retiring
    )


def is_switching(state: State) -> bool:
    """Whether a deploy is on that may switch at any moment.

    One of another container is assumed to be.
    """
    return state.starting is not None and processes.alive(state.deployer) is not False


def retiring(instance: Instance) -> Retiring:
    """The instance as one that has to end within `DRAIN` seconds."""
    return Retiring(instance, _uptime() + DRAIN, boot=_boot())


def is_over(retiring: Retiring) -> bool:
    """Whether the time that it had to end by itself is over."""
    return retiring.boot != _boot() or _uptime() >= retiring.deadline


def _uptime() -> float:
    """Seconds since this machine started, asleep or not; no clock moves them."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _boot() -> str:
    """This start of this machine."""
    return processes.identity().partition("/")[0]
