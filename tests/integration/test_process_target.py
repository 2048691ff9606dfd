"""`process:`: images go live as processes of this machine, replace one another, and leave
nothing behind."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import psutil
import pytest
from support.load import Load
from support.small_image import MemoryRegistry

from tandem.errors import ImageFault, TargetError
from tandem.release.drift import compare
from tandem.release.records import AppRef, ModelRef
from tandem.service import client
from tandem.targets import DeployRequest, Live, open_target
from tandem.targets.local import bluegreen, process_once
from tandem.targets.local.bluegreen import BlueGreen
from tandem.targets.local.ports import free_port
from tandem.targets.local.runner import wait_until
from tandem.targets.local.state import Instance
from tandem.targets.once import run_once, sweep_once

QUICK = {"TANDEM_DRAIN_SECONDS": "0.2"}


@pytest.fixture
def registry() -> MemoryRegistry:
    return MemoryRegistry()


@pytest.fixture
def target(tmp_path: Path) -> Iterator[BlueGreen]:
    target = open_target(f"process:{free_port()}", state=tmp_path)
    assert isinstance(target, BlueGreen)
    yield target
    target.stop(progress=print)
    assert wait_until(lambda: not processes(tmp_path), 5), "something was left behind"


def processes(state: Path) -> list[psutil.Process]:
    """What runs from that state folder, fronts and services."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = [*process.cmdline(), *process.environ().values()]
            alive = process.status() != psutil.STATUS_ZOMBIE
            if alive and process.pid != os.getpid() and any(str(state) in word for word in words):
                found.append(process)
    return found


def settled(live: Live | None) -> Live:
    """What stays true of it: the ones that drain go while one looks."""
    assert live is not None
    return msgspec.structs.replace(live, detail={**live.detail, "draining": None})


def deploy(
    target: BlueGreen, registry: MemoryRegistry, word: str, release: int, **more: Any
) -> Live:
    digest = registry.small(word)

    def check(url: str) -> None:
        client.check_version(url, digest=digest)

    request = DeployRequest(
        app="small",
        release=release,
        registry=registry,
        digest=digest,
        env=more.get("env", QUICK),
        deadline=10,
    )
    return target.deploy(request, check=more.get("check", check), progress=print)


def word_at(url: str) -> str:
    return client.version(url).model.digest.removeprefix("sha256:")


def test_a_release_is_live_on_the_public_port(target: BlueGreen, registry: MemoryRegistry) -> None:
    assert target.current() is None
    live = deploy(target, registry, "one", 1)
    assert word_at(live.url) == "one"
    assert live.url == target.url()
    assert live.release == 1 and live.digest == registry.small("one")
    assert target.current() == live


def test_the_service_sees_the_image_and_nothing_of_this_environment(
    target: BlueGreen, registry: MemoryRegistry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_HOST", "x")
    url = deploy(target, registry, "one", 1).url
    seen = json.loads(client.get(url, "/environ")[1])
    environ = seen["environ"]
    root = str(tmp_path / "roots" / registry.small("one").removeprefix("sha256:"))
    assert "SECRET_OF_THE_HOST" not in environ
    assert environ["TANDEM_MODEL"] == f"{root}/model"
    assert environ["PYTHONPATH"] == f"{root}/app/lib:{root}/app"
    assert environ["TANDEM_RELEASE"] == "1"
    assert environ["TANDEM_IMAGE_DIGEST"] == registry.small("one")
    own = [sys.base_prefix, str(tmp_path)]
    outside = [p for p in seen["path"] if p and not any(p.startswith(start) for start in own)]
    assert not outside
    packages = [p for p in seen["path"] if p.endswith("site-packages")]
    assert packages and all(p.startswith(str(tmp_path)) for p in packages), "the host's own leak in"


def test_the_next_release_replaces_it_and_the_old_one_ends(
    target: BlueGreen, registry: MemoryRegistry, tmp_path: Path
) -> None:
    old = deploy(target, registry, "one", 1)
    new = deploy(target, registry, "two", 2)
    assert word_at(target.url()) == "two"
    gone = old.detail["pid"]
    assert wait_until(lambda: gone not in {p.pid for p in processes(tmp_path)}, 5)
    assert {p.pid for p in processes(tmp_path)} >= {new.detail["pid"]}


def test_the_same_release_again_restarts_nothing(
    target: BlueGreen, registry: MemoryRegistry
) -> None:
    first = deploy(target, registry, "one", 1)
    assert deploy(target, registry, "one", 1) == first


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("crash", "stopped before it was ready.*the model is broken"),
        ("never", "not ready within"),
    ],
)
def test_a_release_that_does_not_start_leaves_the_previous_one(
    target: BlueGreen, registry: MemoryRegistry, word: str, why: str, tmp_path: Path
) -> None:
    deploy(target, registry, "one", 1)
    before = target.current()
    digest = registry.small(word)
    request = DeployRequest(
        app="small", release=2, registry=registry, digest=digest, env=QUICK, deadline=0.5
    )
    with pytest.raises(TargetError, match=rf"(?s)release 1 is still live.*{why}"):
        target.deploy(request, check=lambda url: None, progress=print)
    assert settled(target.current()) == settled(before)
    assert word_at(target.url()) == "one"
    assert len(processes(tmp_path)) == 2, "the front and release 1"


