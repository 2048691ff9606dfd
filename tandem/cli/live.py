"""Commands about what is live: release, dev, status, stop."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import click
import msgspec

from tandem.cli.options import app_name, as_json, find_app, one_line, open_project
from tandem.cli.tables import print_detail, print_rows

if TYPE_CHECKING:
    from tandem.release.records import ModelRef


@click.command()
@app_name
@as_json
@one_line
def release(name: str | None, as_json: bool) -> None:
    """Train, build and release what is new, by Dagster's own jobs."""
    app = find_app(name)
    # A program of its own: only what runs jobs imports Dagster.
    words = ["release", "--app", app.name, *(["--json"] if as_json else [])]
    raise SystemExit(subprocess.run([sys.executable, "-m", "tandem.dagster", *words]).returncode)


@click.command()
@click.option("--port", default=3000, show_default=True, help="Where the UI listens on 127.0.0.1.")
def dev(port: int) -> None:
    """Dagster's UI and daemon, sensors and schedule on; Ctrl-C ends all of it."""
    words = [sys.executable, "-m", "tandem.dagster", "dev", "--port", str(port)]
    raise SystemExit(subprocess.run(words).returncode)


@click.command()
@app_name
@as_json
@one_line
def status(name: str | None, as_json: bool) -> None:
    """What is live, since when, from what."""
    from tandem.release import status

    project = open_project(name)
    found = status.status(project)
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(found), indent=2))
    elif found is None:
        click.echo(f"nothing is live at {project.target.name}: `tandem release` puts it there")
    else:
        rows = [
            ("release", "none recorded" if found.release is None else str(found.release)),
            ("live at", found.url),
            ("since", found.since),
        ]
        if found.app and found.model:
            rows += [
                ("commit", f"{found.app.commit[:10]} {found.app.subject}"),
                ("model", _model(found.model)),
            ]
        rows += [("image", found.image.digest), ("target", found.target)]
        if found.trigger:
            rows.append(("why", f"{found.trigger}: {'; '.join(found.changed)}"))
        rows += [
            ("passed over", f"{skipped.what} {skipped.which[:19]}: {skipped.reason}")
            for skipped in found.passed_over
        ]
        rows += [("problem", text) for text in found.problems]
        print_rows(rows)
        for title, value in found.detail.items():
            print_detail(title, value)
    if found is None:
        raise SystemExit(3)


@click.command()
@app_name
@as_json
@one_line
def stop(name: str | None, as_json: bool) -> None:
    """Stop the live service."""
    project = open_project(name)
    stopped = project.target.stop(
        progress=lambda text: None if as_json else click.echo(text, err=True)
    )
    if as_json:
        click.echo(json.dumps({"stopped": stopped}))
    else:
        click.echo("stopped" if stopped else f"nothing was live at {project.target.name}")


def _model(model: ModelRef) -> str:
    if model.is_none:
        return "none: code alone"
    values = ", ".join(f"{name} {value:.4f}" for name, value in list(model.metrics.items())[:2])
    return f"v{model.version}" + (f" ({values})" if values else "")
