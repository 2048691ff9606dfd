"""A private instance of an image on this machine, for one check of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tandem.oci import Registry


@contextmanager
def run_once(
    registry: Registry,
    digest: str,
    *,
    state: Path,
    env: Mapping[str, str] | None = None,
    engine: str = "process",
    deadline: float = 120.0,
) -> Iterator[str]:
    """Run that image privately on this machine for as long as the context lasts; gives its URL once
    it is ready.

    `engine` is `process` or `docker`. Raises `TargetError` with the last log lines when it does not
    start. Nothing stays behind, also when this process is killed.
    """
    if engine == "docker":
        from tandem.targets.local.docker_once import run_container_once as run
    else:
        from tandem.targets.local.process_once import run_process_once as run
    with run(registry, digest, state=state, env=env or {}, deadline=deadline) as url:
        yield url


def sweep_once(*, state: Path, engine: str = "process") -> list[str]:
    """End what killed processes of this machine left of `run_once`; what was done, a line each.

    What a living one runs, or one of another container, is left alone. Raises `TargetError` when
    the engine does not answer.
    """
    if engine == "docker":
        from tandem.targets.local.docker import sweep_containers

        return sweep_containers()
    from tandem.targets.local.process import ProcessRunner

    return ProcessRunner(state).sweep()