@pytest.mark.parametrize("fails_at", ["private", "public"])
def test_a_release_that_answers_wrongly_is_taken_back(
    target: BlueGreen, registry: MemoryRegistry, fails_at: str
) -> None:
    deploy(target, registry, "one", 1)

    def check(url: str) -> None:
        if (url == target.url()) == (fails_at == "public"):
            raise TargetError("wrong answer")

    with pytest.raises(TargetError, match="release 1 is still live: wrong answer"):
        deploy(target, registry, "two", 2, check=check)
    assert word_at(target.url()) == "one"


def test_a_first_release_that_fails_leaves_nothing(
    target: BlueGreen, registry: MemoryRegistry, tmp_path: Path
) -> None:
    with pytest.raises(TargetError, match="nothing is live"):
        deploy(target, registry, "crash", 1)
    assert target.current() is None
    status, _ = client.get(target.url(), "/version")
    assert status == 503, "the front says so"


def test_a_service_that_died_is_not_called_live_and_is_replaced(
    target: BlueGreen, registry: MemoryRegistry
) -> None:
    live = deploy(target, registry, "one", 1)
    os.kill(live.detail["pid"], signal.SIGKILL)
    assert wait_until(lambda: target.current() is None, 5)
    again = deploy(target, registry, "one", 1)
    assert again.detail["pid"] != live.detail["pid"]
    assert settled(target.current()) == settled(again)


def test_a_front_that_died_is_opened_again(target: BlueGreen, registry: MemoryRegistry) -> None:
    live = deploy(target, registry, "one", 1)
    proxy = target.state.read().proxy
    assert proxy
    os.kill(proxy.process.pid, signal.SIGKILL)
    assert wait_until(lambda: target.current() is None, 5)
    deploy(target, registry, "one", 1)
    assert word_at(live.url) == "one"


