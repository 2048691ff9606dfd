"""What a person sees on asset pages."""

from __future__ import annotations

import base64
import io

import dagster as dg
import PIL.Image
import pytest

from tandem.dagster import plots
from tandem.dagster.sensors import report_news
from tandem.model.metrics import Bin
from tandem.source import Source


def page_of(way, asset: str) -> dict:
    event = way.instance.get_latest_materialization_event(dg.AssetKey(["tiny", asset]))
    return dict(event.asset_materialization.metadata)


def drawn(value: dg.MarkdownMetadataValue) -> PIL.Image.Image:
    assert value.md_str.startswith("![")
    data = value.md_str.partition("base64,")[2].removesuffix(")")
    picture = PIL.Image.open(io.BytesIO(base64.b64decode(data)))
    picture.load()
    return picture


@pytest.mark.parametrize("job", ["image", "build"])
def test_a_model_from_elsewhere_is_shown_with_what_its_judging_measured(way, job: str) -> None:
    way.tiny.commit("one")
    way.run("build")
    version = way.tiny.publish(1.0)
    report_news(way.instance, way.tiny.app, way.tiny.project)
    assert "confusion_matrix" not in page_of(way, "model"), "not judged yet"
    assert way.run(job).success
    model = dg.AssetKey(["tiny", "model"])
    reported = way.instance.fetch_materializations(model, limit=10).records
    assert len(reported) == 1, "one version is one materialization"
    check = way.instance.event_log_storage.get_asset_check_execution_history(
        dg.AssetCheckKey(model, "good_enough"), limit=1
    )[0]
    shown = check.event.dagster_event.asset_check_evaluation_data.metadata
    assert min(drawn(shown["confusion_matrix"]).size) > 300
    observed = way.instance.fetch_observations(model, limit=10).records
    page = dict(observed[0].asset_observation.metadata)
    assert page["version"].value == version.number
    for name in ("confusion_matrix", "calibration"):
        assert min(drawn(page[name]).size) > 300
    assert page["one_prediction_onnx_us"].value > 0
    measured = {row.data["metric"]: row.data["value"] for row in page["measured"].records}
    assert measured["accuracy"] == "1.00000"
    assert page["measured_rows"].value == 200
    assert page["measured_rows_of"].value == "its publisher, as there are no others"
    record = way.instance.get_latest_data_version_record(dg.AssetKey(["tiny", "model"]))
    assert record.asset_materialization.tags["dagster/data_version"] == version.digest


def test_image_and_deployment_lead_to_what_they_are_made_of(way, monkeypatch) -> None:
    page = "https://git.example/a/b/commit/"
    monkeypatch.setattr(Source, "page", lambda _, sha: page + sha)
    sha = way.tiny.commit("one")
    way.tiny.publish()
    report_news(way.instance, way.tiny.app, way.tiny.project)
    assert way.run("build").success
    assert way.run("release").success
    assert page_of(way, "commit")["page"].value == page + sha
    for asset in ("image", "deployment", "release"):
        shown = page_of(way, asset)
        assert shown["commit"].md_str == f"[{sha}]({page}{sha})"
        assert shown["model"].value == "tiny v1"
        assert shown["model_page"].asset_key == dg.AssetKey(["tiny", "model"])
        assert shown["model_link"].value.endswith("models/tiny/versions/000001.json")
    assert page_of(way, "deployment")["image_page"].asset_key == dg.AssetKey(["tiny", "image"])


def test_a_commit_without_a_page_is_its_hash(way) -> None:
    sha = way.tiny.commit("one")
    way.tiny.publish()
    report_news(way.instance, way.tiny.app, way.tiny.project)
    assert way.run("build").success
    assert page_of(way, "image")["commit"].value == sha
    assert "page" not in page_of(way, "commit")


def test_a_publishers_labels_are_drawn_as_they_are() -> None:
    labels = ["$\\frac{", "a\nb", "数" * 40, "", "x" * 1000]
    counts = [[int(row == column) for column in range(5)] for row in range(5)]
    picture = PIL.Image.open(io.BytesIO(plots.confusion(counts, labels)))
    assert max(picture.size) < 1000


@pytest.mark.parametrize("labels", [2, 100])
def test_pictures_are_the_same_for_the_same_numbers(labels: int) -> None:
    counts = [[row * column for column in range(labels)] for row in range(labels)]
    names = [str(number) for number in range(labels)]
    first = plots.confusion(counts, names)
    assert first == plots.confusion(counts, names)
    assert max(PIL.Image.open(io.BytesIO(first)).size) < 1500
    bins = [Bin(claimed=0.95, right=0.9, rows=20)]
    assert plots.calibration(bins) == plots.calibration(bins)
