"""Locks that go with their process, and files that are whole or not there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tandem.util.files import locked, write_whole


def test_a_second_holder_is_told_that_the_lock_is_taken(tmp_path: Path) -> None:
    with locked(tmp_path / "lock") as mine, locked(tmp_path / "lock", wait=False) as other:
        assert mine
        assert not other
    with locked(tmp_path / "lock", wait=False) as again:
        assert again


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from tandem.util.files import locked\n"
        "with locked(Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "lock")])
    with locked(tmp_path / "lock", wait=False) as mine:
        assert mine


def test_a_write_that_fails_leaves_the_old_content_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_whole(tmp_path / "folder" / "state.json", b"old")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(tmp_path / "folder" / "state.json", b"new")
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["state.json"]
    assert (tmp_path / "folder" / "state.json").read_bytes() == b"old"