def test_a_port_that_is_taken_is_one_line_that_names_the_setting(
    tmp_path: Path, registry: MemoryRegistry
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        target = open_target(f"process:{port}", state=tmp_path)
        with pytest.raises(TargetError, match=rf"TANDEM_TARGET=process:{port}.*in use") as caught:
            deploy(target, registry, "one", 1)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert not processes(tmp_path)


def test_another_port_is_opened_before_the_old_one_closes(
    target: BlueGreen, registry: MemoryRegistry, tmp_path: Path
) -> None:
    old = deploy(target, registry, "one", 1)
    moved = BlueGreen(target.runner, free_port(), target.folder)
    assert moved.current() is None
    deploy(moved, registry, "one", 2)
    assert word_at(moved.url()) == "one"
    assert wait_until(lambda: not _connects(old.url), 5)
    moved.stop(progress=print)


def _connects(url: str) -> bool:
    try:
        client.get(url, "/version")
    except (OSError, http.client.HTTPException):
        return False
    return True


def test_no_request_is_lost_on_switches_and_failed_releases(
    target: BlueGreen, registry: MemoryRegistry
) -> None:
    words = ["one", "two", "three", "four"]
    url = deploy(target, registry, words[0], 1).url
    with Load(url) as load:
        for number, word in enumerate(words[1:], 2):
            deploy(target, registry, word, number)
            with pytest.raises(TargetError):
                deploy(target, registry, "crash", 99)
        assert wait_until(lambda: "sha256:four" in load.words[-2:], 5)
        time.sleep(0.5)
    assert load.failures == []
    assert list(dict.fromkeys(load.words)) == [f"sha256:{word}" for word in words]


def test_a_request_in_flight_survives_the_switch(
    target: BlueGreen, registry: MemoryRegistry
) -> None:
    url = deploy(target, registry, "one", 1, env={"TANDEM_DRAIN_SECONDS": "2"}).url
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
    with contextlib.closing(connection):
        connection.request("GET", "/slow")
        deploy(target, registry, "two", 2)
        answer = connection.getresponse()
        assert json.loads(answer.read())["model"]["digest"] == "sha256:one"


# What the killed deploy runs: it kills itself at the step of that number.
KILLED = """
    import os, signal, sys
    from pathlib import Path
    from support.small_image import MemoryRegistry
    from tandem.targets import DeployRequest, open_target
    from tandem.targets.local import bluegreen, process, stable_port, state

    left = int(sys.argv[3])

    def step(name):
        global left
        left -= 1
        if left < 0:
            print("killed at", name, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

    def around(module, name):
        real = getattr(module, name)
        def wrapped(*arguments, **more):
            step("before " + name)
            result = real(*arguments, **more)
            step("after " + name)
            return result
        setattr(module, name, wrapped)

    for module in (state, stable_port):
        around(module, "write_whole")
    around(stable_port, "remember")
    for module in (bluegreen, stable_port):
        around(module, "terminate")
    for name in ("remember", "terminate"):
        around(process, name)
    for name in ("start", "kill"):
        around(process.ProcessRunner, name)
    registry = MemoryRegistry()
    target = open_target("process:" + sys.argv[1], state=Path(sys.argv[2]))
    request = DeployRequest(
        app="small", release=2, registry=registry, digest=registry.small("two"),
        env={"TANDEM_DRAIN_SECONDS": "0.2"},
    )
    target.deploy(request, check=lambda url: step("check"), progress=lambda line: None)
"""


def killed_deploy(target: BlueGreen, state: Path, at: int) -> int:
    folder = Path(__file__).parents[1]
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{folder.parent}:{folder}"}
    code = textwrap.dedent(KILLED)
    done = subprocess.run(
        [sys.executable, "-c", code, str(target.port), str(state), str(at)],
        env=environ, capture_output=True, text=True,
    )  # fmt: skip
    print(done.stdout, done.stderr)
    return done.returncode


@pytest.mark.parametrize("first", ["over a live one", "as the first"])
def test_a_deploy_killed_anywhere_and_run_again_ends_as_if_it_had_not_been(
    target: BlueGreen, registry: MemoryRegistry, tmp_path: Path, first: str
) -> None:
    at = 0
    while True:
        if first == "over a live one":
            deploy(target, registry, "one", 1)
        returned = killed_deploy(target, tmp_path, at)
        if first == "over a live one":
            assert word_at(target.url()) in ("one", "two"), "users were left without a service"
        live = deploy(target, registry, "two", 2)
        assert word_at(target.url()) == "two"
        assert settled(target.current()) == settled(live)
        # A front, the live one, and nothing else once the old one has drained.
        assert wait_until(lambda: len(processes(tmp_path)) == 2, 5), processes(tmp_path)
        if first == "as the first":
            target.stop(progress=print)
            assert not processes(tmp_path)
        assert returned in (0, -signal.SIGKILL)
        if returned == 0:
            break
        at += 1
    assert at > 10, "the deploy has more steps than that"


def recorded(live: Live) -> Any:
    """The release record of what is live."""
    return SimpleNamespace(
        number=live.release, image=live.digest, app=AppRef(name="small", commit="", tree=""),
        model=ModelRef(name="small", digest=f"sha256:{word_at(live.url)}", version=1),
    )  # fmt: skip


def test_while_a_release_is_being_switched_the_one_before_is_current_and_nothing_differs(
    target: BlueGreen, registry: MemoryRegistry
) -> None:
    first = deploy(target, registry, "one", 1)
    record = recorded(first)
    assert compare(record, target, registry) == [], "nothing to begin with"
    seen = []

    def check(url: str) -> None:
        live = target.current()
        assert live and live.switching and (live.release, live.digest) == (1, first.digest)
        assert target.drift() == []
        assert compare(record, target, registry) == []
        seen.append(word_at(target.url()))

    second = deploy(target, registry, "two", 2, check=check)
    assert seen == ["one", "two"], "before the switch and after it"
    assert not second.switching
    assert compare(record, target, registry) != []


@pytest.mark.parametrize("at", ["starting", "switched"])
def test_what_a_killed_deploy_left_is_swept(
    target: BlueGreen, registry: MemoryRegistry, tmp_path: Path, at: str
) -> None:
    deploy(target, registry, "one", 1)
    step = 0
    while True:
        assert killed_deploy(target, tmp_path, step) == -signal.SIGKILL
        state = target.state.read()
        switched = state.starting and state.starting.token in target.stable.backend_file.read_text()
        if switched if at == "switched" else state.starting and state.starting.process:
            break
        target.sweep()
        step += 1
    current = target.current()
    assert current is None if at == "switched" else current and current.release == 1
    assert target.sweep() == ["the deploy of release 2 was cut off: stopping it"]
    current = target.current()
    assert current and current.release == 1 and not current.switching
    assert word_at(target.url()) == "one"

    def swept() -> bool:
        target.sweep()
        return len(processes(tmp_path)) == 2

    assert wait_until(swept, 5)


def test_an_old_release_that_nobody_told_to_end_is_told_by_a_sweep(
    target: BlueGreen, registry: MemoryRegistry, tmp_path: Path
) -> None:
    deploy(target, registry, "one", 1)
    step = 0
    while not any(
        not one.told for one in target.state.read().retiring if one.instance.release == 1
    ):
        assert killed_deploy(target, tmp_path, step) == -signal.SIGKILL
        if target.state.read().starting:
            target.sweep()
        step += 1
    current = target.current()
    assert current and current.release == 2
    target.sweep()
    assert wait_until(lambda: len(processes(tmp_path)) == 2, 5)
    assert word_at(target.url()) == "two"


def test_a_sweep_leaves_a_deploy_alone_that_is_on(
    target: BlueGreen, registry: MemoryRegistry
) -> None:
    swept = []

    def check(url: str) -> None:
        swept.extend(target.sweep())

    live = deploy(target, registry, "one", 1, check=check)
    assert word_at(live.url) == "one" and swept == []


def test_a_stopped_deploy_keeps_the_lock_and_is_waited_for(
    target: BlueGreen, registry: MemoryRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = """
        import os, signal, sys
        from pathlib import Path
        from tandem.targets import open_target
        target = open_target("process:" + sys.argv[1], state=Path(sys.argv[2]))
        with target.state.lock(print):
            os.kill(os.getpid(), signal.SIGSTOP)
    """
    folder = Path(__file__).parents[1]
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), str(target.port), str(tmp_path)],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": f"{folder.parent}:{folder}"},
    ) as stopped:  # fmt: skip
        process = psutil.Process(stopped.pid)
        assert wait_until(lambda: process.status() == psutil.STATUS_STOPPED, 20)
        monkeypatch.setattr("tandem.targets.local.state.LOCK_WAIT", 0.2)
        with pytest.raises(TargetError, match=r"another deploy to process:.* has not ended"):
            deploy(target, registry, "one", 1)
        stopped.kill()
    assert deploy(target, registry, "one", 1).release == 1


