"""What nobody used for a while goes by itself, and can be made again."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.tiny import Tiny

from tandem.release import housekeeping
from tandem.release.build import build_app
from tandem.release.judging import judge_missing
from tandem.release.pack import pack
from tandem.release.pair import choose_pair
from tandem.util import folders

OLD = time.time() - 10 * 24 * 3600


@pytest.fixture
def tiny(tmp_path: Path) -> Tiny:
    return Tiny(tmp_path / "tiny")


def aged(folder: Path, count: int, *, file: bool = False) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for number in range(count):
        one = folder / f"old-{number}"
        one.write_bytes(b"x" * 1000) if file else one.mkdir()
        os.utime(one, (OLD + number, OLD + number))
        made.append(one)
    return made


def test_the_latest_of_each_kind_stay_and_the_rest_goes_when_it_is_old(tiny: Tiny) -> None:
    state = tiny.project.state
    models = aged(state / "models", 8)
    judged = aged(state / "models" / "judged", 7)
    layers = aged(state / "layers", 9, file=True)
    done = housekeeping.tidy(tiny.project)
    assert [one for one in models if one.exists()] == models[-5:]
    assert [one for one in judged if one.exists()] == judged[-5:]
    assert [one for one in layers if one.exists()] == layers[-5:]
    assert (done.entries, done.bytes) == (3 + 2 + 4, 4000)


def test_what_was_used_lately_stays_however_much_it_is(tiny: Tiny) -> None:
    models = aged(tiny.project.state / "models", 12)
    for one in models:
        os.utime(one)
    assert housekeeping.tidy(tiny.project).entries == 0


def test_a_release_goes_on_after_all_was_removed(tiny: Tiny) -> None:
    tiny.commit("one")
    tiny.publish()
    build_app(tiny.project)
    judge_missing(tiny.project)
    packed = pack(tiny.project, choose_pair(tiny.project))
    for kind in housekeeping._kinds(tiny.project.state):
        for one in kind.iterdir() if kind.is_dir() else ():
            os.utime(one, (OLD, OLD))
            for number in range(housekeeping.KEEP):
                (kind / f"newer-{number}").touch()
    assert housekeeping.tidy(tiny.project, unused=60).entries > 2
    assert pack(tiny.project, choose_pair(tiny.project)).digest == packed.digest
    assert build_app(tiny.project, again=True).passed


def test_it_is_done_once_a_day(tiny: Tiny) -> None:
    models = aged(tiny.project.state / "models", 8)
    housekeeping.tidy_daily(tiny.project)
    assert models[0].exists(), "the first time only begins to count"
    stamp = tiny.project.state / ".tidied"
    os.utime(stamp, (OLD, OLD))
    housekeeping.tidy_daily(tiny.project)
    assert not models[0].exists()
    assert time.time() - stamp.stat().st_mtime < 60


def test_the_mirror_is_packed_and_still_has_every_commit(tiny: Tiny) -> None:
    shas = []
    for number in range(4):
        shas.append(tiny.commit(f"commit {number}"))
        tiny.project.source.newest()
    mirror = next((tiny.project.state / "source").glob("*.git"))
    left = mirror / "tmpabcdef"
    left.mkdir()
    housekeeping.tidy(tiny.project)
    assert not left.exists()
    assert len(list((mirror / "objects" / "pack").glob("*.pack"))) == 1
    assert [commit.sha for commit in tiny.project.source.history()] == shas[::-1]


def test_what_a_killed_process_was_filling_goes_and_a_living_ones_stays(tiny: Tiny) -> None:
    state = tiny.project.state
    names = (".partial-a", ".making-b", ".digits-000001.x.tmp")
    old = [state / "models" / names[2], state / "layers" / names[0]]
    old.append(state / "target" / "roots" / names[1])
    new = state / "target" / "layers" / names[1]
    for one in [*old, new]:
        one.mkdir(parents=True)
    for one in old:
        os.utime(one, (OLD, OLD))
    housekeeping.tidy(tiny.project)
    assert [one.exists() for one in [*old, new]] == [False, False, False, True]


def test_a_folder_of_work_that_was_killed_is_removed_by_the_next(tmp_path: Path) -> None:
    program = "from tandem.util import folders; import sys, os; from pathlib import Path\n"
    program += "with folders.scratch('trial') as f:\n print(f, flush=True); os.kill(os.getpid(), 9)"
    said = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    left = Path(said.stdout.strip())
    assert left.is_dir()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(folders.tempfile, "gettempdir", lambda: str(tmp_path))
        with folders.scratch("trial") as mine, folders.scratch("trial") as other:
            assert not left.exists()
            assert mine.is_dir() and other.is_dir()
        assert list((tmp_path / f"tandem-{os.getuid()}" / "trial").iterdir()) == []


def test_a_temporary_folder_that_others_may_write_to_is_not_used(tmp_path: Path) -> None:
    (tmp_path / f"tandem-{os.getuid()}").mkdir(mode=0o777)
    (tmp_path / f"tandem-{os.getuid()}").chmod(0o777)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(folders.tempfile, "gettempdir", lambda: str(tmp_path))
        with folders.scratch("trial") as mine:
            assert f"tandem-{os.getuid()}" not in mine.parts
