"""`docker:`: a container per release, behind a stable port of this machine."""

from __future__ import annotations

import contextlib
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from tandem.errors import ImageFault, TargetError
from tandem.targets.local.bluegreen import BlueGreen
from tandem.targets.local.docker_engine import engine, ensure_image, log_of, remove
from tandem.targets.local.ports import HOST
from tandem.targets.local.runner import DRAIN_SECONDS, TAKEN, PortLost
from tandem.targets.local.state import Instance, target_folder
from tandem.targets.protocol import DeployRequest, Say
from tandem.util import processes

USER = "10001:10001"
MEMORY = "1g"
PROCESSES = 512
LABEL = "tandem"
"""On every container of ours: `deploy` or `once`."""
ONCE_AT_MOST = 3600.0
"""Seconds that a private check may take, far above what any does."""
OWNER = "tandem.owner"
"""On those that must not outlive a process: its identity."""
KILLED = (137, 143)
"""What a process exits with after SIGKILL and SIGTERM."""
NO_PROGRAM = 400
"""How the engine answers when the image has not the program that it names."""
PORT_TAKEN = (TAKEN, "port is already allocated")


def docker_target(port: int, *, state: Path, app: str) -> BlueGreen:
    """The target `docker:PORT`, remembering what it started under `state`."""
    return BlueGreen(DockerRunner(app), port, target_folder(state, "docker", app))


class DockerRunner:
    """Runs an image as a container without privileges, on a private port."""

    scheme = "docker"

    def __init__(self, app: str) -> None:
        self.app = re.sub(r"[^a-z0-9-]", "-", app.lower())

    def prepare(self, request: DeployRequest, progress: Say) -> str:
        """Make sure that the engine has the image; what it calls it."""
        with engine() as client:
            return ensure_image(client, request.registry, request.digest, progress)

    def start(self, instance: Instance, prepared: str) -> Instance:
        """Create and start the container; it is found by its name when this is cut off."""
        environment = {
            "TANDEM_DRAIN_SECONDS": DRAIN_SECONDS,
            **instance.env,
            "HOST": "0.0.0.0",  # noqa: S104 - inside the container
            "PORT": str(instance.inside),
            "TANDEM_IMAGE_DIGEST": instance.digest,
            "TANDEM_RELEASE": str(instance.release),
        }
        with engine() as client:
            container = client.containers.create(
                prepared,
                name=self._name(instance),
                environment=environment,
                labels={LABEL: "deploy", "tandem.app": self.app, "tandem.digest": instance.digest},
                ports={f"{instance.inside}/tcp": (HOST, instance.port)},
                entrypoint=list(instance.command) or None,
                **confined(),
            )
            start_container(container)
            return msgspec.structs.replace(instance, container=container.id)

    def alive(self, instance: Instance) -> bool:
        """Whether its container runs."""
        with engine() as client:
            container = self._find(client, instance)
            return container is not None and container.status == "running"

    def ended(self, instance: Instance) -> TargetError | None:
        """None while its container runs; else how it ended, see `Runner.ended`."""
        with engine() as client:
            return how_ended(self._find(client, instance))

    def terminate(self, instance: Instance) -> None:
        """SIGTERM to the container, which drains and ends."""
        import docker.errors

        with engine() as client:
            if container := self._find(client, instance):
                # It may have ended between the two requests.
                with contextlib.suppress(docker.errors.APIError):
                    container.kill(signal="SIGTERM")

    def kill(self, instance: Instance) -> None:
        """Remove the container, running or not."""
        with engine() as client:
            if container := self._find(client, instance):
                remove(container)

    def log_tail(self, instance: Instance) -> str:
        """The last lines it wrote."""
        with engine() as client:
            container = self._find(client, instance)
            return log_of(container) if container else ""

    def describe(self, instance: Instance) -> dict[str, Any]:
        """Its container and private port."""
        name = self._name(instance)
        return {"container": name, "port": instance.port, "log": f"docker logs {name}"}

    def tidy(self, digests: set[str]) -> None:
        """Images are the engine's to keep: `docker image prune` is a person's decision."""

    def sweep(self) -> list[str]:
        """Remove the checks that a killed process of this machine left."""
        return sweep_containers()

    def _name(self, instance: Instance) -> str:
        return f"{self.app}-{instance.release}-{instance.token[:8]}"

    def _find(self, client: Any, instance: Instance) -> Any:
        import docker.errors

        try:
            return client.containers.get(instance.container or self._name(instance))
        except docker.errors.NotFound:
            return None


def start_container(container: Any) -> None:
    """Start a container.

    Raises `PortLost`, or `ImageFault` where it has no such program.
    """
    import docker.errors

    try:
        container.start()
    except docker.errors.APIError as problem:
        reason = str(problem.explanation or problem)
        if any(phrase in reason.lower() for phrase in PORT_TAKEN):
            raise PortLost(f"Docker: {reason}") from None
        if problem.status_code == NO_PROGRAM:
            raise ImageFault(f"Docker: {reason}") from None
        raise


def how_ended(container: Any) -> TargetError | None:
    """None while it runs; else how it ended, as the engine tells it."""
    if container is None:
        return TargetError("its container was removed")
    state = container.attrs["State"]
    if state["Status"] == "running":
        return None
    code = state["ExitCode"]
    if state.get("OOMKilled"):
        return ImageFault(f"out of memory, of which it may have {MEMORY}")
    if code in KILLED:
        return TargetError(f"exit code {code}, so it was ended from outside")
    if state["Status"] != "exited" or state.get("Error"):
        return TargetError(f"{state['Status']}: {state.get('Error') or 'the engine tells no more'}")
    return ImageFault(f"exit code {code}")


def confined() -> dict[str, Any]:
    """What every container of ours is run with: nothing that an answer does not need."""
    return {
        "detach": True,
        "user": USER,
        "read_only": True,
        "tmpfs": {"/tmp": "size=64m,mode=1777"},  # noqa: S108
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "mem_limit": MEMORY,
        "pids_limit": PROCESSES,
    }


def sweep_containers() -> list[str]:
    """Remove what checks left whose process is no more; a line each."""
    with engine() as client:
        return sweep_private(client)


def sweep_private(client: Any) -> list[str]:
    """As `sweep_containers`, with the engine at hand."""
    ours = {"label": f"{LABEL}=once"}
    done = []
    for container in client.containers.list(all=True, ignore_removed=True, filters=ours):
        is_alive = processes.alive(container.labels.get(OWNER, ""))
        # Of another machine or container nothing is known, but no check takes that long.
        if is_alive is False or (is_alive is None and _age(client, container) > ONCE_AT_MOST):
            remove(container)
            done.append(f"the check {container.name} was cut off: removed it")
    return done


def _age(client: Any, container: Any) -> float:
    """Seconds since it was created, by the engine's own clock."""
    now, created = (
        datetime.fromisoformat(text)
        for text in (client.info()["SystemTime"], container.attrs["Created"])
    )
    return (now - created).total_seconds()
