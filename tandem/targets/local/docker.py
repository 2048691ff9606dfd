"""`docker:`: a container per release on one machine's engine, blue/green behind the same stable
port as processes."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import IO, Any, cast

import msgspec

from tandem.errors import ImageFault, TargetError
from tandem.oci import Registry
from tandem.service import client as service
from tandem.targets import DeployRequest, Say
from tandem.targets.local.bluegreen import (
    HOST,
    LOG_LINES,
    BlueGreen,
    Instance,
    PortLost,
    judged_by_its_end,
)
from tandem.targets.local.process import DRAIN_SECONDS, TAKEN
from tandem.util import processes

PORT = 8080
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
    return BlueGreen(DockerRunner(app), port, state / "docker")


class DockerRunner:
    """Runs an image as a container without privileges, reached on a private port of this
    machine."""

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
            "PORT": str(PORT),
            "TANDEM_IMAGE_DIGEST": instance.digest,
            "TANDEM_RELEASE": str(instance.release),
        }
        with engine() as client:
            container = client.containers.create(
                prepared,
                name=self._name(instance),
                environment=environment,
                labels={LABEL: "deploy", "tandem.app": self.app, "tandem.digest": instance.digest},
                ports={f"{PORT}/tcp": (HOST, instance.port)},
                **confined(),
            )
            _start(container)
            return msgspec.structs.replace(instance, container=container.id)

    def alive(self, instance: Instance) -> bool:
        """Whether its container runs."""
        with engine() as client:
            container = self._find(client, instance)
            return container is not None and container.status == "running"

    def ended(self, instance: Instance) -> TargetError | None:
        """None while its container runs; else how it ended, see `Runner.ended`."""
        with engine() as client:
            return _how_ended(self._find(client, instance))

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


def _start(container: Any) -> None:
    """Start it. Raises `PortLost`, or `ImageFault` where it has no such program."""
    import docker.errors

    try:
        container.start()
    except docker.errors.APIError as problem:
        said = str(problem.explanation or problem)
        if any(words in said.lower() for words in PORT_TAKEN):
            raise PortLost(f"Docker: {said}") from None
        if problem.status_code == NO_PROGRAM:
            raise ImageFault(f"Docker: {said}") from None
        raise


def _how_ended(container: Any) -> TargetError | None:
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


@contextlib.contextmanager
def engine() -> Iterator[Any]:
    """The engine of DOCKER_HOST, with what goes wrong as `TargetError`."""
    import docker
    import docker.errors
    import requests

    try:
        client = docker.from_env(timeout=60)
        try:
            yield client
        finally:
            client.close()
    except docker.errors.APIError as problem:
        raise TargetError(f"Docker: {problem.explanation or problem}") from None
    except (docker.errors.DockerException, requests.RequestException) as problem:
        where = os.environ.get("DOCKER_HOST", "its usual socket")
        raise TargetError(f"the Docker engine at {where} does not answer: {problem}") from None


def ensure_image(client: Any, registry: Registry, digest: str, progress: Say) -> str:
    """Have the engine pull the image by digest, or give it one from a layout folder."""
    import docker.errors

    reference = registry.reference(digest)
    if registry.url.startswith("oci:"):
        return _load(client, registry, digest, progress)
    try:
        client.images.get(reference)
        return reference
    except docker.errors.ImageNotFound:
        progress(f"pulling {reference}")
    from tandem.oci.credentials import find_credentials

    found = find_credentials(registry.url.partition("/")[0])
    login = {"username": found.username, "password": found.password} if found else None
    try:
        client.images.pull(reference.partition("@")[0], tag=digest, auth_config=login)
    except docker.errors.APIError as problem:
        raise TargetError(f"Docker cannot pull {reference}: {problem.explanation}") from None
    return reference


def _load(client: Any, registry: Registry, digest: str, progress: Say) -> str:
    """Give the engine an image as `docker save` writes it; layers streamed, one at a time."""
    import docker.errors

    from tandem.oci.pull import pull
    from tandem.oci.unpack import decompressed

    image = pull(registry, digest)
    # What the engine calls an image is the digest of its configuration.
    config = image.config_descriptor.digest
    try:
        client.images.get(config)
        return config
    except docker.errors.ImageNotFound:
        progress(f"giving {registry.reference(digest)} to the Docker engine")
    if not any(layer.kind == "base" for layer in image.layers):
        raise TargetError(
            f"{registry.reference(digest)} has no base image, so no Python to run in a container: "
            "set TANDEM_BASE_IMAGE and build again, or use the process: target"
        )
    with tempfile.TemporaryFile() as archive:
        with tarfile.open(fileobj=archive, mode="w") as tar:
            names = []
            for layer in image.layers:
                with tempfile.TemporaryFile() as plain:
                    for chunk in decompressed(registry, layer):
                        plain.write(chunk)
                    names.append(f"{layer.diff_id.removeprefix('sha256:')}.tar")
                    _add(tar, names[-1], plain)
            with tempfile.TemporaryFile() as file:
                file.write(image.config)
                _add(tar, f"{config.removeprefix('sha256:')}.json", file)
            with tempfile.TemporaryFile() as file:
                listing = {"Config": f"{config.removeprefix('sha256:')}.json", "Layers": names}
                file.write(msgspec.json.encode([listing]))
                _add(tar, "manifest.json", file)
        archive.seek(0)
        client.images.load(archive)
    return config


def _add(tar: tarfile.TarFile, name: str, file: IO[bytes]) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = file.tell()
    file.seek(0)
    tar.addfile(entry, file)


def remove(container: Any) -> None:
    """Remove a container, running or not; one that is being removed already is removed too."""
    import docker.errors

    with contextlib.suppress(docker.errors.NotFound, docker.errors.APIError):
        container.remove(force=True, v=True)


def log_of(container: Any) -> str:
    """The last lines a container wrote."""
    return str(container.logs(tail=LOG_LINES).decode(errors="replace").strip())


# What outlives its starter is removed by this: it reads until the starter lets go of the pipe.
GUARD = """
import sys
sys.stdin.read()
import docker
client = docker.from_env()
ours = {"name": sys.argv[1]}
for found in client.containers.list(all=True, ignore_removed=True, filters=ours):
    found.remove(force=True, v=True)
