"""What a person sees on an asset page: metadata made of the core's values."""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from tandem.build.app_build import AppBuild
from tandem.dagster import keys, plots
from tandem.model import acceptance
from tandem.model.acceptance import Verdict
from tandem.model.metrics import Measured
from tandem.model.repository import Version
from tandem.oci import Layer, Transfer
from tandem.release.app import App
from tandem.release.deploy import Deployed
from tandem.release.pack import Packed
from tandem.release.project import Project
from tandem.release.records import ModelRef, PassedOver, ReleaseRecord

Page = dict[str, Any]


def of_build(build: AppBuild, project: Project) -> Page:
    """The commit, its tests with the failures by name, and the layers."""
    report = build.report
    page: Page = {
        "commit": _commit(build.commit, project),
        "subject": build.subject,
        "tree": build.tree,
        "tests": report.summary,
        "test_seconds": report.seconds,
        "tests_total": report.total,
    }
    if report.failures:
        page["failures"] = _table(
            [{"test": f.test, "reason": f.reason} for f in report.failures[:100]]
        )
    if not report.passed:
        page["output"] = dg.MetadataValue.md(f"```\n{report.output[-4000:]}\n```")
    if build.image:
        page["app_image"] = build.image
        page["layers"] = _layers(build.layers, build.transfers)
    if build.recipe.guessed:
        page["guessed"] = _table(
            [{"line": line, "found in": source} for line, source in build.recipe.guessed.items()]
        )
    page["asked"] = _asked(build)
    if build.left_out:
        listed = ", ".join(build.left_out[:10]) + (" …" if len(build.left_out) > 10 else "")
        page["left_out"] = f"not committed, so not built: {listed}"
    return page


def _asked(build: AppBuild) -> str:
    """What its service will be asked, so that nobody takes being alive for answering well."""
    questions = f"{len(build.asked.questions)} questions of its own"
    if build.asked.contract:
        return f"the model's recorded questions, and {questions}"
    if build.asked.questions:
        return questions
    return "only whether it is alive: its recipe has no questions"


def of_image(packed: Packed, app: App, project: Project) -> Page:
    """The digest, the pair it was made of, its layers and what was uploaded of them."""
    sent = sum(transfer.sent for transfer in packed.transfers)
    page: Page = {
        "digest": packed.digest,
        "reference": packed.reference,
        "commit": _commit(packed.app.commit, project),
        "subject": packed.app.subject,
        **_model(packed.model, app, project),
        "model_digest": packed.model.digest,
        "tests": packed.tests,
        "layers": _layers(packed.layers, packed.transfers),
        "bytes_sent": sent,
        "bill_of_materials": f"{packed.components} libraries, beside the image as CycloneDX",
        "image_bytes": sum(layer.descriptor.size for layer in packed.layers),
        "seconds": packed.seconds,
    }
    if not packed.reference.startswith("oci:"):
        page["pull"] = dg.MetadataValue.md(f"`docker pull {packed.reference}`")
    return page | _passed_over(packed.passed_over)


def of_deployment(deployed: Deployed, app: App, project: Project) -> Page:
    """Where it is live, since when, from which pair."""
    live, image = deployed.live, deployed.image
    page: Page = {
        "url": dg.MetadataValue.url(live.url),
        "digest": live.digest,
        "since": live.since,
        "image": image.reference,
        "image_page": dg.MetadataValue.asset(keys.key(app, "image")),
        "commit": _commit(image.app.commit, project),
        **_model(image.model, app, project),
        "changed": deployed.changed,
        "seconds": deployed.seconds,
    }
    # What only this target knows: a table, lines to copy, or a value.
    for name, value in deployed.details.items():
        if isinstance(value, list) and value and all(isinstance(row, Mapping) for row in value):
            page[name] = _table([_flat(row) for row in value])
        elif isinstance(value, list):
            if value:
                page[name] = dg.MetadataValue.md("```\n" + "\n".join(map(str, value)) + "\n```")
        elif isinstance(value, Mapping):
            page[name] = dg.MetadataValue.json(dict(value))
        elif value is not None:
            page[name] = value
    return page | _passed_over(deployed.passed_over)


def of_release(record: ReleaseRecord, app: App, project: Project) -> Page:
    """The record, and what it changed."""
    page: Page = {
        "release": record.number,
        "time": record.time,
        "trigger": record.trigger,
        "url": dg.MetadataValue.url(record.url),
        "commit": _commit(record.app.commit, project),
        **_model(record.model, app, project),
        "image": record.image,
        "tests": record.tests,
        "changed": dg.MetadataValue.md("\n".join(f"- {line}" for line in record.changed)),
        "checks": _table(
            [{"check": p.name, "passed": p.passed, "summary": p.summary} for p in record.proofs]
        ),
        "target": record.target,
    }
    if record.model.overruled:
        page["model_accepted_by"] = record.model.overruled
    return page | _passed_over(record.passed_over)


def of_training(trained: Any, project: Project) -> Page:
    """A version that was trained here, with what only the training knows."""
    return of_version(trained.version, project, trained.measured) | {
        "training_seconds": trained.seconds
    }


