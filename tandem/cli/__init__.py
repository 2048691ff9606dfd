"""The `tandem` command: what is live, publish a model, release, stop."""

from __future__ import annotations

import functools
import json
import logging
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from tandem.errors import TandemError

if TYPE_CHECKING:
    from tandem.oci import Registry
    from tandem.release.project import Project

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


def _default_app() -> str:
    try:
        table = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))
        return str(table["tool"]["tandem"]["app"]["name"])
    except (OSError, KeyError, tomllib.TOMLDecodeError):
        return "digits"


_APP = click.option(
    "--app",
    default=_default_app,
    show_default="the one that pyproject.toml names",
    help="The app that is meant.",
)


def _one_line(command: Callable[..., Any]) -> Callable[..., Any]:
    """Show a `TandemError` as one line and end with 1; a traceback goes nowhere but the log."""

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> Any:
        try:
            return command(*arguments, **options)
        except TandemError as problem:
            logging.getLogger("tandem").debug("refused", exc_info=True)
            click.echo(f"tandem: {problem}", err=True)
            raise SystemExit(1) from None

    return run


def _project(app: str) -> Project:
    from tandem import settings
    from tandem.release.project import Project

    return Project(app, settings.load())


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tandem")
@click.option("-v", "--verbose", is_flag=True, help="Say more of what is done.")
def main(verbose: bool) -> None:
    """Release an app's latest tested code together with its latest model."""
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.WARNING, format="%(message)s", stream=sys.stderr
    )


@main.command()
@_APP
@_JSON
@_one_line
def status(app: str, as_json: bool) -> None:
    """What is live, since when, from what."""
    from tandem.release.status import status as ask

    project = _project(app)
    found = ask(project)
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
                ("model", _model_words(found.model.version, found.model.metrics)),
            ]
        rows += [("image", found.image.digest), ("target", found.target)]
        if found.trigger:
            rows.append(("why", f"{found.trigger}: {'; '.join(found.changed)}"))
        rows += [("passed over", f"{p.what} {p.which[:19]}: {p.reason}") for p in found.passed_over]
        rows += [("problem", text) for text in found.problems]
        _print_rows(rows)
        for name, value in found.detail.items():
            _print_detail(name, value)
    if found is None:
        raise SystemExit(3)


@main.command()
@_APP
@_JSON
@_one_line
def stop(app: str, as_json: bool) -> None:
    """Stop the live service."""
    project = _project(app)
    stopped = project.target.stop(progress=lambda text: _say(text, quiet=as_json))
    if as_json:
        click.echo(json.dumps({"stopped": stopped}))
    else:
        click.echo("stopped" if stopped else f"nothing was live at {project.target.name}")


@main.command()
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@_APP
@click.option(
    "--sample", type=click.Path(exists=True, path_type=Path), help="Rows, for ONNX (JSON)."
)
@_JSON
@_one_line
def publish(path: Path, app: str, sample: Path | None, as_json: bool) -> None:
    """Publish a model package (a folder) or an ONNX file as the next version."""
    from tandem.model.publish import publish as publish_model

    project = _project(app)
    version = publish_model(
        path,
        name=app,
        sample=msgspec.json.decode(sample.read_bytes()) if sample else None,
        store=project.store,
        progress=not as_json,
    )
    if as_json:
        click.echo(json.dumps({"name": app, "version": version.number, "digest": version.digest}))
    else:
        click.echo(f"{app} v{version.number} {version.digest}")


@main.command()
@_JSON
def release(as_json: bool) -> None:
    """Train, build and release what is new, by Dagster's own jobs."""
    # A program of its own: nothing in `tandem` imports Dagster.
    command = [sys.executable, "-m", "orchestration", "release", *(["--json"] if as_json else [])]
    raise SystemExit(subprocess.run(command, env=os.environ | _dagster_home()).returncode)


@main.command()
@click.argument("image")
@click.option("--deep", is_flag=True, help="Read every layer to its end and compare its digest.")
@_JSON
@_one_line
def verify(image: str, deep: bool, as_json: bool) -> None:
    """Check all that can be known of IMAGE (a digest, a tag, or HOST/REPOSITORY@DIGEST)."""
    from tandem import settings
    from tandem.oci import open_registry
    from tandem.oci.attest import checking_key
    from tandem.oci.attest import verify as check
    from tandem.oci.remote import open_reference

    registry: Registry
    if "/" in image:
        registry, reference = open_reference(image)
    else:
        registry, reference = open_registry(settings.load().registry), image
    report = check(registry, reference, key=checking_key(), deep=deep)
    if as_json:
        click.echo(json.dumps({**msgspec.to_builtins(report), "ok": report.ok}, indent=2))
    else:
        click.echo(report.reference)
        for finding in report.findings:
            mark = {True: "ok", False: "MISSING", None: "-"}[finding.ok]
            click.echo(f"  {mark:<8}{finding.name}: {finding.text}")
    if not report.ok:
        raise SystemExit(1)


