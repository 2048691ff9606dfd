"""Signals that end a release, whoever started it."""

import signal


def heed_sigterm() -> None:
    """Have SIGTERM end this process although it was started in the background.

    A shell has what it starts in the background ignore SIGINT, and Dagster treats SIGTERM as it
    finds SIGINT treated. To be called before Dagster is imported.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
