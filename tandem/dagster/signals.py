"""Signals that end a release, whoever started it."""

import signal


def heed_sigterm() -> None:
    """Have SIGTERM end this process although it was started in the background.

    A shell has what it starts in the background ignore SIGINT, and Dagster treats SIGTERM as it
    finds SIGINT treated, at its import and later.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
