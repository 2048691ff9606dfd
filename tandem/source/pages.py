"""Where a browser shows a commit, made of a remote's host and path."""

from __future__ import annotations

import re
from urllib.parse import quote, urlsplit

SHA = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_PATH_NAME = re.compile(r"(?!\.{1,2}$)[\w.~%+@ -]+")
_SSH_HOSTS = {
    "ssh.github.com": "github.com",
    "altssh.gitlab.com": "gitlab.com",
    "altssh.bitbucket.org": "bitbucket.org",
}
"""Hosts that take SSH where its own port is closed, and whose pages they are."""


def commit_page(remote: str, sha: str) -> str | None:
    """The page of a commit at GitHub, GitLab, Bitbucket or Azure Repos.

    For an https or ssh remote.

    A server of one's own counts by its name: `gitlab.example.com`. Made of the host and the path
    alone, so that no login of the remote is in it. None for any other remote.
    """
    if not SHA.fullmatch(sha):
        return None
    if "://" not in remote:
        # As scp writes it: USER@HOST:PATH.
        where, colon, path = remote.partition(":")
        remote = f"ssh://{where}/{path.lstrip('/')}" if colon and "/" not in where else ""
    try:
        parts = urlsplit(remote)
        host, port = (parts.hostname or "").lower(), parts.port
    except ValueError:
        return None
    if parts.scheme not in ("https", "ssh"):
        return None
    # Only an https port says where the pages are.
    if parts.scheme == "ssh":
        host, port = _SSH_HOSTS.get(host, host), None
    names = parts.path.strip("/").removesuffix(".git").split("/")
    if len(names) < 2 or not all(_PATH_NAME.fullmatch(name) for name in names):
        return None
    path = "/".join(quote(name, safe="%~+@") for name in names)
    root = f"https://{host}:{port}" if port else f"https://{host}"
    if host in ("ssh.dev.azure.com", "vs-ssh.visualstudio.com"):
        if len(names) != 4 or names[0] != "v3":
            return None
        _, organization, project, repository = path.split("/")
        azure = f"https://dev.azure.com/{organization}/{project}"
        return f"{azure}/_git/{repository}/commit/{sha}"
    if "_git" in names[:-1]:
        known = host == "dev.azure.com" or host.endswith(".visualstudio.com")
        return f"{root}/{path}/commit/{sha}" if known else None
    for label, way in (("github", "commit"), ("gitlab", "-/commit"), ("bitbucket", "commits")):
        if label in host.split("."):
            return f"{root}/{path}/{way}/{sha}"
    return None
