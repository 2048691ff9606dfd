"""A private process for one check, which ends with whoever asked for it."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

import msgspec

from tandem.errors import TargetError
from tandem.oci import Registry
from tandem.service import client
from tandem.targets.local.children import known
from tandem.targets.local.ports import HOST, free_port
from tandem.targets.local.process import Prepared, ProcessRunner, prepare
from tandem.targets.local.runner import PortLost, Start, judged_by_its_end
from tandem.targets.local.state import Instance
from tandem.util.clock import now
from tandem.util.files import write_whole


@contextlib.contextmanager
def run_process_once(
    registry: Registry, digest: str, start: Start, *, state: Path
) -> Iterator[str]:
    """The image as a process of this context; see `run_once`."""
    runner = ProcessRunner(state)
    runner.sweep()
    prepared = prepare(registry, digest, runner.state, lambda line: None, command=start.command)

    def started() -> contextlib.AbstractContextManager[str]:
        return _started(runner, registry.reference(digest), digest, prepared, start)

    with contextlib.ExitStack() as stack:
        try:
            url = stack.enter_context(started())
        except PortLost:
            url = stack.enter_context(started())
        yield url


@contextlib.contextmanager
def _started(
    runner: ProcessRunner, reference: str, digest: str, prepared: Prepared,
    start: Start,
) -> Iterator[str]:  # fmt: skip
    folder = runner.state / "once"
    token = secrets.token_hex(8)
    instance = Instance(
        token=token,
        digest=digest,
        reference=reference,
        release=0,
        env=dict(start.env),
        port=free_port(),
        started=now(),
        log=str(folder / f"{token}.log"),
        owner=known(os.getpid()),
    )
    record = folder / f"{token}.json"
    write_whole(record, msgspec.json.encode(instance))
    try:
        instance = runner.start(instance, prepared)
        write_whole(record, msgspec.json.encode(instance))
        with _ends_with_us(instance):
            url = f"http://{HOST}:{instance.port}"
            try:
                client.wait_ready(
                    url, start.deadline, lambda: runner.ended(instance), path=start.health
                )
            except TargetError as problem:
                logged = runner.log_tail(instance)
                raise type(problem)(
                    f"{reference} does not start: {problem}"
                    + (f"; its last log lines:\n{logged}" if logged else "; it logged nothing")
                ) from None
            with judged_by_its_end(lambda: runner.ended(instance)):
                yield url
    finally:
        runner.kill(instance)
        record.unlink(missing_ok=True)
        Path(instance.log).unlink(missing_ok=True)


@contextlib.contextmanager
def _ends_with_us(instance: Instance) -> Iterator[None]:
    """A shell that kills the instance once this process lets go of a pipe."""
    group = instance.process.pid if instance.process else 0
    guard = subprocess.Popen(
        ["/bin/sh", "-c", f"read _; kill -9 -{group}"],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={},
        start_new_session=True,
    )  # fmt: skip
    try:
        yield
    finally:
        # Ended before the instance is, so that it can never hit another group of that number.
        guard.kill()
        guard.wait()
        cast(IO[bytes], guard.stdin).close()
