"""`python -m serving` as a process: it starts or says why not, and stops without losing work."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import socket
import time
from pathlib import Path

import pytest
from support.asking import REPOSITORY, digit

from tandem.errors import SettingError
from tandem.serving.settings import read


def test_it_answers_from_any_folder_and_stops_cleanly(start):
    running = start(TANDEM_APP_NAME="shop", TANDEM_APP_COMMIT="ab" * 20, TANDEM_RELEASE="41")
    version = running.ask("/version").json
    assert version["app"] == {"name": "shop", "commit": "ab" * 20}
    assert version["release"] == 41
    assert running.ask("/healthz").status == 200
    code, _, err = running.stop()
    assert (code, err) == (0, "")


def test_after_sigterm_readiness_fails_first_and_answers_go_on(start):
    running = start(TANDEM_DRAIN_SECONDS="600")
    running.process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + 30
    while (answer := running.ask("/readyz")).status == 200 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert answer.status == 503
    assert answer.json["detail"] == "The service is stopping."
    answer = running.ask("/version")
    assert answer.status == 200
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize("workers", ["1", "2"])
def test_sigterm_counts_whichever_thread_the_kernel_gives_it_to(start, workers):
    tgkill = getattr(ctypes.CDLL(None), "tgkill", None)
    if tgkill is None:
        pytest.skip("this C library cannot signal a thread")
    running = start(TANDEM_DRAIN_SECONDS="0", TANDEM_WORKERS=workers)
    pid = running.process.pid
    threads = [int(entry.name) for entry in Path(f"/proc/{pid}/task").iterdir()]
    # The main one may be about to wait, and would be told too late: the last one is as far away.
    assert tgkill(pid, max(threads), signal.SIGTERM) == 0
    running.process.communicate(timeout=20)
    assert running.process.returncode == 0


def test_the_drain_ends_after_its_seconds(start):
    running = start(TANDEM_DRAIN_SECONDS="0.2")
    assert running.stop()[0] == 0


def test_the_interpreter_is_not_taken_down_under_the_threads_of_the_server(start, tmp_path):
    # Now and then that aborted the process: 3 stops of 25 on a busy machine.
    hook = "import atexit; atexit.register(lambda: open('taken-down', 'w').close())"
    (tmp_path / "sitecustomize.py").write_text(hook)
    running = start(PYTHONPATH=f"{tmp_path}:{REPOSITORY}")
    assert running.stop()[0] == 0
    assert not (tmp_path / "taken-down").exists()


def test_ctrl_c_stops_at_once(start):
    running = start(TANDEM_DRAIN_SECONDS="600")
    running.process.send_signal(signal.SIGINT)
    running.process.communicate(timeout=20)
    assert running.process.returncode == 0


def test_a_changed_package_stops_the_start_with_one_line(start, packages, tmp_path):
    folder = tmp_path / "package"
    shutil.copytree(packages("digits"), folder)
    model = folder / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"?")
    running = start(folder, ready=False)
    out, err = running.process.communicate(timeout=60)
    assert running.process.returncode == 1
    assert err.decode().count("\n") == 1
    assert "model.onnx" in err.decode()
    assert out == b""


def test_a_taken_port_stops_the_start_with_one_line(start):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        running = start(PORT=str(taken.getsockname()[1]), ready=False)
        _, err = running.process.communicate(timeout=60)
    assert running.process.returncode == 1
    assert err.decode().count("\n") == 1
    assert f"PORT={running.port}" in err.decode()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "http"),
        ("TANDEM_WORKERS", "0"),
        ("TANDEM_DRAIN_SECONDS", "-1"),
        ("TANDEM_LOG", "x"),
    ],
)
def test_a_wrong_setting_is_named_with_its_value(name, value):
    with pytest.raises(SettingError, match=f"{name}='{value}': expected "):
        read({name: value})


def test_a_wrong_setting_stops_the_start_with_one_line(start):
    running = start(ready=False, TANDEM_WORKERS="many")
    _, err = running.process.communicate(timeout=60)
    assert running.process.returncode == 1
    assert err.decode().count("\n") == 1
    assert "TANDEM_WORKERS='many'" in err.decode()


def test_workers_share_the_port_and_their_counts(start):
    running = start(TANDEM_WORKERS="2")
    body = json.dumps({"rows": [digit(0)[0]]}).encode()
    for _ in range(20):
        assert running.ask("/score", body).status == 200
    assert b"tandem_rows_total 20.0" in running.ask("/metrics").body
    code, out, err = running.stop()
    assert (code, err) == (0, "")
    lines = [json.loads(line) for line in out.splitlines()]
    assert {line["message"] for line in lines} == {"ready", "request", "stopped"}


def test_a_worker_that_dies_is_replaced(start):
    running = start(TANDEM_WORKERS="2")
    first, _ = workers(running, 2)
    os.kill(first, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while first in workers(running, 2) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert first not in workers(running, 2)
    running.wait_ready()
    assert running.stop()[0] == 0


def test_workers_end_with_their_parent_even_if_it_is_killed(start):
    running = start(TANDEM_WORKERS="2")
    pids = workers(running, 2)
    running.process.kill()
    running.process.communicate()
    deadline = time.monotonic() + 10
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(alive(pid) for pid in pids)


def test_a_bad_package_is_said_once_by_all_workers(start, tmp_path):
    running = start(tmp_path, ready=False, TANDEM_WORKERS="2")
    _, err = running.process.communicate(timeout=60)
    assert running.process.returncode == 1
    assert err.decode().count("\n") == 1
    assert "manifest.json: missing" in err.decode()


def test_a_stalled_body_is_cut_off(start):
    running = start(TANDEM_BODY_SECONDS="0.5")
    with socket.create_connection(("127.0.0.1", running.port), timeout=20) as slow:
        slow.sendall(
            b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: 100\r\n\r\n{"
        )
        answer = slow.recv(65536)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 408")
    assert running.ask("/readyz").status == 200


def workers(running, count):
    deadline = time.monotonic() + 30
    children = Path(f"/proc/{running.process.pid}/task/{running.process.pid}/children")
    found: list[int] = []
    while len(found) < count and time.monotonic() < deadline:
        found = [int(pid) for pid in children.read_text().split()]
    return found


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_client_with_too_long_a_body_hears_why(start):
    running = start(TANDEM_MAX_BODY_BYTES="1000000")
    answer = running.ask("/score", b"1" * 3_000_000)
    assert answer.status == 413
    assert answer.json["detail"] == "At most 1000000 bytes are taken, the body has 3000000 bytes."
