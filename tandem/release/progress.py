"""What long uploads say of themselves."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

log = logging.getLogger("tandem")


def uploading() -> Callable[[int], None]:
    """Counts bytes, and says every few seconds how many have gone up."""
    moved, told = 0, time.monotonic()

    def progress(count: int) -> None:
        nonlocal moved, told
        moved += count
        if time.monotonic() - told > 3:
            told = time.monotonic()
            log.info("uploading: %.0f MB so far", moved / 1e6)

    return progress
