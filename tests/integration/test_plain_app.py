"""An app that is no Flask app and has no extension, live by its health path and its questions."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import cluster_image, plain_app
from support.load import Astray
from support.services import require
from support.small_image import MemoryRegistry

from tandem.errors import ImageFault, TargetError
from tandem.service import client
from tandem.service.probe import Asked, ask_instance, ask_private_instance
from tandem.targets import DeployRequest, Live, Target, open_target
from tandem.targets.kubernetes.settings import KubernetesSettings
from tandem.targets.local.bluegreen import BlueGreen
from tandem.targets.local.ports import free_port
from tandem.targets.local.process import ProcessRunner
from tandem.targets.once import run_once


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    target = open_target(f"process:{free_port()}", state=tmp_path)
    yield target
    target.stop(progress=print)


@pytest.fixture
def registry() -> MemoryRegistry:
    return MemoryRegistry()


def deploy(
    target: Target, registry: Any, digest: str, word: str, release: int, **more: Any
) -> Live:
    request = DeployRequest(
        **{
            "app": "plain", "release": release, "registry": registry, "digest": digest,
            "health": plain_app.HEALTH, "names_its_image": False, **more,
        }
    )  # fmt: skip

    def check(url: str) -> None:
        asked = Asked(contract=False, health=request.health, questions=(plain_app.question(word),))
        ask_instance(url, digest=digest, golden=None, asked=asked)

    return target.deploy(request, check=check, progress=print)


def local(registry: MemoryRegistry, word: str, **more: Any) -> str:
    return registry.small(word, server=plain_app.SERVER, **more)


def word_at(url: str) -> str:
    word: str = json.loads(client.get(url, "/version")[1])["word"]
    return word


def test_on_process_it_is_released_and_replaced(target: Target, registry: MemoryRegistry) -> None:
    first = local(registry, "one")
    live = deploy(target, registry, first, "one", 1)
    assert (live.digest, word_at(live.url)) == (first, "one")
    again = deploy(target, registry, first, "one", 1)
    assert again.detail["pid"] == live.detail["pid"], "nothing restarted"
    second = local(registry, "two")
    live = deploy(target, registry, second, "two", 2)
    current = target.current()
    assert current and current.digest == second and word_at(live.url) == "two"


def test_on_process_health_that_stays_green_does_not_hide_failing_predictions(
    target: Target, registry: MemoryRegistry
) -> None:
    live = deploy(target, registry, local(registry, "one"), "one", 1)
    with pytest.raises(ImageFault, match=r"release 2 did not go live, release 1 is still live: "
                       r"POST /predict at .*: expected status 200, got 500"):  # fmt: skip
        deploy(target, registry, local(registry, "broken"), "broken", 2)
    assert word_at(live.url) == "one"


def test_on_process_a_service_that_never_gets_healthy_is_named_by_its_path(
    target: Target, registry: MemoryRegistry
) -> None:
    with pytest.raises(TargetError, match=r"not ready within 2 s \(/health answered 500\)"):
        deploy(target, registry, local(registry, "ill"), "ill", 1, deadline=2.0)


def test_on_process_any_answer_will_do_where_there_is_no_health_path(
    target: Target, registry: MemoryRegistry
) -> None:
    # Its root answers 404, and its own health path is red.
    digest = local(registry, "ill")
    request = DeployRequest(
        app="plain", release=1, registry=registry, digest=digest, health="", names_its_image=False
    )
    url = target.deploy(request, check=lambda url: None, progress=print).url
    answers = ask_instance(url, digest=digest, golden=None, asked=Asked(contract=False, health=""))
    assert str(answers) == "is alive (/); it has no questions to be asked"


def test_on_process_the_command_of_the_request_is_started_and_another_one_is_a_change(
    target: Target, registry: MemoryRegistry
) -> None:
    digest = local(registry, "one", command=("python3", "-m", "nothing"))
    with pytest.raises(ImageFault, match="No module named nothing"):
        deploy(target, registry, digest, "one", 1)
    command = ("python3", "/app/small/__main__.py")
    live = deploy(target, registry, digest, "one", 1, command=command)
    shell = ("sh", "-c", "exec python3 -m small $PORT")
    again = deploy(target, registry, digest, "one", 1, command=shell)
    assert word_at(again.url) == "one" and again.detail["pid"] != live.detail["pid"]


def test_a_private_instance_is_asked_without_the_contract(
    tmp_path: Path, registry: MemoryRegistry
) -> None:
    digest = local(registry, "one", command=("python3", "-m", "nothing"))
    command = ("python3", "-m", "small")
    with run_once(
        registry, digest, state=tmp_path, health=plain_app.HEALTH, command=command
    ) as url:
        answers = ask_private_instance(
            url, digest=digest, golden=None,
            asked=Asked(
                contract=False, health=plain_app.HEALTH, questions=(plain_app.question("one"),)
            ),
        )  # fmt: skip
    assert str(answers).startswith("answered 1 of 1 questions")


def test_two_apps_on_one_machine_do_not_meet(tmp_path: Path, registry: MemoryRegistry) -> None:
    targets = {
        app: open_target(f"process:{free_port()}", state=tmp_path, app=app)
        for app in ("first", "second")
    }
    try:
        lives = {
            app: deploy(target, registry, local(registry, app), app, 1)
            for app, target in targets.items()
        }
        # More images than are kept, all of them old enough to go: those that run stay.
        for number in range(2, 9):
            deploy(targets["second"], registry, local(registry, f"w{number}"), f"w{number}", number)
            for root in (tmp_path / "roots").iterdir():
                os.utime(root, (number, number))
        deploy(targets["second"], registry, local(registry, "last"), "last", 9)
        assert (tmp_path / "roots" / lives["first"].digest.removeprefix("sha256:")).is_dir()
        assert len(list((tmp_path / "roots").iterdir())) < 9
        assert word_at(lives["first"].url) == "first"
        assert targets["second"].stop(progress=print)
        current = targets["first"].current()
        assert current and word_at(current.url) == "first"
    finally:
        for target in targets.values():
            target.stop(progress=print)


def test_what_the_first_edition_remembered_stays_with_one_app(
    tmp_path: Path, registry: MemoryRegistry
) -> None:
    port = free_port()
    earlier = BlueGreen(ProcessRunner(tmp_path), port, tmp_path / "process")
    live = deploy(earlier, registry, local(registry, "one"), "one", 1)
    target = open_target(f"process:{port}", state=tmp_path, app="first")
    try:
        current = target.current()
        assert current and current.detail["pid"] == live.detail["pid"]
        assert open_target(f"process:{port}", state=tmp_path, app="second").current() is None
        again = open_target(f"process:{port}", state=tmp_path, app="first")
        assert again.current() == current
    finally:
        assert target.stop(progress=print)


# On Docker and on Kubernetes


@pytest.fixture
def real_registry(monkeypatch: pytest.MonkeyPatch) -> Any:
    for service in ("registry", "base-image"):
        require(service)
    monkeypatch.setenv("TANDEM_REGISTRY", f"{os.environ['REGISTRY']}/tests/small")
    monkeypatch.setenv("TANDEM_REGISTRY_USERNAME", os.environ["REGISTRY_USERNAME"])
    monkeypatch.setenv("TANDEM_REGISTRY_PASSWORD", os.environ["REGISTRY_PASSWORD"])
    return cluster_image.registry()


PORT = ("python3", "-m", "small", "5000")
"""An app that listens where it always does, whatever $PORT says."""


@pytest.mark.xdist_group("docker")
def test_on_docker_it_is_reached_at_the_port_of_its_own(tmp_path: Path, real_registry: Any) -> None:
    require("docker")
    app = f"plain-{secrets.token_hex(3)}"
    target = open_target(f"docker:{free_port()}", state=tmp_path, app=app)
    digest = cluster_image.small("one", server=plain_app.SERVER)
    try:
        live = deploy(target, real_registry, digest, "one", 1, port=5000, command=PORT)
        assert word_at(live.url) == "one"
    finally:
        target.stop(progress=print)
    with run_once(
        real_registry, digest, state=tmp_path, engine="docker", health=plain_app.HEALTH,
        port=5000, command=PORT,
    ) as url:  # fmt: skip
        assert word_at(url) == "one"


@pytest.mark.xdist_group("docker")
def test_on_docker_an_image_without_python_is_one_line(tmp_path: Path, real_registry: Any) -> None:
    require("docker")
    digest = cluster_image.small("one", server=plain_app.SERVER)
    with (
        pytest.raises(TargetError, match="the image has no python3"),
        run_once(
            real_registry, digest, state=tmp_path, engine="docker", deadline=1.0,
            command=("/bin/sleep", "60"), env={"PATH": "/nowhere"},
        ),
    ):  # fmt: skip
        pass


@pytest.mark.xdist_group("kubernetes")
def test_on_kubernetes_it_is_released_replaced_and_undone(
    tmp_path: Path, real_registry: Any
) -> None:
    require("kubernetes")
    namespace = f"tandem-test-{secrets.token_hex(4)}"
    settings = KubernetesSettings(
        replicas=2, drain_seconds=8, cpu="10m", memory="32Mi", host=f"{namespace}.cloudapp.test"
    )
    subprocess.run(["kubectl", "create", "namespace", namespace], check=True)
    target = open_target(f"k8s:///{namespace}", state=tmp_path, app="plain", settings=settings)
    digests = {
        word: cluster_image.small(word, server=plain_app.SERVER)
        for word in ("one", "two", "broken")
    }
    more = {"port": 5000, "command": PORT, "deadline": 60.0}
    try:
        live = deploy(target, real_registry, digests["one"], "one", 1, **more)
        assert word_at(live.url) == "one"
        with Astray(live.url):
            failures = _asked_meanwhile(
                live.url,
                lambda: deploy(target, real_registry, digests["two"], "two", 2, **more),
            )
        assert failures == []
        # No pod of the first one is left that could still answer.
        assert {word_at(live.url) for _ in range(30)} == {"two"}
        with pytest.raises(ImageFault, match=r"got 500(.|\n)*release 2 is live again"):
            deploy(target, real_registry, digests["broken"], "broken", 3, **more)
        current = target.current()
        assert current and current.digest == digests["two"]
        assert word_at(current.url) == "two"
    finally:
        subprocess.run(["kubectl", "delete", "namespace", namespace, "--wait=false"], check=True)


def _asked_meanwhile(url: str, work: Any) -> list[str]:
    """What was answered otherwise than with 200 while `work` ran."""
    failures: list[str] = []
    is_over = threading.Event()

    def ask() -> None:
        while not is_over.is_set():
            try:
                status, _ = client.get(url, "/version")
                if status != 200:
                    failures.append(str(status))
            except OSError as problem:
                failures.append(repr(problem))
            time.sleep(0.01)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        work()
    finally:
        is_over.set()
        thread.join()
    return failures
