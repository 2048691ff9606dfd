"""A release against what it cannot avoid: Dagster's start, and one start of the service."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
from measure import Figures, in_turn, seconds

ROOT = Path(__file__).resolve().parent.parent
TRAINING = 4.0
"""Seconds that a training takes at least; the example's takes longer."""
EMPTY_JOB = """
import dagster as dg, os
@dg.job
def empty(): pass
with dg.DagsterInstance.from_config(os.environ["DAGSTER_HOME"]) as instance:
    assert empty.execute_in_process(instance=instance, run_config={
        "loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}).success
"""


def main() -> int:
    """Measure in a folder of its own, from a first release to one with only a new model."""
    figures = Figures("release: ratios within this run, medians")
    with tempfile.TemporaryDirectory(prefix="tandem-bench-") as folder:
        home = Path(folder)
        os.environ |= {
            "TANDEM_STORE": f"file:{home / 'store'}",
            "TANDEM_REGISTRY": f"oci:{home / 'images'}",
            "TANDEM_STATE": str(home / "state"),
            "TANDEM_TARGET": f"process:{_free_port()}",
            "TANDEM_SOURCE": str(ROOT),
            "DAGSTER_HOME": str(home / "dagster"),
        }
        try:
            print("first release …", flush=True)
            _run("-m", "tandem.dagster", "release")
            _model_only(figures)
            _imports(figures)
            _nothing_to_do(figures)
        finally:
            _run("-m", "tandem.cli", "stop")
    return figures.show()


def _imports(figures: Figures) -> None:
    ours, dagster = in_turn(
        [
            lambda: _run("-c", "import orchestration.definitions"),
            lambda: _run("-c", "import dagster"),
        ],
        runs=7,
    )
    figures.add("import definitions", ours, "s")
    figures.add("import dagster", dagster, "s")
    figures.add("definitions / dagster", ours / dagster, "ratio", "<= 1.5")


def _nothing_to_do(figures: Figures) -> None:
    release, empty = in_turn(
        [lambda: _run("-m", "tandem.dagster", "release"), lambda: _run("-c", EMPTY_JOB)], runs=7
    )
    figures.add("release with nothing to do", release, "s")
    figures.add("empty Dagster job", empty, "s")
    figures.add("nothing to do / empty job", release / empty, "ratio", "<= 1.3")


def _model_only(figures: Figures) -> None:
    from orchestration.apps import APPS
    from tandem import settings
    from tandem.release.build import build_app
    from tandem.release.deploy import deploy
    from tandem.release.judging import expect_judging, judge_newest
    from tandem.release.pack import pack
    from tandem.release.pair import choose_pair
    from tandem.release.project import Project
    from tandem.release.prove import prove
    from tandem.release.record import record_release
    from tandem.targets.local.process import prepare

    app = APPS[0]
    project = Project(app.name, settings.load(), app.rule)
    build_app(project)
    ratios, works, starts, judged, ahead, whole = [], [], [], [], [], []
    for number in range(5):
        _publish_another(project, number)
        # The model's own checks come before the release, in a process without our credentials.
        judged.append(seconds(lambda: judge_newest(project)))
        started = time.perf_counter()
        packed = pack(project, choose_pair(project))
        proving = time.perf_counter()
        prove(project, packed)
        packing, proof = proving - started, time.perf_counter() - proving
        live = seconds(lambda: deploy(project))
        record_release(project, trigger="benchmark")
        image = project.ledger.images.latest()
        assert image is not None
        ready = prepare(project.registry, image.digest, project.state / "target", lambda _: None)
        by_hand = seconds(lambda ready=ready: _first_answer(ready))
        works.append((packing, proof, live))
        starts.append(by_hand)
        ratios.append((packing + proof + live) / by_hand)
        whole.append((judged[-1] + packing + proof + live) / by_hand)
        _publish_another(project, 100 + number)
        # As in a run that trains: the judge is started before the training, and waits for it.
        expect_judging(project)
        time.sleep(TRAINING)
        ahead.append(seconds(lambda: judge_newest(project)))
    for name, values in zip(("pack", "verify", "go live"), zip(*works, strict=True), strict=True):
        figures.add(f"model-only release: {name}", statistics.median(values), "s")
    figures.add("checks of a trained model", statistics.median(ahead), "s", "<= 1.5")
    figures.add("checks of a published model", statistics.median(judged), "s", "<= 1.5")
    figures.add("packed service by hand, to first answer", statistics.median(starts), "s")
    figures.add("model-only release / one start", statistics.median(ratios), "ratio", "<= 2.5")
    figures.add("published to live, with its checks / one start", statistics.median(whole), "ratio")


def _publish_another(project, number: int) -> None:  # type: ignore[no-untyped-def]
    """A version that differs in what it says of itself, as a retrained one would."""
    from tandem.model import package, writing

    version = project.models.latest()
    with tempfile.TemporaryDirectory() as folder:
        old = project.models.fetch(version.number, Path(folder) / "old", with_evaluation=True)
        new = Path(folder) / "new"
        shutil.copytree(old.folder, new)
        manifest = msgspec.structs.replace(
            old.manifest, parameters={**old.manifest.parameters, "benchmark": number}
        )
        (new / "manifest.json").chmod(0o644)
        (new / "manifest.json").write_bytes(writing.encode_manifest(manifest))
        project.models.publish(package.read(new), publisher="benchmark")


def _first_answer(ready) -> None:  # type: ignore[no-untyped-def]
    from tandem.service import client, http

    port = _free_port()
    with subprocess.Popen(
        ready.argv,
        cwd=ready.folder,
        env={**ready.env, "HOST": "127.0.0.1", "PORT": str(port)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        url = f"http://127.0.0.1:{port}"
        client.wait_ready(url, 60)
        body = msgspec.json.encode({"rows": [[0.0] * 64]})
        answer = http.ask("POST", url, "/score", body=body)
        assert answer.status == 200, answer
        answered = time.perf_counter()
        process.kill()
    del answered


def _run(*arguments: str) -> None:
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{arguments}: {done.stderr or done.stdout}")


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
