"""Commands about models: publish, list, compare, accept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from tandem.cli.options import app_name, as_json, find_app, one_line, open_project
from tandem.cli.tables import print_table
from tandem.errors import SettingError

if TYPE_CHECKING:
    from tandem.release.versions_table import Entry


@click.command()
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@app_name
@click.option(
    "--sample", type=click.Path(exists=True, path_type=Path), help="Rows, for ONNX (JSON)."
)
@as_json
@one_line
def publish(path: Path, name: str | None, sample: Path | None, as_json: bool) -> None:
    """Publish a model package (a folder) or an ONNX file as the next version."""
    from tandem.model.publish import publish as publish_model

    app = find_app(name)
    version = publish_model(
        path,
        name=app.name,
        sample=msgspec.json.decode(sample.read_bytes()) if sample else None,
        store=open_project(name).store,
        progress=not as_json,
    )
    if as_json:
        published = {"name": app.name, "version": version.number, "digest": version.digest}
        click.echo(json.dumps(published))
    else:
        click.echo(f"{app.name} v{version.number} {version.digest}")


@click.group(invoke_without_command=True)
@app_name
@click.option("--limit", default=20, show_default=True, help="How many versions.")
@as_json
@click.pass_context
@one_line
def models(context: click.Context, name: str | None, limit: int, as_json: bool) -> None:
    """List the versions of the app's model; `diff` compares two."""
    if context.invoked_subcommand:
        context.obj = (name, as_json)
        return
    from tandem.release import versions_table

    project = open_project(name)
    versions = versions_table.entries(project, limit=limit)
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(versions), indent=2))
        return
    if not versions:
        click.echo(f"no model {project.app} is published yet")
        return
    print_table(
        ["version", "published", "by", "metrics", "releases", "", "verdict"],
        [_row(version) for version in versions],
    )


@models.command()
@click.argument("before", metavar="A")
@click.argument("after", metavar="B")
@app_name
@as_json
@click.pass_context
@one_line
def diff(context: click.Context, before: str, after: str, name: str | None, as_json: bool) -> None:
    """What differs between versions A and B, like 3 and 4."""
    from tandem.release import versions_table

    outer_name, outer_json = context.obj
    one, other = _number(before), _number(after)
    project = open_project(name or outer_name)
    changes = versions_table.difference(project, one, other)
    if as_json or outer_json:
        click.echo(json.dumps(msgspec.to_builtins(changes), indent=2))
    elif not changes:
        click.echo(f"v{one} and v{other} are the same")
    else:
        rows = [[change.what, change.before, change.after] for change in changes]
        print_table(["", f"v{one}", f"v{other}"], rows)


@click.command()
@click.argument("version", type=int)
@app_name
@click.option("--by", required=True, help="Your name; it stays in the record.")
@click.option("--reason", required=True, help="Why; it stays in the record.")
@one_line
def accept(version: int, name: str | None, by: str, reason: str) -> None:
    """Accept model VERSION although it is not good enough."""
    from tandem.model import acceptance

    project = open_project(name)
    verdict = acceptance.overrule(project.models, version, by=by, reason=reason)
    click.echo(f"{project.app} v{version} is accepted: {verdict.reason}")


def _number(text: str) -> int:
    number = text.removeprefix("v")
    if not (number.isascii() and number.isdigit()):
        raise SettingError(f"{text} is not a version: expected a number, like 3 or v3")
    return int(number)


def _row(entry: Entry) -> list[str]:
    return [
        f"v{entry.version}",
        entry.created[:16].replace("T", " "),
        entry.publisher[:24],
        ", ".join(f"{name} {value:.4f}" for name, value in list(entry.metrics.items())[:2]),
        ",".join(map(str, entry.releases[-3:])),
        " ".join([*(["live"] if entry.live else []), *(["champion"] if entry.champion else [])]),
        entry.verdict[:60],
    ]
