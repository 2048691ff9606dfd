"""A release that was started in the background is ended by SIGTERM, too."""

from __future__ import annotations

import signal
import subprocess
import sys

PROGRAM = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
from tandem.dagster.signals import heed_sigterm
heed_sigterm()
import dagster
from dagster._utils.interrupts import setup_interrupt_handlers
setup_interrupt_handlers()
print("ready", flush=True)
time.sleep(60)
"""


def test_sigterm_ends_what_a_shell_started_in_the_background() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) != 0
    process.stdout.close()
