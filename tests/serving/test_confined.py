"""The service as its image runs it: no user of the machine, and no place where it may write."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.asking import REPOSITORY, Running, digit

USER = "65532"
# A mount namespace of its own, in which all that is mounted from disk or memory is read-only.
CONFINE = """
mount --make-rprivate / &&
while read -r device point kind rest; do
    case $kind in proc|sysfs|devpts|mqueue|cgroup*) continue;; esac
    mount -o remount,bind,ro "$point" || exit 1
done < /proc/mounts &&
exec setpriv --reuid=$0 --regid=$0 --clear-groups --bounding-set=-all --no-new-privs "$@"
"""
CONFINED = ["unshare", "--mount", "sh", "-c", CONFINE, USER]


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A folder that every user may read (those of pytest are private)."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def why_not(folder: Path) -> str | None:
    """What this machine does not permit, if anything."""
    if os.geteuid() != 0:
        return "only root may make a mount namespace"
    if missing := [tool for tool in ("unshare", "setpriv") if not shutil.which(tool)]:
        return f"{missing[0]} is not installed"
    writes = f"import flask, pathlib; pathlib.Path({str(folder / 'x')!r}).touch()"
    tried = subprocess.run(
        [*CONFINED, sys.executable, "-c", writes], capture_output=True, text=True
    )
    if "Read-only file system" not in tried.stderr:
        return f"it cannot be confined: {tried.stderr.strip()[-200:]}"
    return None


def test_it_answers_without_a_place_to_write_and_without_rights(packages, shared_folder):
    folder = shared_folder / "package"
    shutil.copytree(packages("digits"), folder)
    shared_folder.chmod(0o777)  # so that it is the file system that refuses
    if reason := why_not(shared_folder):
        pytest.skip(reason)
    running = Running(folder, REPOSITORY, confined=CONFINED)
    try:
        running.wait_ready()
        answer = running.ask("/score", b'{"rows": [%s]}' % str(digit(0)[0]).encode())
        assert answer.status == 200
        assert b"tandem_rows_total 1.0" in running.ask("/metrics").body
        status = Path(f"/proc/{running.process.pid}/status").read_text()
        assert f"Uid:\t{USER}\t{USER}" in status
        assert "CapBnd:\t0000000000000000" in status
        code, _, errors = running.stop()
        assert (code, errors) == (0, "")
    finally:
        if running.process.poll() is None:
            running.process.kill()
            running.process.communicate()
