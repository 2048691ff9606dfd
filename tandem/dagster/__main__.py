"""`python -m tandem.dagster`: release what is new, or start UI and daemon."""

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec

from tandem import settings
from tandem.dagster.signals import heed_sigterm
from tandem.errors import TandemError
from tandem.release.app import choose_app, find_apps


@click.group()
def main() -> None:
    """Tandem's jobs from the command line."""


@main.command()
@click.option("--app", "name", default=None, help="The app; by default this folder's.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def release(name: str | None, as_json: bool) -> None:
    """Train, build and release what is new."""
    heed_sigterm()
    try:
        settings.load()
        raise SystemExit(_release(name, as_json))
    except TandemError as problem:
        click.echo(f"tandem: {problem}", err=True)
        raise SystemExit(1) from None


@main.command()
@click.option("--port", default=3000, show_default=True, help="Where the UI listens on 127.0.0.1.")
def dev(port: int) -> None:
    """Dagster's UI and daemon, sensors and schedule on; Ctrl-C ends all of it."""
    try:
        settings.load()
        dagster_home()
        _port_is_free(port)
        _end_dead_runs()
    except TandemError as problem:
        click.echo(f"tandem: {problem}", err=True)
        raise SystemExit(1) from None
    program = str(Path(sys.executable).with_name("dagster"))
    # A shell ignores Ctrl-C for what it starts in the background, and Dagster would keep to that.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    subprocess.Popen([sys.executable, "-m", "tandem.dagster.watchdog", str(os.getpid())])
    # Replaced, not wrapped: a signal reaches Dagster itself.
    os.execv(  # noqa: S606
        program,
        [program, "dev", *_location(), "-h", "127.0.0.1", "-p", str(port)],
    )


def _location() -> list[str]:
    """Where `dagster dev` finds the definitions: a workspace, else this folder."""
    workspace = Path("workspace.yaml")
    return ["-w", str(workspace)] if workspace.exists() else ["-m", "tandem.dagster.location"]


def _end_dead_runs() -> None:
    from tandem.dagster import recovery
    from tandem.dagster.resources import Tandem
    from tandem.release.clean_up import sweep

    with recovery.opened(dagster_home()) as instance:
        for ended in recovery.end_dead_runs(instance):
            click.echo(f"ended {ended}", err=True)
    for app in find_apps(Path.cwd()):
        for swept in sweep(Tandem().project(app)):
            click.echo(swept, err=True)


def _port_is_free(port: int) -> None:
    import socket

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as problem:
            raise TandemError(
                f"port {port} of 127.0.0.1 cannot be used ({problem.strerror}): make dev PORT=3001"
            ) from None


def _release(name: str | None, as_json: bool) -> int:
    say = _Console(quiet=as_json)
    say.line("starting Dagster")
    home = dagster_home()
    from tandem.dagster import recovery
    from tandem.dagster.definitions import build_defs
    from tandem.dagster.release_command import release_needed
    from tandem.dagster.resources import Tandem
    from tandem.release.status import status

    apps = find_apps(Path.cwd())
    app = choose_app(apps, name, Path.cwd())
    tandem = Tandem()
    project = tandem.project(app)
    with recovery.opened(home) as instance, say.follow():
        outcome = release_needed(build_defs(apps), app, project, instance, say=say.line)
    found = status(project)
    if as_json:
        answer = {**msgspec.to_builtins(outcome), "status": msgspec.to_builtins(found)}
        click.echo(json.dumps(answer, indent=2))
    else:
        say.result(project, found, outcome)
    return 0 if outcome.good and found is not None else 1


def dagster_home() -> Path:
    """DAGSTER_HOME, by default below the state folder, with a dagster.yaml in it.

    That of the folder where there is one, else Tandem's own.
    """
    home = Path(os.environ.setdefault("DAGSTER_HOME", str(Path(".tandem/dagster").absolute())))
    if not home.is_absolute():
        raise TandemError(f"DAGSTER_HOME={home} is relative: expected an absolute path")
    own = Path("dagster.yaml").absolute()
    ours = own if own.exists() else Path(__file__).resolve().with_name("dagster.yaml")
    try:
        home.mkdir(parents=True, exist_ok=True)
        theirs = home / "dagster.yaml"
        if theirs.is_symlink() and theirs.readlink() != ours:
            theirs.unlink()  # of a checkout elsewhere
        if not theirs.exists():
            theirs.symlink_to(ours)
    except OSError as problem:
        raise TandemError(f"DAGSTER_HOME={home} cannot be written: {problem.strerror}") from None
    return home


class _Console(logging.Handler):
    """What a person sees while it runs: the core's own progress, then a short table."""

    def __init__(self, *, quiet: bool) -> None:
        super().__init__(logging.INFO)
        self._quiet = quiet
        self._started = time.monotonic()

    def line(self, text: str) -> None:
        """One line with the seconds since the start."""
        if not self._quiet:
            click.echo(f"{time.monotonic() - self._started:6.1f} s  {text}", err=True)

    def emit(self, record: logging.LogRecord) -> None:
        """A line of the core's log."""
        self.line(f"  {record.getMessage()}")

    @contextlib.contextmanager
    def follow(self) -> Iterator[None]:
        """Show the core's log, and nothing of Dagster's."""
        logger = logging.getLogger("tandem")
        logger.setLevel(logging.INFO)
        logger.addHandler(self)
        try:
            yield
        finally:
            logger.removeHandler(self)

    def result(self, project: Any, found: Any, outcome: Any) -> None:
        """The table at the end."""
        for ran in outcome.jobs:
            if not ran.success:
                click.echo(f"{ran.job} failed: {ran.error}", err=True)
        if not outcome.changed:
            click.echo(outcome.reason)
        if found is None:
            click.echo(f"nothing is live at {project.target.name}")
            return
        record = project.ledger.releases.latest()
        rows = [("release", str(found.release))]
        if found.app and found.model:
            metric = found.model.metrics.get(project.rule.metric)
            accuracy = f", {project.rule.metric} {metric:.4f} on held-out data" if metric else ""
            rows += [
                ("commit", f"{found.app.commit[:10]}  {found.app.subject}"),
                ("model", f"{found.model}{accuracy}".removeprefix("model ")),
            ]
        rows.append(("image", found.image.digest))
        if record:
            rows.append(("tests", record.tests))
            rows.append(("checks", ", ".join(p.name for p in record.proofs if p.passed)))
        rows += [("passed over", f"{p.what} {p.which[:10]}: {p.reason}") for p in found.passed_over]
        rows.append(("url", found.url))
        seconds = [f"{name} {took:.1f}" for ran in outcome.jobs for name, took in ran.steps.items()]
        if seconds:
            rows.append(("seconds", ", ".join(seconds)))
        width = max(len(name) for name, _ in rows)
        for label, value in rows:
            click.echo(f"{label:<{width}}  {value}")


if __name__ == "__main__":
    sys.exit(main())
