"""Requirements as people write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tandem.build.requirements import from_pylock, read_requirements
from tandem.errors import RecipeError


def read(folder: Path, text: str | bytes, **others: str):
    data = text if isinstance(text, bytes) else text.encode()
    (folder / "requirements.txt").write_bytes(data)
    for name, more in others.items():
        (folder / f"{name}.txt").write_text(more)
    return read_requirements(folder, "requirements.txt")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "utf-8"])
def test_a_file_is_read_as_windows_writes_it(tmp_path: Path, encoding: str) -> None:
    found = read(tmp_path, "Flask==3.0.0\r\nnumpy>=1.26\r\n".encode(encoding))
    assert found.lines == ["Flask==3.0.0", "numpy>=1.26"]
    assert bool(found.notes) == (encoding == "utf-16")


def test_what_is_for_windows_alone_is_left_out_and_said(tmp_path: Path) -> None:
    found = read(tmp_path, "flask\npywin32==306\n")
    assert found.lines == ["flask"]
    assert "pywin32 is for Windows alone" in found.notes[0]


def test_sklearn_stands_for_scikit_learn(tmp_path: Path) -> None:
    assert read(tmp_path, "sklearn==0.0\n").lines == ["scikit-learn"]


def test_includes_constraints_and_comments_are_followed(tmp_path: Path) -> None:
    text = "# all\n-r base.txt\n-c pins.txt\nrequests  # http\n"
    found = read(tmp_path, text, base="flask\n-r base.txt\n", pins="flask==3.0\n")
    assert found.lines == ["flask", "requests"]
    assert found.constraints == ["flask==3.0"]


def test_the_repository_itself_is_packed_and_not_installed(tmp_path: Path) -> None:
    found = read(tmp_path, "-e .\nflask\n")
    assert found.lines == ["flask"]
    assert "packed, not installed" in found.notes[0]


def test_a_file_whose_lines_all_have_hashes_is_hashed(tmp_path: Path) -> None:
    assert read(tmp_path, "flask==3.0 \\\n    --hash=sha256:ab\n").hashed
    assert not read(tmp_path, "flask==3.0 --hash=sha256:ab\nnumpy\n").hashed


@pytest.mark.parametrize(
    "line",
    [
        "git+https://example.com/a.git",
        "wine @ https://user:secret@example.com/wine.whl",
        "--extra-index-url https://packages.example.com/simple",
        "./vendored/thing.whl",
        "-r ../outside.txt",
        "thing @ file:///tmp/thing.whl",
    ],
)
def test_other_sources_are_refused_without_their_secrets(tmp_path: Path, line: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read(tmp_path, f"flask\n{line}\n")
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_hosts_that_the_operator_names_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TANDEM_ALLOWED_HOSTS", "packages.example.com")
    found = read(tmp_path, "--extra-index-url https://packages.example.com/simple\nflask\n")
    assert found.options == ["--extra-index-url https://packages.example.com/simple"]


def test_a_pylock_becomes_pinned_lines_with_its_hashes(tmp_path: Path) -> None:
    (tmp_path / "pylock.toml").write_text(
        'lock-version = "1.0"\n[[packages]]\nname = "flask"\nversion = "3.0"\n'
        "marker = \"python_version > '3'\"\n"
        '[[packages.wheels]]\nurl = "https://example.com/f.whl"\nhashes = { sha256 = "ab" }\n'
    )
    assert from_pylock(tmp_path, "pylock.toml") == [
        "flask==3.0 ; python_version > '3' --hash=sha256:ab"
    ]


def test_a_file_that_is_no_pylock_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "pylock.toml").write_text("[[packages]]\nversion = 1\n")
    with pytest.raises(RecipeError, match="no lock file"):
        from_pylock(tmp_path, "pylock.toml")