"""

# One connection to a container that has no network: run inside of it, from its loopback to ours.
RELAY = """
import os, socket, sys, threading, time
end = time.monotonic() + float(sys.argv[2])
while True:
    try:
        service = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
        break
    except OSError:
        if time.monotonic() > end:
            sys.exit(1)
        time.sleep(0.005)
def ask():
    while data := os.read(0, 65536):
        service.sendall(data)
    service.shutdown(socket.SHUT_WR)
threading.Thread(target=ask, daemon=True).start()
while data := service.recv(65536):
    while data:
        data = data[os.write(1, data):]
"""
RELAY_WAIT = 5.0
"""Seconds for which one relay waits for the service to listen, so that not every look is a new
one."""


@contextlib.contextmanager
def run_container_once(
    registry: Registry, digest: str, *, state: Path, env: Mapping[str, str], deadline: float
) -> Iterator[str]:
    """The image as a container of this context, without any network; see `run_once`."""
    del state  # the engine remembers by labels
    name = f"tandem-once-{secrets.token_hex(6)}"
    told = {"HOST": HOST, "PORT": str(PORT), "TANDEM_IMAGE_DIGEST": digest}
    with engine() as client, _ends_with_us(name):
        _sweep(client)
        image = ensure_image(client, registry, digest, lambda line: None)
        container = client.containers.create(
            image,
            name=name,
            labels={LABEL: "once", OWNER: processes.identity()},
            network_mode="none",
            environment={**env, **told},
            **confined(),
        )
        try:
            _start(container)
            with _relayed(container) as url:
                try:
                    service.wait_ready(url, deadline, lambda: _ended(container))
                except TargetError as problem:
                    said = log_of(container)
                    raise type(problem)(
                        f"{registry.reference(digest)} does not start: {problem}"
                        + (f"; its last log lines:\n{said}" if said else "; it logged nothing")
                    ) from None
                with judged_by_its_end(lambda: _ended(container)):
                    yield url
        finally:
            remove(container)


@contextlib.contextmanager
def _relayed(container: Any) -> Iterator[str]:
    """A port of this machine that leads to the container's loopback."""
    import socketserver

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(Exception):
                _relay(container, self.request)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = False  # closing waits for each: none may use the engine after its client

    with Server((HOST, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://{HOST}:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
            # Connections that are still open end with the container.
            remove(container)


def _relay(container: Any, client: socket.socket) -> None:
    """Pass one connection on through a program in the container."""
    import docker.errors
    from docker.utils.socket import frames_iter

    api = container.client.api
    argv = ["python3", "-I", "-S", "-c", RELAY, str(PORT), str(RELAY_WAIT)]
    program = api.exec_create(container.id, argv, stdin=True)
    try:
        inside = api.exec_start(program["Id"], socket=True)
    except docker.errors.APIError as problem:
        # The container has just ended; docker-py would leave the connection open.
        if problem.response is not None:
            problem.response.close()
        return
    raw = getattr(inside, "_sock", inside)

    def ask_it() -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                raw.sendall(data)
            raw.shutdown(socket.SHUT_WR)

    asking = threading.Thread(target=ask_it)
    asking.start()
    try:
        for stream, data in frames_iter(inside, tty=False):
            if stream == 1:
                client.sendall(data)
    finally:
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            raw.shutdown(socket.SHUT_RDWR)
        asking.join()
        # docker-py hands out three layers around one socket, and each holds it open.
        for layer in (inside, raw, getattr(inside, "_response", None)):
            if layer is not None:
                layer.close()


def _ended(container: Any) -> TargetError | None:
    container.reload()
    return _how_ended(container)


@contextlib.contextmanager
def _ends_with_us(name: str) -> Iterator[None]:
    guard = subprocess.Popen(
        [sys.executable, "-c", GUARD, name],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    try:
        yield
    finally:
        guard.kill()
        guard.wait()
        cast(IO[bytes], guard.stdin).close()


def sweep_containers() -> list[str]:
    """Remove what checks left whose process is no more; a line each."""
    with engine() as client:
        return _sweep(client)


def _sweep(client: Any) -> list[str]:
    ours = {"label": f"{LABEL}=once"}
    said = []
    for found in client.containers.list(all=True, ignore_removed=True, filters=ours):
        is_alive = processes.alive(found.labels.get(OWNER, ""))
        # Of another machine or container nothing is known, but no check takes that long.
        if is_alive is False or (is_alive is None and _age(client, found) > ONCE_AT_MOST):
            remove(found)
            said.append(f"the check {found.name} was cut off: removed it")
    return said


def _age(client: Any, container: Any) -> float:
    """Seconds since it was created, by the engine's own clock."""
    now, created = (
        datetime.fromisoformat(text)
        for text in (client.info()["SystemTime"], container.attrs["Created"])
    )
    return (now - created).total_seconds()
