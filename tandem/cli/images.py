"""Commands about images: verify, manifests, prune."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click
import msgspec

from tandem.cli.options import app_name, as_json, one_line, open_project

if TYPE_CHECKING:
    from tandem.oci import Registry

_MARKS = {True: "ok", False: "MISSING", None: "-"}


@click.command()
@click.argument("image")
@click.option("--deep", is_flag=True, help="Read every layer to its end and compare its digest.")
@as_json
@one_line
def verify(image: str, deep: bool, as_json: bool) -> None:
    """Check everything about IMAGE (a digest, a tag, or HOST/REPOSITORY@DIGEST)."""
    from tandem import settings
    from tandem.oci import open_registry
    from tandem.oci.attest.signature import checking_key
    from tandem.oci.attest.verify import verify as verify_image
    from tandem.oci.remote.client import open_reference

    registry: Registry
    if "/" in image:
        registry, reference = open_reference(image)
    else:
        registry, reference = open_registry(settings.load().registry), image
    report = verify_image(registry, reference, key=checking_key(), deep=deep)
    if as_json:
        click.echo(json.dumps({**msgspec.to_builtins(report), "ok": report.ok}, indent=2))
    else:
        click.echo(report.reference)
        for finding in report.findings:
            click.echo(f"  {_MARKS[finding.ok]:<8}{finding.name}: {finding.text}")
    if not report.ok:
        raise SystemExit(1)


@click.command()
@app_name
@one_line
def manifests(name: str | None) -> None:
    """Print what a release applies to the Kubernetes target, as YAML."""
    from tandem.release.deploy import next_deployment

    project = open_project(name)
    click.echo(project.target.manifests(next_deployment(project)), nl=False)


@click.command()
@app_name
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@as_json
@one_line
def prune(name: str | None, dry_run: bool, as_json: bool) -> None:
    """Remove images and model versions beyond TANDEM_KEEP that no release names."""
    from tandem.release import clean_up

    done = clean_up.prune(open_project(name), dry_run=dry_run)
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(done), indent=2))
        return
    would = "would remove" if dry_run else "removed"
    for digest in done.images:
        click.echo(f"{would} image {digest}")
    for number in done.models:
        click.echo(f"{would} model v{number}")
    click.echo(f"{would} {done.image_bytes / 1e6:.1f} MB of layers")