def test_a_state_of_an_earlier_edition_keeps_what_is_live(
    target: BlueGreen, registry: MemoryRegistry, tmp_path: Path
) -> None:
    live = deploy(target, registry, "one", 1)
    path = target.folder / "state.json"
    state = json.loads(path.read_text())
    for name in ("live", "front"):
        process = state[name]["process"]
        del process["mark"]
        process["created"] = psutil.Process(process["pid"]).create_time()
    del state["deployer"]
    state["retiring"] = [
        {"instance": {**state["live"], "token": "gone", "process": None},
         "deadline": time.time() + 15, "told": True}
    ]  # fmt: skip
    path.write_text(json.dumps(state))
    assert settled(target.current()) == settled(live)
    deploy(target, registry, "two", 2)
    assert word_at(live.url) == "two"
    assert wait_until(lambda: len(processes(tmp_path)) == 2, 5)


ENDING = """
import os, signal, sys
print("about to end", flush=True)
{}
"""


@pytest.mark.parametrize(
    ("how", "why", "of_the_image"),
    [
        ("sys.exit(3)", "exit code 3", True),
        ("os.abort()", "ended by signal 6", True),
        ("os.kill(os.getpid(), signal.SIGKILL)", "ended by SIGKILL, from outside", False),
        ("os.kill(os.getpid(), signal.SIGTERM)", "ended by SIGTERM, from outside", False),
        ("sys.exit(137)", "ended by SIGKILL, from outside", False),
    ],
)
def test_how_a_service_ends_says_whether_its_image_is_at_fault(
    target: BlueGreen, registry: MemoryRegistry, tmp_path: Path, how: str, why: str,
    of_the_image: bool,
) -> None:  # fmt: skip
    digest = registry.small("one", server=ENDING.format(how))
    request = DeployRequest(app="small", release=1, registry=registry, digest=digest, env=QUICK)
    with pytest.raises(TargetError, match=rf"(?s){why}.*about to end") as deployed:
        target.deploy(request, check=lambda url: None, progress=print)
    with (
        pytest.raises(TargetError, match=rf"(?s){why}.*about to end") as checked,
        run_once(registry, digest, state=tmp_path),
    ):
        pass
    assert isinstance(deployed.value, ImageFault) is of_the_image
    assert isinstance(checked.value, ImageFault) is of_the_image


