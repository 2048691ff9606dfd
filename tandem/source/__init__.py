"""Commits of a Git remote: the newest one, and a clean folder of any one."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec

from tandem.errors import BuildError, SourceError
from tandem.settings import redact
from tandem.source.git import git, is_branch_name
from tandem.source.pages import SHA, commit_page
from tandem.util.files import locked
from tandem.util.folders import scratch

__all__ = ["Commit", "Source", "commit_page"]

_LFS = "version https://git-lfs.github.com/spec/"
_FORMAT = "%H%x00%T%x00%cI%x00%an%x00%s"


class Commit(msgspec.Struct, frozen=True):
    """One commit; `tree` is the hash of its content, equal for equal files."""

    sha: str
    tree: str
    time: str
    author: str
    subject: str

    @property
    def short(self) -> str:
        """The first characters of the hash, for people."""
        return self.sha[:10]


class Source:
    """The watched branch of one Git remote, read through a mirror of our own.

    `url` is a folder or any remote that `git` understands, with `#BRANCH`; without it the remote's
    HEAD is watched. The mirror keeps what was fetched, so a commit stays readable when its branch
    is rewritten.
    """

    def __init__(self, url: str, *, mirror: Path) -> None:
        remote, _, branch = url.partition("#")
        if branch.startswith("-") or (branch and not is_branch_name(branch)):
            raise SourceError(f"TANDEM_SOURCE: {branch!r} cannot be the name of a branch")
        local = Path(remote).expanduser()
        self.folder = local.resolve() if local.exists() else None
        self.remote = str(self.folder) if self.folder else remote
        self.url = redact(remote)
        self.branch = branch or "HEAD"
        self._ref = f"refs/heads/{branch}" if branch else "HEAD"
        key = hashlib.sha256(f"{self.remote}#{self.branch}".encode()).hexdigest()[:16]
        self._mirror = mirror / f"{key}.git"
        self._head = f"refs/tandem/{key}"

    def newest_sha(self) -> str:
        """The branch's newest commit, by one request; nothing is fetched.

        Raises `SourceError` when the remote cannot be read or has no such branch.
        """
        out = self._ask_remote("ls-remote", "--", self.remote, self._ref)
        for line in out.splitlines():
            sha, _, ref = line.partition("\t")
            if ref == self._ref and SHA.fullmatch(sha):
                return sha
        what = "has no commit yet" if self.branch == "HEAD" else f"has no branch {self.branch}"
        raise SourceError(
            f"{self.url} {what}: commit something, or set TANDEM_SOURCE=REMOTE#BRANCH"
        )

    def newest(self) -> Commit:
        """The branch's newest commit, fetched into the mirror. Raises `SourceError`."""
        sha = self.newest_sha()
        if self._mirrored() != sha:
            self._fetch()
        return self.history(1)[0]

    def history(self, limit: int = 200) -> list[Commit]:
        """What the mirror last saw of the branch, newest first, along first parents."""
        out = git(
            "log", "--first-parent", f"--max-count={limit}", "-z", f"--format={_FORMAT}%x00",
            self._head, at=self._mirror,
        )  # fmt: skip
        commits = []
        for entry in out.split("\0\0"):
            fields = entry.strip("\0").split("\0")
            if len(fields) == 5:
                commits.append(Commit(*fields))
        return commits

    def commit(self, sha: str) -> Commit:
        """One commit by its full hash, fetched when the mirror does not have it yet.

        Raises `SourceError`.
        """
        if not SHA.fullmatch(sha):
            raise SourceError(f"{sha!r} is not the full hash of a commit")
        if not self._has(sha):
            self._fetch()
        if not self._has(sha):
            raise SourceError(f"{self.url} has no commit {sha} on {self.branch}")
        out = git("show", "--no-patch", f"--format={_FORMAT}", sha, at=self._mirror)
        return Commit(*out.rstrip("\n").split("\0"))

    def page(self, sha: str) -> str | None:
        """Where a browser shows commit `sha`, where the remote has such pages."""
        return None if self.folder else commit_page(self.remote, sha)

    def left_out(self) -> list[str]:
        """Paths with uncommitted changes, which no build contains.

        Empty for a remote elsewhere.
        """
        if self.folder is None:
            return []
        out = git("-C", str(self.folder), "status", "--porcelain", "-z", "--untracked-files=normal")
        return [entry[3:] for entry in out.split("\0") if len(entry) > 3]

    def checkout(self, sha: str, into: Path) -> None:
        """Write the files of commit `sha` into the empty folder `into`.

        No `.git`, and no filters are run.

        Raises `BuildError` when content of the commit is elsewhere (submodules, Git LFS).
        """
        self.commit(sha)
        # Beside no mirror: who fetches removes the locks that lie there.
        with scratch("index") as beside:
            index = {"GIT_INDEX_FILE": str(beside / "index")}
            git("read-tree", sha, at=self._mirror, env=index)
            git(
                "-c", "core.autocrlf=false", "-c", "core.attributesFile=/dev/null",
                "-c", "core.bare=false", f"--work-tree={into}",
                "checkout-index", "--all", "--force", at=self._mirror, env=index, cwd=into,
            )  # fmt: skip
        if missing := self._content_elsewhere(sha):
            names = ", ".join(missing[:5]) + (", …" if len(missing) > 5 else "")
            raise BuildError(
                f"commit {sha[:10]} has content that Git itself does not hold (submodule or Git "
                f"LFS): {names}; commit the files themselves, or take these paths out"
            )

    def _content_elsewhere(self, sha: str) -> list[str]:
        """The submodules of a commit, and its files that Git LFS has only a pointer of."""
        elsewhere = []
        for entry in git("ls-tree", "-r", "-l", "-z", sha, at=self._mirror).split("\0"):
            about, _, path = entry.partition("\t")
            mode, _, blob, size = (*about.split(), "", "", "", "")[:4]
            if mode == "160000":
                elsewhere.append(path)
            elif size.isdigit() and 100 <= int(size) <= 1024 and mode != "120000":
                text = git("cat-file", "blob", blob, at=self._mirror)
                if text.startswith(_LFS):
                    elsewhere.append(path)
        return elsewhere

    def tidy(self) -> None:
        """Pack the mirror, and forget what was left of long ago. Raises `SourceError`."""
        if self._mirrored() is None:
            return
        with self._alone():
            for left in self._mirror.glob("tmp*"):
                shutil.rmtree(left, ignore_errors=True)
            git("gc", "--quiet", "--prune=90.days.ago", at=self._mirror)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else writes into the mirror meanwhile."""
        self._mirror.parent.mkdir(parents=True, exist_ok=True)
        with locked(self._mirror.with_suffix(".lock")):
            yield

    def _mirrored(self) -> str | None:
        if not (self._mirror / "HEAD").exists():
            return None
        try:
            out = git("for-each-ref", "--format=%(objectname)", self._head, at=self._mirror)
        except SourceError:
            return None  # just being made by another process, or damaged: fetching tells
        return out.strip() or None

    def _has(self, sha: str) -> bool:
        if not self._mirror.exists():
            return False
        try:
            git("cat-file", "-e", f"{sha}^{{commit}}", at=self._mirror)
        except SourceError:
            return False
        return True

    def _fetch(self) -> None:
        with self._alone():
            # Nobody else is here: git's own locks are of one that was killed.
            for left in self._mirror.rglob("*.lock"):
                left.unlink(missing_ok=True)
            if not (self._mirror / "HEAD").exists():
                git("init", "--bare", "--quiet", str(self._mirror))
            self._ask_remote(
                f"--git-dir={self._mirror}", "fetch", "--quiet", "--no-tags", "--update-shallow",
                "--no-write-fetch-head", "--no-auto-gc", "--", self.remote,
                f"+{self._ref}:{self._head}",
            )  # fmt: skip

    def _ask_remote(self, *arguments: str) -> str:
        try:
            return git(*arguments)
        except SourceError as problem:
            text = str(problem)
            if "not a git repository" in text or "does not appear to be a git" in text:
                raise SourceError(
                    f"{self.url} is not a Git repository: set TANDEM_SOURCE to a folder or a "
                    "remote that is one"
                ) from problem
            if "couldn't find remote ref" in text:
                raise SourceError(f"{self.url} has no branch {self.branch}") from problem
            raise SourceError(f"{self.url} cannot be read: {text}") from problem
