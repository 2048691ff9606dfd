"""Ends connections that take up room: slow senders, and idle ones.

The server accepts and reads by itself, and does not tell on which connection a request came. But
the kernel knows of each when it last received and last sent something (tcp(7), TCP_INFO), and that
is enough to end none on which a request is being answered: see `_slow`.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from tandem.serving.bodies import Bodies

DESCRIPTORS = Path("/proc/self/fd")
TICK = 0.05
"""Seconds between two looks while something comes slowly."""
QUIET_TICK = 0.25
"""Seconds between two looks at whether something does."""
SLACK = 0.1
"""Seconds by which a request may have come before its thread has noted it.

And by which its thread may have it whole before it can go on: in a process where threads do not
wait for each other.
"""
LAGS = 8
"""Others may wait for the GIL this many times as long as this thread did."""
GRACE = 5.0
"""Seconds after which a sender must have kept up `LEAST`."""
LEAST = 500.0
"""Bytes a second."""
CROWDED, ROOMY = 0.9, 0.75
"""Shares of the connections that may be open: some are ended from, down to."""
HALF = 1.0
"""Seconds after which a request without a thread is taken for half a one."""
SPARE = 128
"""Open files that are no connections: pipes, libraries, the model."""
REPORTED = 10.0
"""Seconds between two lines in the log."""

# In struct tcp_info (linux/tcp.h): the state; milliseconds since something was sent, and received;
# bytes received so far, and sent.
_STATE, _AGES, _RECEIVED, _SENT, _SIZE = 0, 44, 128, 200, 208
_LISTEN = 10


class Connection(msgspec.Struct):
    """What is known of one connection; times are of time.perf_counter."""

    number: int  # of its descriptor
    inode: int
    address: str
    found: float  # when this was first seen; it may have waited long before it was accepted
    received: int = 0
    sent: int = 0
    heard: float = 0.0  # when something last came
    said: float = 0.0  # when something was last sent, or it was accepted
    since: float | None = None  # when at the latest a request began that has got no answer yet
    before: int = 0  # bytes that had been received when this was first seen
    ended: float | None = None  # when we did; the server sees it when the request gets a thread

    def rate(self, now: float) -> float:
        """Bytes a second that came of the unanswered request since it was first seen."""
        assert self.since is not None  # noqa: S101 - asked for slow senders only
        return (self.received - self.before) / max(now - self.since, TICK)


class Connections:
    """The connections of one worker, on the port that it listens on."""

    def __init__(self, port: int, most: int) -> None:
        self.slack = SLACK
        self._port = port
        self._most = most
        self._known: dict[int, Connection] = {}  # by inode
        self._others: set[int] = set()  # inodes of sockets that are none of ours
        self._pressed = 0.0  # when the bodies that come slowly became too many
        self._working = float("inf")  # when the oldest request at work at the last look began

    def look(self, now: float) -> list[Connection]:
        """All that are open, with what the kernel says of them now."""
        known: dict[int, Connection] = {}
        others: set[int] = set()
        for entry in os.listdir(DESCRIPTORS):  # noqa: PTH208 - names alone, and often
            try:
                target = os.readlink(f"{DESCRIPTORS}/{entry}")  # noqa: PTH115
            except OSError:
                continue
            if not target.startswith("socket:["):
                continue
            inode, number = int(target[8:-1]), int(entry)
            if inode in self._others:
                others.add(inode)
            elif found := self._seen(number, inode, now):
                known[inode] = found
            else:
                others.add(inode)
        self._known, self._others = known, others
        return list(known.values())

    def _seen(self, number: int, inode: int, now: float) -> Connection | None:
        # Not a copy of the descriptor, which would cost as much again: what is read of another
        # socket in its place does no harm, and `end` makes sure which one it has.
        probe = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, number)
        try:
            info = probe.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _SIZE)
            if len(info) < _SIZE or info[_STATE] == _LISTEN:
                return None
            found = self._known.get(inode)
            if found is None:
                if probe.getsockname()[1] != self._port:
                    return None
                found = Connection(number, inode, probe.getpeername()[0], now)
        except OSError:
            return None
        finally:
            probe.detach()
        said, _, heard = struct.unpack_from("III", info, _AGES)
        received, sent = (struct.unpack_from("Q", info, at)[0] for at in (_RECEIVED, _SENT))
        if sent != found.sent:
            found.since = None  # it was answered
        found.number, found.received, found.sent = number, received, sent
        found.heard, found.said = now - heard / 1000, now - said / 1000
        if not received or (sent and heard >= said):
            found.since = None
        elif found.since is None:
            found.since, found.before = found.heard, received
        return found

    def surplus(self, bodies: Bodies, now: float) -> tuple[list[Connection], int]:
        """Which connections to end now, slow senders first, and how many are idle ones."""
        began, reading = list(bodies.began.items()), list(bodies.reading.items())
        coming = {thread for thread, _ in reading}
        working = min((start for thread, start in began if thread not in coming), default=now)
        # An answer may be on its way out that was still being made at the last look.
        floor = min(working, self._working) - self.slack
        self._working = working
        late = [start for _, start in reading if now - start > self.slack]
        crowded = len(os.listdir(DESCRIPTORS)) > CROWDED * self._most  # noqa: PTH208
        if not late and not crowded:
            bodies.pressed = False
            return [], 0
        found = self.look(now)
        if len(late) > bodies.most and not bodies.pressed:
            self._pressed = now
        bodies.pressed = len(late) > bodies.most
        waiting = [each for each in found if each.since and each.since < floor and not each.ended]
        waiting.sort(key=lambda each: each.since or 0.0)
        begun = sorted(start for start in late if start < floor)
        going = sum(each.ended is not None and now - each.ended < 2 * TICK for each in found)
        slow = self._slow(waiting, begun, going)
        ended = [each for each in slow if _too_slow(each, bodies.seconds, now)]
        ended += self._hidden(found, late, bodies, now)
        slow = [each for each in _without(slow, ended) if not _too_slow(each, bodies.seconds, now)]
        slow.sort(key=lambda each: each.rate(now))
        ended += fairly(slow, len(late) - bodies.most - len(ended))
        if len(found) <= CROWDED * self._most:
            return ended, 0
        surplus = len(found) - int(ROOMY * self._most) - len(ended)
        # Who has just come is about to send.
        idle = [each for each in found if each.since is None and not each.ended]
        idle = [each for each in idle if now - each.found > TICK]
        idle.sort(key=lambda each: max(each.heard, each.said))
        idle = fairly(_without(idle, ended), surplus)
        if not bodies.pressed:  # else a whole one may have waited as long
            halves = [each for each in waiting if now - max(each.found, each.since or now) > HALF]
            ended += fairly(_without(halves, ended), surplus - len(idle))
        return [*ended, *idle], len(idle)

    def _slow(self, waiting: list[Connection], begun: list[float], going: int) -> list[Connection]:
        """Those of the connections that wait for an answer whose request is not whole yet.

        `waiting` are those without one since before the oldest request at work began, oldest first;
        `begun` is when the bodies began to be read that were before it, too. A whole request may be
        among the former, while it waits for a thread. But requests get their threads in the order
        in which they came: so many as there are bodies being read, so many are older than that.
        Bodies whose connection has just been ended (`going`) may not have noticed yet. What keeps
        coming bit by bit is no whole request, however late it was first seen.
        """
        latest = max(begun, default=0.0) + self.slack
        growing = [
            each
            for each in waiting
            if each.received > each.before and each.heard - (each.since or 0.0) > self.slack
        ]
        older = _without([each for each in waiting if (each.since or 0.0) < latest], growing)
        return growing + older[: max(0, len(begun) - going - len(growing))]

    def _hidden(
        self, found: list[Connection], late: list[float], bodies: Bodies, now: float
    ) -> list[Connection]:
        """The connections that seem idle, but whose request has been answered in part.

        By 100 Continue, which is sent when its body begins to be read. Or by the answer to another
        request, together with which it was sent; under pressure a connection is closed with its
        next answer, so that these do not become more.
        """
        idle = [each for each in found if each.since is None and each.received and not each.ended]
        oldest, newest = min(late, default=0.0) - self.slack, self._pressed + self.slack
        if not bodies.pressed:
            # Those that do not seem idle have been ended before this.
            late = [start for start in late if now - start > bodies.seconds + 1]
        return [
            each
            for each in idle
            if any(abs(each.said - start) < self.slack for start in late)
            or (bodies.pressed and oldest < each.said < newest)
        ]

    def end(self, connection: Connection) -> None:
        """Let the server find this connection at its end."""
        connection.ended = time.perf_counter()
        with contextlib.suppress(OSError):
            number = os.dup(connection.number)
            if os.fstat(number).st_ino != connection.inode:
                os.close(number)
                return
            with socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, number) as copy:
                copy.shutdown(socket.SHUT_RD)


def _too_slow(connection: Connection, seconds: float, now: float) -> bool:
    assert connection.since is not None  # noqa: S101 - asked for slow senders only
    taken = now - connection.since
    return taken > seconds or (taken > GRACE and connection.rate(now) < LEAST)


def _without(some: list[Connection], others: list[Connection]) -> list[Connection]:
    known = {each.inode for each in others}
    return [each for each in some if each.inode not in known]


def fairly(candidates: Sequence[Connection], number: int) -> list[Connection]:
    """So many of the candidates, first ones first, of the address that has most."""
    left = Counter(each.address for each in candidates)
    ranked = []
    for place, each in enumerate(candidates):
        ranked.append((-left[each.address], place, each))
        left[each.address] -= 1
    ranked.sort(key=lambda entry: entry[:2])
    return [each for _, _, each in ranked[: max(0, number)]]


def watch(connections: Connections, bodies: Bodies, log: Callable[..., None]) -> None:
    """End what takes up room, for ever; does nothing without Linux's TCP_INFO."""
    if not DESCRIPTORS.is_dir() or not hasattr(socket, "TCP_INFO"):
        return
    slow = idle = 0
    reported = float("-inf")
    lag, due = 0.0, time.perf_counter()
    while True:
        now = time.perf_counter()
        lag = max(0.9 * lag, now - due)
        connections.slack = SLACK + LAGS * lag
        ended, idly = connections.surplus(bodies, now)
        bodies.ended += len(ended) - idly
        for each in ended:
            connections.end(each)
        slow, idle = slow + len(ended) - idly, idle + idly
        if (slow or idle) and now - reported > REPORTED:
            log("warning", "connections ended to make room", slow=slow, idle=idle)
            slow = idle = 0
            reported = now
        pause = TICK if bodies.reading or ended else QUIET_TICK
        due = time.perf_counter() + pause
        time.sleep(pause)


def allow(connections: int) -> int:
    """Raise the limit of open files; returns how many connections may be open."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + SPARE
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (
        connections if soft == resource.RLIM_INFINITY else max(16, min(connections, soft - SPARE))
    )