def test_wrong_answers_are_a_verdict_and_a_service_killed_over_the_questions_is_none(
    target: BlueGreen, registry: MemoryRegistry, tmp_path: Path
) -> None:
    def wrong(url: str) -> None:
        raise ImageFault("wrong answer")

    with pytest.raises(ImageFault, match=r"release 1 did not go live.*wrong answer"):
        deploy(target, registry, "one", 1, check=wrong)

    def killed(url: str) -> None:
        starting = target.state.read().starting
        assert starting and starting.process
        os.kill(starting.process.pid, signal.SIGKILL)
        assert wait_until(lambda: not _connects(url), 5)
        client.version(url)

    with pytest.raises(TargetError, match="has stopped, ended by SIGKILL") as caught:
        deploy(target, registry, "one", 1, check=killed)
    assert not isinstance(caught.value, ImageFault)
    with (
        pytest.raises(TargetError, match="no answers: it has stopped, ended by SIGKILL") as caught,
        run_once(registry, registry.small("one"), state=tmp_path) as url,
    ):
        (record,) = (tmp_path / "once").glob("*.json")
        os.kill(json.loads(record.read_bytes())["process"]["pid"], signal.SIGKILL)
        assert wait_until(lambda: not _connects(url), 5)
        raise ImageFault("no answers")
    assert not isinstance(caught.value, ImageFault)


