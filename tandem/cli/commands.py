"""The group of all commands."""

from __future__ import annotations

import logging
import sys

import click

from tandem.cli import images, init, live, models


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tandem-release")
@click.option("-v", "--verbose", is_flag=True, help="Show more of what is done.")
def tandem(verbose: bool) -> None:
    """Release an app's latest tested code together with its latest model."""
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.WARNING, format="%(message)s", stream=sys.stderr
    )


for command in (
    init.init,
    live.release,
    live.dev,
    live.status,
    live.stop,
    models.publish,
    models.models,
    models.accept,
    images.verify,
    images.manifests,
    images.prune,
):
    tandem.add_command(command)