@main.command()
@click.argument("what", nargs=-1)
@_APP
@click.option("--limit", default=20, show_default=True, help="How many versions.")
@_JSON
@_one_line
def models(what: tuple[str, ...], app: str, limit: int, as_json: bool) -> None:
    """List the versions of model [NAME], or compare two: `tandem models diff 3 4`."""
    from tandem.release import versions_table

    if what[:1] == ("diff",):
        if len(what) != 3 or not all(number.lstrip("v").isdecimal() for number in what[1:]):
            raise TandemError("`tandem models diff` takes two version numbers, like 3 4")
        before, after = (int(number.lstrip("v")) for number in what[1:])
        changed = versions_table.difference(_project(app), before, after)
        if as_json:
            click.echo(json.dumps(msgspec.to_builtins(changed), indent=2))
        elif not changed:
            click.echo(f"v{before} and v{after} say the same")
        else:
            _print_table(
                ["", f"v{before}", f"v{after}"], [[c.what, c.before, c.after] for c in changed]
            )
        return
    if len(what) > 1:
        raise TandemError("`tandem models` takes one NAME, or: diff A B")
    found = versions_table.entries(_project(what[0] if what else app), limit=limit)
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(found), indent=2))
        return
    if not found:
        click.echo(f"no model {what[0] if what else app} is published yet")
        return
    _print_table(
        ["version", "published", "by", "metrics", "releases", "", "verdict"],
        [
            [
                f"v{one.version}",
                one.created[:16].replace("T", " "),
                one.publisher[:24],
                ", ".join(f"{name} {value:.4f}" for name, value in list(one.metrics.items())[:2]),
                ",".join(map(str, one.releases[-3:])),
                " ".join(
                    word for word, true in (("live", one.live), ("champion", one.champion)) if true
                ),
                one.verdict[:60],
            ]
            for one in found
        ],
    )


@main.command()
@click.argument("version", type=int)
@_APP
@click.option("--by", required=True, help="Your name; it stays in the record.")
@click.option("--reason", required=True, help="Why; it stays in the record.")
@_one_line
def accept(version: int, app: str, by: str, reason: str) -> None:
    """Accept model VERSION although it is not good enough."""
    from tandem.model import acceptance

    verdict = acceptance.overrule(_project(app).models, version, by=by, reason=reason)
    click.echo(f"{app} v{version} is accepted: {verdict.reason}")


@main.command()
@_APP
@_one_line
def manifests(app: str) -> None:
    """Print what a release applies to the Kubernetes target, as YAML."""
    from tandem.release import steps

    project = _project(app)
    if not hasattr(project.target, "manifests"):
        raise TandemError(
            f"{project.target.name} has no manifests: set TANDEM_TARGET=k8s://CONTEXT/NAMESPACE"
        )
    click.echo(project.target.manifests(steps.next_deployment(project)), nl=False)


@main.command()
@_APP
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@_JSON
@_one_line
def prune(app: str, dry_run: bool, as_json: bool) -> None:
    """Remove images and model versions beyond TANDEM_KEEP that no release names."""
    from tandem.release import steps

    done = steps.prune(_project(app), dry_run=dry_run)
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(done), indent=2))
        return
    would = "would remove" if dry_run else "removed"
    for digest in done.images:
        click.echo(f"{would} image {digest}")
    for number in done.models:
        click.echo(f"{would} model v{number}")
    click.echo(f"{would} {done.image_bytes / 1e6:.1f} MB of layers")


def _dagster_home() -> dict[str, str]:
    return (
        {}
        if os.environ.get("DAGSTER_HOME")
        else {"DAGSTER_HOME": str(Path(".tandem/dagster").absolute())}
    )


def _model_words(version: int, metrics: dict[str, float]) -> str:
    told = ", ".join(f"{name} {value:.4f}" for name, value in list(metrics.items())[:2])
    return f"v{version}" + (f" ({told})" if told else "")


def _print_rows(rows: list[tuple[str, str]]) -> None:
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        click.echo(f"{name:<{width}}  {value}")


def _print_detail(name: str, value: Any) -> None:
    """What only the target knows: pods, a rollout's timeline, events, lines to copy."""
    if not isinstance(value, list) or not value:
        return
    click.echo(f"\n{name}")
    if all(isinstance(row, dict) for row in value):
        head = list(dict.fromkeys(key for row in value for key in row))
        rows = [[str(row.get(key, "")) for key in head] for row in value]
        _print_table(head, rows)
    else:
        for line in value:
            click.echo(f"  {line}")


def _print_table(head: list[str], rows: list[list[str]]) -> None:
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    for row in [head, *rows]:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())


def _say(text: str, *, quiet: bool = False) -> None:
    if not quiet:
        click.echo(text, err=True)


if __name__ == "__main__":
    main()
