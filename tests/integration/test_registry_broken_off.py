"""A push that is killed, or finds the disk full, leaves nothing half-made; a second one ends it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
from support.oci_samples import read, small_image
from support.services import require

from tandem.oci import Registry, open_registry
from tandem.oci.pull import pull
from tandem.oci.push import push

REPOSITORY = Path(__file__).parents[2]

# Pushes an image whose layer comes slowly, and says when a part of it has gone.
SLOW = """\
import contextlib, io, sys, time
sys.path[:0] = sys.argv[1:3]
from support.oci_samples import small_image
from tandem.oci import open_registry
from tandem.oci.push import push

class Slow(io.BytesIO):
    def read(self, size=-1):
        print("reading", flush=True)
        time.sleep(float(sys.argv[4]))
        return super().read(min(size, 100_000))

image, sources = small_image(bytes(1_000_000))
slow = {digest: (lambda one=one: Slow(one().read())) for digest, one in sources.items()}
push(open_registry(sys.argv[3]), image, slow, tag="one")
"""


@pytest.fixture(params=["folder", "registry"])
def url(request, tmp_path, monkeypatch) -> str:
    if request.param == "folder":
        return f"oci:{tmp_path}/images"
    require("registry")
    url = f"{os.environ['REGISTRY']}/test/{uuid.uuid4().hex[:12]}"
    monkeypatch.setenv("TANDEM_REGISTRY", url)
    monkeypatch.setenv("TANDEM_REGISTRY_USERNAME", os.environ["REGISTRY_USERNAME"])
    monkeypatch.setenv("TANDEM_REGISTRY_PASSWORD", os.environ["REGISTRY_PASSWORD"])
    return url


@pytest.mark.parametrize("reads", [1, 4, 8])
def test_killed_push_shows_nothing_and_a_second_one_ends_it(url, reads):
    argv = [sys.executable, "-c", SLOW, str(REPOSITORY), str(REPOSITORY / "tests"), url, "0.05"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        for _ in range(reads):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    registry: Registry = open_registry(url)
    image, sources = small_image(bytes(1_000_000))
    assert registry.get_manifest("one") is None
    assert registry.get_manifest(image.digest) is None
    assert registry.head_blob(image.layers[0].descriptor.digest) is None
    push(registry, image, sources, tag="one")
    assert pull(registry, "one") == image
    assert len(read(registry, image.layers[0].descriptor.digest)) > 1_000_000


def test_full_disk_is_one_clear_line_and_a_second_push_ends_it(tmp_path):
    place = tmp_path / "small"
    place.mkdir()
    script = f"""
        mount -t tmpfs -o size=700k tmpfs {place} || exit 77
        "$0" -c "$1" "$2" "$3" oci:{place}/images 0
        echo "exit $?"
        find {place} -type f
        mount -o remount,size=9m {place}
        "$0" -c "$1" "$2" "$3" oci:{place}/images 0
        echo "exit $?"
    """
    program = SLOW.replace("push(open", "from tandem.errors import TandemError\ntry: push(open")
    program += 'except TandemError as problem: raise SystemExit(f"said: {problem}")\n'
    argv = ["unshare", "--mount", "sh", "-c", script, sys.executable, program, str(REPOSITORY)]
    done = subprocess.run([*argv, str(REPOSITORY / "tests")], capture_output=True, text=True)
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("this user may not mount a small disk")
    said = [line for line in done.stdout.splitlines() if line != "reading"]
    assert said[0] == "exit 1"
    assert said[-1] == "exit 0"
    left = {Path(line).name for line in said[1:-1]}
    config = small_image(bytes(1_000_000))[0].config_descriptor.digest.removeprefix("sha256:")
    assert left <= {"oci-layout", config}, "no part of a blob, and no index"
    assert done.stderr.startswith("said: ")
    assert "disk is full" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_killed_push_is_followed_by_one_that_cleans_up(tmp_path):
    url = f"oci:{tmp_path}/images"
    argv = [sys.executable, "-c", SLOW, str(REPOSITORY), str(REPOSITORY / "tests"), url, "0.05"]
    blobs = Path(tmp_path / "images/blobs/sha256")
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        # One blob may be whole while the next has not been begun.
        while process.poll() is None and not list(blobs.glob(".partial-*")):
            process.stdout.readline()
        process.kill()
    registry = open_registry(url)
    left = list(blobs.glob(".partial-*"))
    assert left
    for partial in left:  # blobs go up side by side
        os.utime(partial, (1, time.time() - 7200))
    registry.collect()
    assert not list(blobs.glob(".partial-*"))
