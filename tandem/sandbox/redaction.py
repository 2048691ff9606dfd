"""Our secrets taken out of what other people's code printed."""

from __future__ import annotations

import os
import re

_SECRET = re.compile(r"KEY|SECRET|PASSWORD|TOKEN|CONNECTION_STRING|SAS|CREDENTIAL", re.IGNORECASE)


def redact(text: str) -> str:
    """`text` without the values of our environment variables that look secret."""
    values = {v for k, v in os.environ.items() if _SECRET.search(k) and len(v.strip()) >= 6}
    for value in sorted(values, key=len, reverse=True):
        text = text.replace(value, "…")
    return text
