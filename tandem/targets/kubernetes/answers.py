"""Whether every answer through the load balancer is of the new release.

A service that names its image is believed. Of any other the cluster alone knows: once no pod of
another image is left, no answer can be of one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from urllib.parse import urlsplit

from tandem.errors import TargetError
from tandem.service import client
from tandem.service.probe import ask_health

ANSWER_WAIT = 60.0
IN_A_ROW = 14
"""Fresh connections per pod, and one pod more, that must all reach the new release before it counts
as the only one. One old pod among n new ones is then missed once in a million: (n/(n+1))^(14(n+1))
is at most e^-14."""


def await_answers(
    url: str, problem_with: Callable[[], str], pods: int, say: Callable[[str], None]
) -> int:
    """Ask on fresh connections until as many in a row as could miss no pod are right.

    A load balancer may still send some to a pod that is on its way out. `problem_with` asks once
    and returns what is wrong, else nothing. Returns how many were right.
    """
    needed = IN_A_ROW * (pods + 1)
    end = time.monotonic() + ANSWER_WAIT
    right = 0
    host = urlsplit(url).hostname
    while right < needed:
        if not (problem := problem_with()):
            right += 1
            continue
        right = 0
        if time.monotonic() > end:
            raise TargetError(f"{problem}, {ANSWER_WAIT:.0f} s after the rollout")
        say(f"waiting for {host}: {problem}")
        time.sleep(0.1)
    return right


def other_image(url: str, digest: str) -> str:
    """What is wrong with one answer of a service that names its image."""
    try:
        answered = client.version(url).image.digest
    except TargetError as problem:
        return str(problem)
    return "" if answered == digest else f"{url} still answers with image {answered}"


def unhealthy(url: str, health: str) -> str:
    """What is wrong with one answer at the health path."""
    try:
        ask_health(url, health)
    except TargetError as problem:
        return str(problem)
    return ""
