"""One deploy at a time on a cluster: a Lease that its holder renews.

Anyone may take it once it is not renewed.

Each time it is taken, `leaseTransitions` goes up, in the same write: that is the holder's number
(see `fence.py`). The Lease is therefore never deleted.
"""

from __future__ import annotations

import secrets
import socket
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from tandem.errors import TargetError
from tandem.targets.kubernetes.api import Api, ApiError, Object
from tandem.targets.kubernetes.fence import Superseded, fence_of
from tandem.targets.kubernetes.manifests import MANAGER
from tandem.util import processes

DURATION = 15
"""Seconds after which a Lease that nobody renews is free."""
RENEW = 4.0
WAIT = 900.0
SEEMS_ON = 60.0
NOBODY = "somebody who has ended"


class Lease:
    """Held for as long as the context lasts."""

    def __init__(self, api: Api, app: str, progress: Callable[[str], None]) -> None:
        self.api = api
        self.app = app
        self.name = f"{app}-{MANAGER}"
        # The host for people, the process for `is_dead`, the token for two Leases of one process.
        self.me = f"{socket.gethostname()} {processes.identity()} {secrets.token_hex(4)}"
        self.number = 0
        """Of this holder: higher than that of any before it."""
        self._progress = progress
        self._ended = threading.Event()
        self._lost = ""
        self._held: Object = {}
        self._thread = threading.Thread(target=self._keep, daemon=True)

    def __enter__(self) -> Lease:
        # The clocks of two machines differ: what counts is how long we saw no renewal.
        seen, since, reported = "", time.monotonic(), ""
        end = time.monotonic() + WAIT
        while not self._take(seen if time.monotonic() - since > DURATION else None):
            spec = self._held.get("spec") or {}
            if (renewed := f"{spec.get('holderIdentity')} {spec.get('renewTime')}") != seen:
                seen, since = renewed, time.monotonic()
            holder = spec.get("holderIdentity") or ""
            if holder and holder != reported:
                self._progress(f"waiting for another deploy, by {_readable(holder)}")
                reported = holder
            if time.monotonic() > end:
                raise TargetError(f"Lease/{self.name}: {holder} has held it for {WAIT:.0f} s")
            time.sleep(0.3)
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._ended.set()
        self._thread.join()
        if self._lost:
            return
        try:
            self.api.replace(self._body("", self._held, self.number))
        except TargetError:
            # It ends by itself; what was done is done.
            return

    def check(self) -> None:
        """Raise `Superseded` when somebody else is known to have taken it."""
        if self._lost:
            raise Superseded(
                f"Lease/{self.name} was taken by {_readable(self._lost)}: another deploy is on"
            )

    def verify(self) -> None:
        """Ask the cluster whether it is still held; raises `Superseded` when it is not.

        A Lease that a person deleted, and that nobody has taken since, was not taken.
        """
        lease = self.api.get("Lease", self.name)
        if lease is None:
            return
        spec = lease.get("spec") or {}
        if (spec.get("holderIdentity"), spec.get("leaseTransitions")) != (self.me, self.number):
            self._lost = spec.get("holderIdentity") or NOBODY
            self.check()

    def _take(self, expired: str | None) -> bool:
        """Try once; `expired` names the holder and renewal that went stale."""
        lease = self.api.get("Lease", self.name)
        try:
            if lease is None:
                number = self._next(0)
                self._held = self.api.create(self._body(self.me, {}, number))
                self.number = number
                return True
            self._held = lease
            spec = lease.get("spec") or {}
            holder = spec.get("holderIdentity") or ""
            last = spec.get("leaseTransitions") or 0
            if holder == self.me:
                # Our own request got through and its answer did not.
                self.number = last
                return True
            stale = expired == f"{holder} {spec.get('renewTime')}"
            if holder and not stale and not is_dead(holder):
                return False
            number = self._next(last)
            self._held = self.api.replace(self._body(self.me, lease, number))
            self.number = number
            return True
        except ApiError as problem:
            if problem.status == 409:
                return False
            raise

    def _next(self, last: int) -> int:
        """A number above the Lease's `last` and above any on what is there.

        A person may have deleted the Lease, and an earlier edition wrote none into it.
        """
        # Each holder writes its record before anything else; the Deployment may outlive a record.
        numbered = (self.api.get("ConfigMap", self.name), self.api.get("Deployment", self.app))
        return max(last, *map(fence_of, numbered)) + 1

    def _body(self, holder: str, lease: Object, number: int) -> Object:
        metadata = {"name": self.name, "namespace": self.api.namespace}
        if version := (lease.get("metadata") or {}).get("resourceVersion"):
            # Replaces what was read, or nothing.
            metadata["resourceVersion"] = version
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": metadata,
            "spec": {
                "holderIdentity": holder, "leaseDurationSeconds": DURATION, "renewTime": now,
                "leaseTransitions": number,
            },
        }  # fmt: skip

    def _keep(self) -> None:
        while not self._ended.wait(RENEW):
            try:
                self._held = self.api.replace(self._body(self.me, self._held, self.number))
            except ApiError as problem:
                if problem.status != 409:
                    continue
                try:
                    lease = self.api.get("Lease", self.name) or {}
                except TargetError:
                    continue
                holder = (lease.get("spec") or {}).get("holderIdentity") or NOBODY
                if holder != self.me:
                    self._lost = holder
                    return
                self._held = lease
            except TargetError:
                continue


def is_dead(holder: str) -> bool:
    """Whether the holder is known to have ended.

    Of another machine or container nothing is known: its Lease is waited for.
    """
    words = holder.split()
    return len(words) == 3 and processes.alive(words[1]) is False


def is_on(api: Api, app: str) -> bool:
    """Whether a deploy seems to be on, for showing.

    It compares the clocks of two machines, so nothing is decided by it.
    """
    spec = (api.get("Lease", f"{app}-{MANAGER}") or {}).get("spec") or {}
    holder, renewed = spec.get("holderIdentity") or "", spec.get("renewTime") or ""
    if not (holder and renewed) or is_dead(holder):
        return False
    age = datetime.now(UTC) - datetime.fromisoformat(renewed)
    return age.total_seconds() < SEEMS_ON


def _readable(holder: str) -> str:
    """The holder as people know it: host and number of its process."""
    host, _, rest = holder.partition(" ")
    pid = rest.split("/")[2:3]
    return f"process {pid[0]} of {host}" if pid else holder
