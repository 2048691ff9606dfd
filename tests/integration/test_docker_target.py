"""`docker:`: a container per release behind one stable port, confined, replaced without loss,
and nothing left behind."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import cluster_image
from support.load import Load
from support.services import require

from tandem.errors import ImageFault, TargetError
from tandem.oci import open_registry
from tandem.oci.blobs import registry_source
from tandem.oci.pull import pull
from tandem.oci.push import push
from tandem.service import client as asked
from tandem.service import http
from tandem.targets import DeployRequest, Live, open_target
from tandem.targets.local import bluegreen, docker
from tandem.targets.local.bluegreen import BlueGreen
from tandem.targets.local.docker import LABEL
from tandem.targets.local.docker_engine import engine, ensure_image
from tandem.targets.local.ports import free_port
from tandem.targets.local.runner import wait_until
from tandem.targets.once import run_once, sweep_once
from tandem.util import processes

ROOT = Path(__file__).parents[2]
# One after the other: they share an engine, and this machine has few processors.
pytestmark = pytest.mark.xdist_group("docker")
QUICK = {"TANDEM_DRAIN_SECONDS": "0.5"}


@pytest.fixture(autouse=True)
def login(monkeypatch: pytest.MonkeyPatch) -> None:
    for service in ("docker", "registry", "base-image"):
        require(service)
    monkeypatch.setenv("TANDEM_REGISTRY", f"{os.environ['REGISTRY']}/tests/small")
    monkeypatch.setenv("TANDEM_REGISTRY_USERNAME", os.environ["REGISTRY_USERNAME"])
    monkeypatch.setenv("TANDEM_REGISTRY_PASSWORD", os.environ["REGISTRY_PASSWORD"])


@pytest.fixture
def target(tmp_path: Path) -> Iterator[BlueGreen]:
    # The state folder's name makes the containers of this test its own.
    app = f"small-{tmp_path.name[-20:].replace('_', '-').lower()}-{os.getpid()}"
    target = open_target(f"docker:{free_port()}", state=tmp_path, app=app)
    assert isinstance(target, BlueGreen)
    yield target
    target.stop(progress=print)
    assert containers(target) == []


def containers(target: BlueGreen) -> list[str]:
    with engine() as client:
        label = f"tandem.app={target.runner.app}"  # type: ignore[attr-defined]
        found = client.containers.list(all=True, filters={"label": label})
        return [container.name for container in found]


def deploy(target: BlueGreen, word: str, release: int, check: Any = None) -> Live:
    digest = cluster_image.small(word)

    def answers(url: str) -> None:
        asked.check_version(url, digest=digest)

    request = DeployRequest(
        app="small", release=release, registry=cluster_image.registry(), digest=digest, env=QUICK
    )
    return target.deploy(request, check=check or answers, progress=print)


def word_at(url: str) -> str:
    return asked.version(url).model.digest.removeprefix("sha256:")


def test_a_release_runs_confined_and_is_replaced_without_loss(target: BlueGreen) -> None:
    url = deploy(target, "one", 1).url
    with engine() as client:
        host = client.containers.get(containers(target)[0]).attrs["HostConfig"]
        user = client.containers.get(containers(target)[0]).attrs["Config"]["User"]
    assert user == "10001:10001"
    assert host["ReadonlyRootfs"] is True
    assert host["CapDrop"] == ["ALL"]
    assert "no-new-privileges" in host["SecurityOpt"]
    assert host["PortBindings"]["8080/tcp"][0]["HostIp"] == "127.0.0.1"
    with Load(url) as load:
        deploy(target, "two", 2)
        with pytest.raises(TargetError, match=r"(?s)release 2 is still live.*the model is broken"):
            deploy(target, "crash", 3)
    assert load.failures == []
    assert word_at(url) == "two"
    live = target.current()
    assert live and live.release == 2
    # The old one has ended; the next command removes what is left of it.
    assert deploy(target, "two", 2).since == live.since
    assert wait_until(lambda: bool(deploy(target, "two", 2)) and len(containers(target)) == 1, 20)


def test_a_release_that_answers_wrongly_is_taken_back(target: BlueGreen) -> None:
    url = deploy(target, "one", 1).url

    def check(asked: str) -> None:
        if asked == url:
            raise TargetError("wrong answer")

    with pytest.raises(TargetError, match="release 1 is still live: wrong answer"):
        deploy(target, "two", 2, check)
    assert word_at(url) == "one"


def test_a_container_that_somebody_removed_is_not_called_live(target: BlueGreen) -> None:
    deploy(target, "one", 1)
    assert target.drift() == []
    with engine() as client:
        client.containers.get(containers(target)[0]).remove(force=True)
    assert target.current() is None
    assert target.drift() == ["the service of release 1 has stopped"]
    deploy(target, "one", 1)
    assert target.current() is not None


def test_an_image_from_a_layout_folder_is_given_to_the_engine(
    target: BlueGreen, tmp_path: Path
) -> None:
    source = cluster_image.registry()
    image = pull(source, cluster_image.small("from a folder"))
    folder = open_registry(f"oci:{tmp_path / 'images'}")
    digests = [layer.descriptor.digest for layer in image.layers]
    push(folder, image, {digest: registry_source(source, digest) for digest in digests})
    request = DeployRequest(app="small", release=1, registry=folder, digest=image.digest, env=QUICK)
    live = target.deploy(request, check=lambda url: None, progress=print)
    assert word_at(live.url) == "from a folder"
    target.stop(progress=print)
    with engine() as client:
        client.images.remove(image.config_descriptor.digest, force=True)


def test_an_image_that_is_not_there_is_one_line(target: BlueGreen) -> None:
    request = DeployRequest(
        app="small", release=1, registry=cluster_image.registry(), digest="sha256:" + "0" * 64
    )
    with pytest.raises(TargetError, match="cannot pull") as caught:
        target.deploy(request, check=lambda url: None, progress=print)
    assert "\n" not in str(caught.value)


# docker-py lets go of a socket that could not be connected without closing it.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_an_engine_that_is_not_there_is_one_line(
    target: BlueGreen, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setenv("DOCKER_HOST", "unix:///nowhere.sock")
        with pytest.raises(TargetError, match=r"Docker engine at unix:///nowhere\.sock does not"):
            deploy(target, "one", 1)
    gc.collect()


def once(owner: int) -> list[Any]:
    """The containers of the checks that a process started."""
    with engine() as client:
        found = client.containers.list(
            all=True, ignore_removed=True, filters={"label": f"{LABEL}=once"}
        )
        return [each for each in found if f"/{owner}/" in each.labels["tandem.owner"]]


def test_run_once_has_no_network_and_is_removed(tmp_path: Path) -> None:
    digest = cluster_image.small("one")
    with run_once(cluster_image.registry(), digest, state=tmp_path, engine="docker") as url:
        asked.check_version(url, digest=digest)
        large = "x" * 300_000
        body = json.dumps({"rows": [large]}).encode()
        assert http.ask("POST", url, "/score", body=body).status == 200
        (mine,) = once(os.getpid())
        assert mine.attrs["HostConfig"]["NetworkMode"] == "none"
    assert once(os.getpid()) == []


def test_run_once_of_an_image_that_does_not_start_tells_its_last_words(tmp_path: Path) -> None:
    digest = cluster_image.small("crash")
    with (
        pytest.raises(TargetError, match=r"(?s)does not start.*the model is broken"),
        run_once(cluster_image.registry(), digest, state=tmp_path, engine="docker"),
    ):
        pass


def test_run_once_is_removed_when_its_process_is_killed(tmp_path: Path) -> None:
    code = """
        import os, signal, sys
        from pathlib import Path
        from support import cluster_image
        from tandem.targets.once import run_once
        registry, digest = cluster_image.registry(), cluster_image.small("one")
        with run_once(registry, digest, state=Path(sys.argv[1]), engine="docker") as url:
            print(os.getpid(), flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert wait_until(lambda: once(int(done.stdout)) == [], 20)


ENDING = """
import os, signal, sys, time
print("about to end", flush=True)
{}
"""


@pytest.mark.parametrize(
    ("how", "why", "of_the_image"),
    [
        ("sys.exit(3)", "exit code 3", True),
        ("block = b'x' * 2**31", "out of memory", True),
        ("sys.exit(143)", "ended from outside", False),
        ("time.sleep(60)", "ended from outside", False),
    ],
)
def test_how_a_container_ends_says_whether_its_image_is_at_fault(
    tmp_path: Path, how: str, why: str, of_the_image: bool
) -> None:
    digest = cluster_image.small("ending", server=ENDING.format(how))
    ended = threading.Event()

    def kill() -> None:
        while not ended.wait(0.05):
            with contextlib.suppress(Exception):
                for one in once(os.getpid()):
                    one.kill()

    killing = threading.Thread(target=kill)
    if "sleep" in how:
        killing.start()
    try:
        with (
            pytest.raises(TargetError, match=why) as caught,
            run_once(cluster_image.registry(), digest, state=tmp_path, engine="docker"),
        ):
            pass
    finally:
        ended.set()
        if killing.ident:
            killing.join()
    assert isinstance(caught.value, ImageFault) is of_the_image


def test_a_program_that_the_image_has_not_is_its_fault(
    target: BlueGreen, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = cluster_image.small("no program", PATH="/nowhere")
    request = DeployRequest(
        app="small", release=1, registry=cluster_image.registry(), digest=digest, env=QUICK
    )
    with pytest.raises(ImageFault, match="executable file not found"):
        target.deploy(request, check=lambda url: None, progress=print)
    assert containers(target) == []


def test_a_port_that_another_program_took_is_tried_once_more(
    target: BlueGreen, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        ports = [taken.getsockname()[1], free_port()]
        monkeypatch.setattr(bluegreen, "free_port", lambda: ports.pop(0))
        live = deploy(target, "one", 1)
    assert word_at(live.url) == "one" and ports == []


def test_checks_whose_process_is_gone_are_swept_and_those_of_others_only_when_they_are_old(
    target: BlueGreen, monkeypatch: pytest.MonkeyPatch
) -> None:
    with subprocess.Popen(["sleep", "60"]) as gone:
        dead = processes.identity(gone.pid)
        gone.kill()
    boot, _, rest = dead.split("/", 2)
    owners = {"dead": dead, "ours": processes.identity(), "elsewhere": f"{boot}/1/{rest}"}
    name = f"sweep-{os.getpid()}-"
    with engine() as client:
        image = cluster_image.registry().reference(cluster_image.small("one"))
        ensure_image(client, cluster_image.registry(), image.partition("@")[2], print)
        for who, owner in owners.items():
            client.containers.create(
                image, name=name + who, labels={LABEL: "once", "tandem.owner": owner}
            )
        try:
            assert f"the check {name}dead was cut off: removed it" in target.sweep()
            assert sweep_once(state=target.folder, engine="docker") == []
            left = client.containers.list(all=True, filters={"name": name})
            assert {one.name for one in left} == {name + "ours", name + "elsewhere"}
            monkeypatch.setattr(docker, "ONCE_AT_MOST", 0.0)
            assert f"the check {name}elsewhere was cut off: removed it" in target.sweep()
            left = client.containers.list(all=True, filters={"name": name})
            assert [one.name for one in left] == [name + "ours"]
        finally:
            for one in client.containers.list(all=True, filters={"name": name}):
                one.remove(force=True)


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from support import cluster_image
    from tandem.targets import DeployRequest, open_target
    from tandem.targets.local import docker, stable_port, state

    left = int(sys.argv[4])

    def around(module, name):
        real = getattr(module, name)
        def wrapped(*arguments, **more):
            global left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            result = real(*arguments, **more)
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return result
        setattr(module, name, wrapped)

    around(state, "write_whole")
    around(stable_port, "write_whole")
    for name in ("start", "terminate", "kill"):
        around(docker.DockerRunner, name)
    target = open_target("docker:" + sys.argv[1], state=Path(sys.argv[2]), app=sys.argv[3])
    request = DeployRequest(app="small", release=2, registry=cluster_image.registry(),
                            digest=sys.argv[5], env={"TANDEM_DRAIN_SECONDS": "0.5"})
    target.deploy(request, check=lambda url: None, progress=lambda line: None)
"""


@pytest.mark.parametrize("at", [3, 5, 7, 10, 12])
def test_a_deploy_killed_anywhere_and_run_again_ends_as_if_it_had_not_been(
    target: BlueGreen, tmp_path: Path, at: int
) -> None:
    deploy(target, "one", 1)
    app = target.runner.app  # type: ignore[attr-defined]
    arguments = [str(target.port), str(tmp_path), app, str(at), cluster_image.small("two")]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED), *arguments],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
    )
    assert done.returncode == -signal.SIGKILL
    assert word_at(target.url()) in ("one", "two")
    deploy(target, "two", 2)
    assert word_at(target.url()) == "two"
    assert wait_until(lambda: bool(deploy(target, "two", 2)) and len(containers(target)) == 1, 20)
