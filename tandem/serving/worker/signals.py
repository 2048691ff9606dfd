"""A main thread that sleeps until a signal comes."""

from __future__ import annotations

import contextlib
import os
import signal


class Wakeup:
    """Lets the main thread sleep until a signal comes, and lose none.

    One that comes just before a thread waits for a lock or a child is otherwise handled when that
    wait ends: perhaps never. Python's own handler in C writes to a pipe (signal.set_wakeup_fd),
    from whichever thread the kernel has picked.
    """

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)

    def wait(self) -> None:
        """Sleep until a signal has come, or `wake` was called, since the last time."""
        os.read(self._read, 512)

    def wake(self) -> None:
        """End the sleep, from any thread."""
        with contextlib.suppress(BlockingIOError):  # full: it will not sleep
            os.write(self._write, b"\0")