def test_a_port_that_another_program_took_is_tried_once_more(
    target: BlueGreen, registry: MemoryRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        ports = [taken.getsockname()[1], free_port(), taken.getsockname()[1], free_port()]
        for module in (bluegreen, process_once):
            monkeypatch.setattr(module, "free_port", lambda: ports.pop(0))
        live = deploy(target, registry, "one", 1)
        assert word_at(live.url) == "one"
        with run_once(registry, registry.small("one"), state=tmp_path) as url:
            assert word_at(url) == "one"
        assert ports == []
        ports += [taken.getsockname()[1]] * 2
        with pytest.raises(TargetError, match="was taken by another program") as caught:
            deploy(target, registry, "two", 2)
        assert not isinstance(caught.value, ImageFault)
    assert word_at(live.url) == "one"


def test_what_this_machine_lacks_is_not_the_image_s_fault(
    target: BlueGreen, registry: MemoryRegistry, tmp_path: Path
) -> None:
    digest = registry.small("one")
    runner = target.runner
    request = DeployRequest(app="small", release=1, registry=registry, digest=digest)
    instance = Instance(
        token="t", digest=digest, reference="", release=1, env={}, port=free_port(), started="",
        log=str(tmp_path / "log"),
    )  # fmt: skip
    prepared = runner.prepare(request, print)
    for missing, of_the_image in (
        ({"argv": ("/nowhere/program",)}, True),
        ({"argv": ("no-such-program",)}, True),
        ({"argv": (str(Path(prepared.argv[0]).with_name("of-no-environment")),)}, False),
        ({"folder": "/nowhere"}, False),
    ):
        with pytest.raises(TargetError, match="cannot be started: No such file") as caught:
            runner.start(instance, msgspec.structs.replace(prepared, **missing))
        assert isinstance(caught.value, ImageFault) is of_the_image


def test_two_deploys_at_once_never_interleave(
    target: BlueGreen, registry: MemoryRegistry, tmp_path: Path
) -> None:
    inside = threading.Semaphore(1)

    def run(number: int) -> None:
        def check(url: str) -> None:
            # Between the first check and the last there is nobody else.
            if url != target.url():
                assert inside.acquire(blocking=False)
            else:
                inside.release()

        deploy(target, registry, f"word{number}", number, check=check)

    threads = [threading.Thread(target=run, args=(number,)) for number in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert target.current() is not None
    assert wait_until(lambda: len(processes(tmp_path)) == 2, 5)


def test_run_once_gives_a_private_service_and_removes_it(
    tmp_path: Path, registry: MemoryRegistry
) -> None:
    digest = registry.small("one")
    with run_once(registry, digest, state=tmp_path, env={"MORE": "1"}) as url:
        assert client.check_version(url, digest=digest).model.digest == "sha256:one"
        assert json.loads(client.get(url, "/environ")[1])["environ"]["MORE"] == "1"
    assert not _connects(url)
    assert not processes(tmp_path)


def test_run_once_of_an_image_that_does_not_start_tells_its_last_words(
    tmp_path: Path, registry: MemoryRegistry
) -> None:
    with (
        pytest.raises(TargetError, match=r"(?s)does not start.*the model is broken"),
        run_once(registry, registry.small("crash"), state=tmp_path),
    ):
        pass
    assert not processes(tmp_path)


def test_run_once_ends_with_the_process_that_ran_it(
    target: BlueGreen, tmp_path: Path, registry: MemoryRegistry
) -> None:
    code = """
        import os, signal, sys
        from pathlib import Path
        from support.small_image import MemoryRegistry
        from tandem.targets.once import run_once
        registry = MemoryRegistry()
        with run_once(registry, registry.small("one"), state=Path(sys.argv[1])) as url:
            os.kill(os.getpid(), signal.SIGKILL)
    """
    folder = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": f"{folder.parent}:{folder}"},
    )
    assert done.returncode == -signal.SIGKILL
    assert wait_until(lambda: not processes(tmp_path), 5)
    assert list((tmp_path / "once").iterdir())
    # What it had written down is forgotten by whoever comes next.
    assert [line.endswith("was cut off: stopped it") for line in target.sweep()] == [True]
    assert not list((tmp_path / "once").iterdir())
    assert target.sweep() == sweep_once(state=tmp_path) == []
