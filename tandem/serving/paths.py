"""Addresses by number, as they are counted: unknown ones are one."""

from __future__ import annotations

PATHS = (
    "/",
    "/score",
    "/healthz",
    "/readyz",
    "/version",
    "/metrics",
    "/docs",
    "/openapi.json",
    "/v2",
    "/v2/health/{}",
    "/v2/models/{}",
    "/v2/models/{}/infer",
    "other",
)

_path_number = {path: number for number, path in enumerate(PATHS)}
_OTHER = _path_number["other"]


def path_of(path: str) -> int:
    """The number of a path in PATHS; unknown ones are one, so that nobody can make up new ones."""
    number = _path_number.get(path)
    if number is not None:
        return number
    path = "/" + path.strip("/")  # Flask's rules take them at both ends
    if path in _path_number:
        return _path_number[path]
    if path.startswith("/v2/models/"):
        return _path_number["/v2/models/{}/infer" if path.endswith("/infer") else "/v2/models/{}"]
    if path.startswith("/v2/health/"):
        return _path_number["/v2/health/{}"]
    return _OTHER
