"""Whether every answer through the load balancer is of the new release."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from tandem.errors import TargetError
from tandem.service import client

ANSWER_WAIT = 60.0
IN_A_ROW = 14
"""Fresh connections per pod, and one pod more, that must all reach the new release before it counts
as the only one. One old pod among n new ones is then missed once in a million: (n/(n+1))^(14(n+1))
is at most e^-14."""


def await_answers(url: str, digest: str, pods: int, say: Callable[[str], None]) -> int:
    """Ask on fresh connections until as many answers in a row as could miss no pod are of `digest`.

    A load balancer may still send some to a pod that is on its way out. Returns how many.
    """
    needed = IN_A_ROW * (pods + 1)
    end = time.monotonic() + ANSWER_WAIT
    right = 0
    last = ""
    host = urlsplit(url).hostname
    while right < needed:
        try:
            said = client.version(url).image.digest
            last = "" if said == digest else f"{url} still answers with image {said}"
        except (TargetError, OSError, http.client.HTTPException) as problem:
            last = str(problem)
        if not last:
            right += 1
            continue
        right = 0
        if time.monotonic() > end:
            raise TargetError(f"{last}, {ANSWER_WAIT:.0f} s after the rollout")
        say(f"waiting for {host}: {last}")
        time.sleep(0.1)
    return right
