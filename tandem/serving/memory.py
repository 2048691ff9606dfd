"""Memory that the workers of one service share: a region for each."""

from __future__ import annotations

import mmap

REGION = 8 * 2**20
"""Bytes that a worker shares with the others: touched only as far as it is used."""


def shared_memory(workers: int) -> mmap.mmap:
    """A region for each worker, which processes forked afterwards share."""
    return mmap.mmap(-1, workers * REGION)
