"""Code that is not ours, held by the sandbox: what it may not see, keep, or outlive."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tandem import sandbox
from tandem.errors import SandboxError
from tandem.sandbox import Finished, Limits, redact


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


def python(folder: Path, script: str, **limits: float) -> Finished:
    return sandbox.run(
        [sys.executable, "-c", script],
        folder=folder,
        readable=[Path(sys.prefix)],
        env={},
        limits=Limits(**limits),  # type: ignore[arg-type]
        merge_output=True,
    )


@pytest.fixture
def confined(folder: Path) -> None:
    if "namespaces:" not in python(folder, "").confinement:
        pytest.skip("this machine gives no namespaces")


def test_it_says_what_held_it_and_how_it_ended(folder: Path) -> None:
    done = python(folder, "print('hello'); raise SystemExit(7)")
    assert (done.code, done.stdout, done.stopped) == (7, b"hello\n", "")
    assert done.confinement


def test_no_variable_of_ours_is_readable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_CLIENT_SECRET", "a-canary-of-ours")
    script = (
        "import glob, os\n"
        "for path in glob.glob('/proc/[0-9]*/environ'):\n"
        "    try: print(open(path, 'rb').read())\n"
        "    except OSError: pass\n"
    )
    # Started with the canary, so that it is in what /proc shows of it.
    outer = (
        "import sys; from pathlib import Path; from tandem import sandbox\n"
        f"done = sandbox.run([sys.executable, '-c', {script!r}], folder=Path({str(folder)!r}),"
        " readable=[Path(sys.prefix)], env={}, merge_output=True)\n"
        "assert done.code == 0, done\n"
        "sys.stdout.buffer.write(done.stdout)\n"
    )
    done = subprocess.run([sys.executable, "-c", outer], capture_output=True, check=True)
    assert done.stdout
    assert b"canary" not in done.stdout


@pytest.mark.usefixtures("confined")
def test_nothing_else_of_this_machine_can_be_read_or_written(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    record = tmp_path / "store" / "record"
    record.write_text("ours")
    temporary = Path("/tmp") / f"sandbox-test-{os.getpid()}"
    script = (
        f"open({str(temporary)!r}, 'w').close()\n"
        "open('kept', 'w').close()\n"
        f"import os; assert not os.path.exists({str(record.parent)!r})\n"
        f"os.makedirs({str(record.parent)!r}, exist_ok=True)\n"
    )
    python(folder, script)
    assert record.read_text() == "ours"
    assert (folder / "kept").exists()
    assert not temporary.exists()


@pytest.mark.usefixtures("confined")
def test_the_network_is_its_own_loopback(folder: Path) -> None:
    script = (
        "import socket\n"
        "server = socket.create_server(('127.0.0.1', 0))\n"
        "socket.create_connection(server.getsockname())\n"
        "print([name for _, name in socket.if_nameindex()])\n"
    )
    done = python(folder, script)
    assert done.code == 0, done.stdout
    assert b"eth" not in done.stdout


def test_a_folder_that_is_only_readable_is_not_written(folder: Path, tmp_path: Path) -> None:
    shown = tmp_path / "shown"
    shown.mkdir()
    (shown / "file").write_text("text")
    done = sandbox.run(
        ["/bin/sh", "-c", f"cat {shown}/file; echo x > {shown}/new"],
        folder=folder,
        readable=[shown],
        env={"PATH": os.defpath},
    )
    assert done.stdout == b"text"
    if "namespaces:" in done.confinement:
        assert list(shown.iterdir()) == [shown / "file"]


DAEMON = (
    "import os, sys, time\n"
    "if os.fork() == 0:\n"
    "    os.setsid()\n"
    "    if os.fork() == 0:\n"
    "        sleep = 'import time; time.sleep(600)'\n"
    "        os.execv(sys.executable, [sys.executable, '-c', sleep, {0!r}])\n"
    "    os._exit(0)\n"
    "time.sleep({1})\n"
)


def with_mark(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.cmdline()[-1:] == [mark]:
                found.append(process)
    return found


def test_a_daemon_ends_with_the_run(folder: Path, tmp_path: Path) -> None:
    mark = f"mark-{tmp_path}"
    assert python(folder, DAEMON.format(mark, 0.3)).code == 0
    assert not with_mark(mark)


def test_all_of_it_ends_when_our_process_is_killed(folder: Path, tmp_path: Path) -> None:
    mark = f"mark-{tmp_path}"
    outer = (
        "import sys; from pathlib import Path; from tandem import sandbox\n"
        f"sandbox.run([sys.executable, '-c', {DAEMON.format(mark, 600)!r}],"
        f" folder=Path({str(folder)!r}), readable=[Path(sys.prefix)], env={{}})\n"
    )
    ours = subprocess.Popen([sys.executable, "-c", outer])
    while not (daemons := with_mark(mark)):
        assert ours.poll() is None
    ours.send_signal(signal.SIGKILL)
    ours.wait()
    assert not psutil.wait_procs(daemons, timeout=30)[1]


@pytest.mark.parametrize(
    ("script", "limits", "words"),
    [
        ("import time; time.sleep(600)", {"seconds": 1.0}, "longer than 1 s"),
        (
            "import os, time\nfor _ in range(50):\n    if not os.fork(): time.sleep(60)\n"
            "time.sleep(60)",
            {"processes": 20},
            "more than 20 processes",
        ),
    ],
)
def test_a_limit_ends_it(folder: Path, script: str, limits: dict[str, float], words: str) -> None:
    done = python(folder, script, **limits)
    assert done.code is None
    assert words in done.stopped


def test_memory_is_bounded(folder: Path) -> None:
    assert python(folder, "x = b'1' * 10**9", memory=2**28).code != 0


def test_output_is_bounded_and_its_end_is_kept(folder: Path) -> None:
    done = python(folder, "print('x' * 10**6); print('the end')", output=1000)
    assert len(done.stdout) == 1000
    assert done.stdout.endswith(b"the end\n")


def test_a_folder_that_is_not_there_is_a_fault_of_the_sandbox(tmp_path: Path) -> None:
    with pytest.raises(SandboxError, match="does not exist"):
        python(tmp_path / "missing", "")


def test_values_of_secret_variables_are_taken_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_REGISTRY_PASSWORD", "hunter2-hunter2")
    assert redact("login hunter2-hunter2 failed") == "login … failed"


WITHOUT_NAMESPACES = (
    "import os, sys; from pathlib import Path; from tandem import sandbox\n"
    "sandbox.namespaces_missing = lambda: 'as asked'\n"
    "script = f'setsid sleep 6001 & echo $!; cat /proc/{os.getpid()}/environ'\n"
    "done = sandbox.run(['/bin/sh', '-c', script], folder=Path(sys.argv[1]),"
    " env={'PATH': os.defpath})\n"
    "print(done.confinement)\n"
    "sys.stdout.buffer.write(done.stdout)\n"
    "done = sandbox.run(['/bin/sleep', '600'], folder=Path(sys.argv[1]), env={},"
    " limits=sandbox.Limits(seconds=0.5))\n"
    "assert done.stopped and done.code is None, done\n"
)


def test_without_namespaces_it_says_so_and_still_ends_all_and_hides_our_environment(
    folder: Path,
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_NAMESPACES, str(folder)],
        env={**os.environ, "AZURE_CLIENT_SECRET": "a-canary-of-ours"},
        capture_output=True,
        text=True,
        check=True,
    )
    words, daemon, *rest = done.stdout.splitlines()
    assert "gives no namespaces (as asked)" in words
    assert not psutil.pid_exists(int(daemon))
    assert "canary" not in "".join(rest)
