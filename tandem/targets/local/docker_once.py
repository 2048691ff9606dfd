"""A private container for one check, which ends with whoever asked for it."""

from __future__ import annotations

import contextlib
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from tandem.errors import TargetError
from tandem.oci import Registry
from tandem.service import client as service
from tandem.targets.local.docker import (
    LABEL,
    OWNER,
    confined,
    how_ended,
    start_container,
    sweep_private,
)
from tandem.targets.local.docker_engine import engine, ensure_image, log_of, remove
from tandem.targets.local.docker_relay import relayed, require_python
from tandem.targets.local.ports import HOST
from tandem.targets.local.runner import Start, judged_by_its_end
from tandem.util import processes

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


@contextlib.contextmanager
def run_container_once(
    registry: Registry, digest: str, start: Start, *, state: Path
) -> Iterator[str]:
    """The image as a container of this context, without any network; see `run_once`."""
    del state  # the engine remembers by labels
    name = f"tandem-once-{secrets.token_hex(6)}"
    own = {"HOST": HOST, "PORT": str(start.port), "TANDEM_IMAGE_DIGEST": digest}
    with engine() as client, _ends_with_us(name):
        sweep_private(client)
        image = ensure_image(client, registry, digest, lambda line: None)
        container = client.containers.create(
            image,
            name=name,
            labels={LABEL: "once", OWNER: processes.identity()},
            network_mode="none",
            environment={**start.env, **own},
            entrypoint=list(start.command) or None,
            **confined(),
        )
        try:
            start_container(container)
            with relayed(container, start.port) as url:
                try:
                    service.wait_ready(
                        url, start.deadline, lambda: _ended(container), path=start.health
                    )
                except TargetError as problem:
                    require_python(container)
                    logged = log_of(container)
                    raise type(problem)(
                        f"{registry.reference(digest)} does not start: {problem}"
                        + (f"; its last log lines:\n{logged}" if logged else "; it logged nothing")
                    ) from None
                with judged_by_its_end(lambda: _ended(container)):
                    yield url
        finally:
            remove(container)


def _ended(container: Any) -> TargetError | None:
    container.reload()
    return how_ended(container)


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