def of_version(version: Version, project: Project, measured: Measured | None = None) -> Page:
    """A model version: who published it, how good and how fast it is, and where it is.

    Without `measured`, what its judging found on its held-out rows, once it was judged.
    """
    manifest = version.manifest
    champion = project.ledger.releases.latest()
    verdict = acceptance.verdict(project.models, version.number)
    if measured is None and verdict is not None:
        measured = verdict.measured
    page: Page = {
        "version": version.number,
        "digest": version.digest,
        "link": _link(project.models.url(version.number)),
        "publisher": version.publisher,
        "created": version.created,
        "runtime": f"{manifest.runtime}: {manifest.runtime_reason}",
        "metrics": _metrics(manifest.metrics, champion.model if champion else None),
        "size_bytes": sum(file.size for file in manifest.files),
    }
    if manifest.evaluation and manifest.evaluation.description:
        page["validation"] = manifest.evaluation.description
    return page | (_measured(measured, verdict) if measured else {})


def of_judging(project: Project) -> Page:
    """What the judging of the newest version measured."""
    version = project.models.latest()
    verdict = acceptance.verdict(project.models, version.number) if version else None
    return _measured(verdict.measured, verdict) if verdict and verdict.measured else {}


def _measured(measured: Measured, verdict: Verdict | None) -> Page:
    page: Page = {}
    if measured.metrics:
        theirs = f"champion v{verdict.champion}" if verdict and measured.champion else ""
        rows = []
        for name, value in measured.metrics.items():
            row: dict[str, Any] = {"metric": name, "value": f"{value:.5f}"}
            if theirs:
                known = measured.champion.get(name)
                row[theirs] = "-" if known is None else f"{known:.5f}"
            rows.append(row)
        page["measured"] = _table(rows)
        page["measured_rows"] = measured.rows
        if measured.whose:
            page["measured_rows_of"] = measured.whose
    if measured.confusion:
        drawn = plots.confusion(measured.confusion, measured.labels)
        page["confusion_matrix"] = picture(drawn, "confusion matrix")
    if measured.calibration:
        page["calibration"] = picture(plots.calibration(measured.calibration), "calibration")
    if (speed := measured.speed) is not None:
        if speed.sklearn is not None:
            page["one_prediction_scikit_learn_us"] = speed.sklearn
        if speed.onnx is not None:
            page["one_prediction_onnx_us"] = speed.onnx
    return page


def picture(png: bytes, name: str) -> dg.MetadataValue:
    """A PNG as Markdown that carries it, so that the page needs no other server."""
    import base64

    return dg.MetadataValue.md(f"![{name}](data:image/png;base64,{base64.b64encode(png).decode()})")


def _commit(sha: str, project: Project) -> dg.MetadataValue:
    """The hash of a commit, leading to the remote's page of it where there is one."""
    page = project.source.page(sha)
    return dg.MetadataValue.md(f"[{sha}]({page})") if page else dg.MetadataValue.text(sha)


def _model(model: ModelRef, app: App, project: Project) -> Page:
    """A model version by name, the page that tells of it, and where it is stored."""
    if model.is_none:
        return {"model": "none: code alone, as the recipe says"}
    return {
        "model": f"{model.name} v{model.version}",
        "model_page": dg.MetadataValue.asset(keys.key(app, "model")),
        "model_link": _link(project.models.url(model.version)),
    }


def _link(url: str) -> dg.MetadataValue:
    """A place that a browser opens, or a folder of this machine."""
    if url.startswith("http"):
        return dg.MetadataValue.url(url)
    return dg.MetadataValue.path(url.removeprefix("file:"))


def _metrics(metrics: Mapping[str, float], champion: ModelRef | None) -> dg.MetadataValue:
    """The metrics, beside those of the live version where there is one."""
    rows = []
    for name, value in metrics.items():
        row: dict[str, Any] = {"metric": name, "value": round(value, 5)}
        if champion:
            live = champion.metrics.get(name)
            row[f"live (v{champion.version})"] = "-" if live is None else f"{live:.5f}"
        rows.append(row)
    return _table(rows)


def _layers(layers: Sequence[Layer], transfers: Sequence[Transfer]) -> dg.MetadataValue:
    how = {transfer.digest: transfer.how for transfer in transfers}
    return _table(
        [
            {
                "layer": layer.kind or "base",
                "bytes": layer.descriptor.size,
                "transfer": how.get(layer.descriptor.digest, "present"),
                "digest": layer.descriptor.digest,
            }
            for layer in layers
        ]
    )


def _passed_over(items: Sequence[PassedOver]) -> Page:
    if not items:
        return {}
    return {
        "passed_over": _table(
            [{"what": i.what, "which": i.which, "reason": i.reason} for i in items]
        )
    }


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row whose cells are all plain values, as a table wants them."""
    plain = (str, int, float, bool)
    return {name: cell if isinstance(cell, plain) else str(cell) for name, cell in row.items()}


def _table(rows: Sequence[Mapping[str, Any]]) -> dg.MetadataValue:
    if not rows:
        return dg.MetadataValue.text("none")
    return dg.MetadataValue.table([dg.TableRecord(dict(row)) for row in rows])
