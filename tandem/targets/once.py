"""A private instance of an image on this machine, for one check of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tandem.contract import READY_PATH
from tandem.oci import Registry
from tandem.targets.local.runner import Start
from tandem.targets.protocol import SERVICE_PORT


@contextmanager
def run_once(
    registry: Registry,
    digest: str,
    *,
    state: Path,
    env: Mapping[str, str] | None = None,
    engine: str = "process",
    deadline: float = 120.0,
    health: str = READY_PATH,
    port: int = SERVICE_PORT,
    command: tuple[str, ...] = (),
) -> Iterator[str]:
    """Run that image privately on this machine for as long as the context lasts.

    Gives its URL once it is ready. `engine` is `process` or `docker`; `health`, `port` and
    `command` are as in a `DeployRequest`. Leaves nothing behind, even if this process is killed.
    Raises `TargetError` with the last log lines when it does not start.
    """
    if engine == "docker":
        from tandem.targets.local.docker_once import run_container_once as run
    else:
        from tandem.targets.local.process_once import run_process_once as run
    start = Start(env=env or {}, deadline=deadline, health=health, port=port, command=command)
    with run(registry, digest, start, state=state) as url:
        yield url


def sweep_once(*, state: Path, engine: str = "process") -> list[str]:
    """End what killed processes of this machine left of `run_once`; a line each.

    What a living one runs, or one of another container, is left alone. Raises `TargetError` when
    the engine does not answer.
    """
    if engine == "docker":
        from tandem.targets.local.docker import sweep_containers

        return sweep_containers()
    from tandem.targets.local.process import ProcessRunner

    return ProcessRunner(state).sweep()
