"""Assets are nouns: an app's commit, model, build, image, deployment and release."""

import dagster as dg

from tandem.dagster.assets.app_build import app_build_asset
from tandem.dagster.assets.commit import commit_asset
from tandem.dagster.assets.deployment import deployment_assets
from tandem.dagster.assets.image import image_asset
from tandem.dagster.assets.model import model_asset
from tandem.release.app import App


def build_assets(app: App) -> list[dg.AssetsDefinition | dg.AssetSpec]:
    """All assets of one app."""
    return [
        commit_asset(app),
        model_asset(app),
        app_build_asset(app),
        image_asset(app),
        deployment_assets(app),
    ]
