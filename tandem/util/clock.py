"""The time, as it is written into records."""

from __future__ import annotations

import datetime


def now() -> str:
    """This moment, RFC 3339, UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
