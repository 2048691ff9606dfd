"""Commits of a Git remote, read with the real git from real repositories."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.repositories import Repository

from tandem.errors import BuildError, SourceError
from tandem.source import Source, commit_page


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    repository = Repository(tmp_path / "remote")
    repository.commit({"app.py": "one\n", "folder/data.txt": "data\n"}, "first")
    return repository


def source(tmp_path: Path, repository: Repository, branch: str = "") -> Source:
    return Source(f"{repository.folder}{branch}", mirror=tmp_path / "mirror")


def test_newest_is_the_head_of_the_watched_branch(tmp_path: Path, repository: Repository) -> None:
    watched = source(tmp_path, repository, "#main")
    sha = repository.commit({"app.py": "two\n"}, "second: a subject\twith a tab")
    newest = watched.newest()
    assert newest.sha == watched.newest_sha() == sha
    assert newest.subject == "second: a subject\twith a tab"
    assert newest.author == "A Developer"
    assert watched.history()[0].sha == sha


def test_another_branch_is_not_watched(tmp_path: Path, repository: Repository) -> None:
    watched = source(tmp_path, repository, "#main")
    before = watched.newest().sha
    repository.git("checkout", "--quiet", "-b", "other")
    repository.commit({"app.py": "other\n"})
    assert watched.newest().sha == before


def test_commits_with_the_same_files_have_the_same_tree(
    tmp_path: Path, repository: Repository
) -> None:
    watched = source(tmp_path, repository)
    first = watched.newest()
    repository.commit({"app.py": "two\n"})
    assert watched.newest().tree != first.tree
    repository.commit({"app.py": "one\n"})
    assert watched.newest().tree == first.tree
    assert watched.newest().sha != first.sha


def test_checkout_is_the_commit_and_nothing_else(tmp_path: Path, repository: Repository) -> None:
    watched = source(tmp_path, repository)
    sha = watched.newest().sha
    (repository.folder / "app.py").write_text("not committed\n")
    (repository.folder / "stray.py").write_text("not tracked\n")
    folder = tmp_path / "checkout"
    folder.mkdir()
    watched.checkout(sha, folder)
    files = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    assert files == ["app.py", "folder/data.txt"]
    assert (folder / "app.py").read_text() == "one\n"
    assert sorted(watched.left_out()) == ["app.py", "stray.py"]


def test_an_old_commit_can_be_checked_out_after_a_force_push(
    tmp_path: Path, repository: Repository
) -> None:
    watched = source(tmp_path, repository)
    repository.commit({"app.py": "rewritten later\n"})
    old = watched.newest()
    repository.git("reset", "--quiet", "--hard", "HEAD~1")
    new = repository.commit({"app.py": "another way\n"})
    assert watched.newest().sha == new
    folder = tmp_path / "checkout"
    folder.mkdir()
    watched.checkout(old.sha, folder)
    assert (folder / "app.py").read_text() == "rewritten later\n"


def test_a_rewound_branch_has_its_old_head_again(tmp_path: Path, repository: Repository) -> None:
    watched = source(tmp_path, repository)
    first = watched.newest().sha
    repository.commit({"app.py": "two\n"})
    assert watched.newest().sha != first
    repository.git("reset", "--quiet", "--hard", first)
    assert watched.newest().sha == first
    assert [commit.sha for commit in watched.history()] == [first]


def test_a_branch_that_vanished_is_said_and_what_was_seen_stays(
    tmp_path: Path, repository: Repository
) -> None:
    watched = source(tmp_path, repository, "#main")
    sha = watched.newest().sha
    repository.git("checkout", "--quiet", "-b", "other")
    repository.git("branch", "--quiet", "-D", "main")
    with pytest.raises(SourceError, match="has no branch main"):
        watched.newest()
    assert watched.history()[0].sha == sha


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("{tmp}/nothing-there", "not a Git repository"),
        ("{tmp}", "not a Git repository"),
        ("ext::sh -c true", "not allowed"),
        ("{remote}#nowhere", "has no branch nowhere"),
        ("{remote}#--upload-pack=x", "cannot be the name of a branch"),
        ("{remote}#a..b", "cannot be the name of a branch"),
    ],
)
def test_what_cannot_be_read_is_one_line(
    tmp_path: Path, repository: Repository, url: str, message: str
) -> None:
    with pytest.raises(SourceError, match=message) as caught:
        Source(
            url.format(tmp=tmp_path, remote=repository.folder), mirror=tmp_path / "mirror"
        ).newest()
    assert "\n" not in str(caught.value)


def test_a_repository_without_a_commit_is_said(tmp_path: Path) -> None:
    empty = Repository(tmp_path / "empty")
    with pytest.raises(SourceError, match="has no commit yet"):
        source(tmp_path, empty).newest()


def test_a_password_in_the_remote_is_not_repeated(tmp_path: Path) -> None:
    watched = Source("http://me:hunter2@127.0.0.1:9/repo.git", mirror=tmp_path / "mirror")
    with pytest.raises(SourceError) as caught:
        watched.newest()
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in watched.url


def test_a_fetch_that_was_killed_does_not_stop_the_next(
    tmp_path: Path, repository: Repository
) -> None:
    watched = source(tmp_path, repository, "#main")
    watched.newest()
    # What git leaves behind when it is killed in the middle of an update.
    for ref in (tmp_path / "mirror").rglob("refs/tandem/*"):
        ref.with_name(ref.name + ".lock").touch()
    for git in (tmp_path / "mirror").glob("*.git"):
        (git / "shallow.lock").touch()
    sha = repository.commit({"app.py": "two\n"})
    assert watched.newest().sha == sha


def test_a_shallow_clone_can_be_watched(tmp_path: Path, repository: Repository) -> None:
    repository.commit({"app.py": "two\n"})
    repository.git(
        "clone", "--quiet", "--depth=1", f"file://{repository.folder}", str(tmp_path / "shallow")
    )
    watched = Source(str(tmp_path / "shallow"), mirror=tmp_path / "mirror")
    assert watched.newest().subject == "change"


def test_a_malformed_hash_is_refused(tmp_path: Path, repository: Repository) -> None:
    with pytest.raises(SourceError, match="not the full hash"):
        source(tmp_path, repository).commit("HEAD; rm -rf")


SHA = "0123456789" * 4


@pytest.mark.parametrize(
    ("remote", "page"),
    [
        ("https://github.com/a/b", "https://github.com/a/b/commit/SHA"),
        ("https://github.com/a/b.git/", "https://github.com/a/b/commit/SHA"),
        ("https://user:secret@github.com/a/b.git", "https://github.com/a/b/commit/SHA"),
        ("git@github.com:a/b.git", "https://github.com/a/b/commit/SHA"),
        ("ssh://git@ssh.github.com:443/a/b.git", "https://github.com/a/b/commit/SHA"),
        ("https://gitlab.com/g/sub/b.git", "https://gitlab.com/g/sub/b/-/commit/SHA"),
        ("git@gitlab.example.com:g/b.git", "https://gitlab.example.com/g/b/-/commit/SHA"),
        ("https://gitlab.example.com:8443/g/b", "https://gitlab.example.com:8443/g/b/-/commit/SHA"),
        ("ssh://git@gitlab.example.com:2222/g/b", "https://gitlab.example.com/g/b/-/commit/SHA"),
        ("https://user@bitbucket.org/a/b.git", "https://bitbucket.org/a/b/commits/SHA"),
        ("git@bitbucket.org:a/b.git", "https://bitbucket.org/a/b/commits/SHA"),
        ("https://o@dev.azure.com/o/p/_git/r", "https://dev.azure.com/o/p/_git/r/commit/SHA"),
        ("https://dev.azure.com/o/_git/r", "https://dev.azure.com/o/_git/r/commit/SHA"),
        (
            "https://dev.azure.com/o/my%20p/_git/r",
            "https://dev.azure.com/o/my%20p/_git/r/commit/SHA",
        ),
        ("git@ssh.dev.azure.com:v3/o/my p/r", "https://dev.azure.com/o/my%20p/_git/r/commit/SHA"),
        ("https://o.visualstudio.com/p/_git/r", "https://o.visualstudio.com/p/_git/r/commit/SHA"),
        ("o@vs-ssh.visualstudio.com:v3/o/p/r", "https://dev.azure.com/o/p/_git/r/commit/SHA"),
    ],
)
def test_the_page_of_a_commit_is_found_without_the_remotes_login(remote: str, page: str) -> None:
    assert commit_page(remote, SHA) == page.replace("SHA", SHA)


@pytest.mark.parametrize(
    "remote",
    [
        "/srv/git/a.git",
        "../a",
        "file:///srv/github.com/a/b",
        "http://127.0.0.1:9000/a/b",
        "https://example.com/a/b",
        "https://github.com.example.com:x/a/b",
        "https://notgithub.com/a/b",
        "https://github.com/a",
        "https://github.com/a/../b",
        "https://github.com/a/b)[x](javascript:1",
        "git@ssh.dev.azure.com:v4/o/p/r",
        "https://example.com/o/_git/r",
    ],
)
def test_a_remote_without_known_pages_has_none(remote: str) -> None:
    assert commit_page(remote, SHA) is None


def test_what_is_no_hash_has_no_page() -> None:
    assert commit_page("https://github.com/a/b", "HEAD") is None


def test_a_folder_has_no_pages(tmp_path: Path, repository: Repository) -> None:
    assert Source(str(repository.folder), mirror=tmp_path / "mirror").page(SHA) is None


def test_content_that_git_does_not_hold_is_named(tmp_path: Path, repository: Repository) -> None:
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 9\n"
    repository.commit({"folder/large.bin": pointer})
    other = repository.git("rev-parse", "HEAD").strip()
    repository.git("update-index", "--add", "--cacheinfo", f"160000,{other},part")
    repository.git("commit", "--quiet", "-m", "a submodule")
    watched = source(tmp_path, repository)
    folder = tmp_path / "checkout"
    folder.mkdir()
    with pytest.raises(BuildError, match=r"folder/large\.bin, part"):
        watched.checkout(watched.newest().sha, folder)


def test_those_who_start_at_the_same_moment_do_not_fail_one_another(tmp_path: Path) -> None:
    made = Repository(tmp_path / "repository")
    sha = made.commit({"a.txt": "one"}, "one")

    def one(number: int) -> str:
        source = Source(f"{made.folder}#main", mirror=tmp_path / "mirror")
        found = source.newest().sha
        folder = tmp_path / f"out-{number}"
        folder.mkdir()
        source.checkout(found, folder)
        source._fetch()
        return found

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(one, range(24))) == {sha}
