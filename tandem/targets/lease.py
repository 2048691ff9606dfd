"""One deploy at a time on a cluster: a Lease that its holder renews, and that anyone may take
once it is not."""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from tandem.errors import TargetError
from tandem.targets.api import Api, ApiError, Object
from tandem.targets.manifests import MANAGER

DURATION = 15
"""Seconds after which a Lease that nobody renews is free."""
RENEW = 4.0
WAIT = 900.0


class Lease:
    """Held for as long as the context lasts."""

    def __init__(self, api: Api, app: str, progress: Callable[[str], None]) -> None:
        self.api = api
        self.name = f"{app}-{MANAGER}"
        self.me = f"{socket.gethostname()}/{os.getpid()}/{secrets.token_hex(4)}"
        self._progress = progress
        self._ended = threading.Event()
        self._lost = ""
        self._held: Object = {}
        self._thread = threading.Thread(target=self._keep, daemon=True)

    def __enter__(self) -> Lease:
        # The clocks of two machines differ: what counts is how long we saw no renewal.
        seen, since, said = "", time.monotonic(), ""
        end = time.monotonic() + WAIT
        while not self._take(seen if time.monotonic() - since > DURATION else None):
            spec = self._held.get("spec") or {}
            if (renewed := f"{spec.get('holderIdentity')} {spec.get('renewTime')}") != seen:
                seen, since = renewed, time.monotonic()
            holder = spec.get("holderIdentity") or ""
            if holder and holder != said:
                self._progress(f"waiting for another deploy, by {holder.rpartition('/')[0]}")
                said = holder
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
            self.api.replace(self._body("", self._held))
        except TargetError:
            # It ends by itself; what was done is done.
            return

    def check(self) -> None:
        """Raise `TargetError` when somebody else has taken it: from here on it is their turn."""
        if self._lost:
            raise TargetError(f"Lease/{self.name} was taken by {self._lost}: another deploy is on")

    def _take(self, expired: str | None) -> bool:
        """Try once; `expired` is the holder and renewal that nobody renewed for long enough."""
        found = self.api.get("Lease", self.name)
        try:
            if found is None:
                self._held = self.api.create(self._body(self.me, {}))
                return True
            self._held = found
            spec = found.get("spec") or {}
            holder = spec.get("holderIdentity") or ""
            if holder == self.me:
                # Our own request got through and its answer did not.
                return True
            stale = expired == f"{holder} {spec.get('renewTime')}"
            if holder and not stale and not _is_dead(holder):
                return False
            self._held = self.api.replace(self._body(self.me, found))
            return True
        except ApiError as problem:
            if problem.status == 409:
                return False
            raise

    def _body(self, holder: str, found: Object) -> Object:
        metadata = {"name": self.name, "namespace": self.api.namespace}
        if version := (found.get("metadata") or {}).get("resourceVersion"):
            # Replaces what was read, or nothing.
            metadata["resourceVersion"] = version
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": metadata,
            "spec": {
                "holderIdentity": holder, "leaseDurationSeconds": DURATION, "renewTime": now,
            },
        }  # fmt: skip

    def _keep(self) -> None:
        while not self._ended.wait(RENEW):
            try:
                self._held = self.api.replace(self._body(self.me, self._held))
            except ApiError as problem:
                if problem.status != 409:
                    continue
                try:
                    found = self.api.get("Lease", self.name) or {}
                except TargetError:
                    continue
                holder = (found.get("spec") or {}).get("holderIdentity") or "nobody"
                if holder != self.me:
                    self._lost = holder
                    return
                self._held = found
            except TargetError:
                continue


def _is_dead(holder: str) -> bool:
    """Whether the holder was a process of this machine that is no more."""
    import psutil

    host, _, rest = holder.partition("/")
    pid = rest.partition("/")[0]
    return host == socket.gethostname() and pid.isdecimal() and not psutil.pid_exists(int(pid))
