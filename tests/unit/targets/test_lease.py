"""Whose Lease may be taken at once: only that of a process which is known to be no more."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tandem.targets.kubernetes.api import Api
from tandem.targets.kubernetes.fence import Superseded, fence_of
from tandem.targets.kubernetes.lease import Lease, is_dead
from tandem.util import processes


def test_a_holder_is_dead_when_its_very_process_has_ended() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        holder = f"host {processes.identity(process.pid)} token"
        assert not is_dead(holder)
        process.kill()
    assert is_dead(holder)


@pytest.mark.parametrize(
    "holder",
    [
        "",
        "host/12345/abcd",
        "another-machine/1/x",
        "host 0000/4026531836/1/1 token",
        "host not-an-identity token",
    ],
)
def test_of_whom_nothing_is_known_is_waited_for(holder: str) -> None:
    assert not is_dead(holder)


def test_an_equal_host_name_in_another_container_tells_nothing() -> None:
    boot, _, rest = processes.identity().partition("/")
    _, _, rest = rest.partition("/")
    # A number that no process of this machine has.
    _, _, rest = rest.partition("/")
    assert not is_dead(f"host {boot}/4026539999/4999999/{rest} token")


def test_two_leases_of_one_process_are_two_holders() -> None:
    first, second = (Lease(Api.__new__(Api), "small", print) for _ in range(2))
    assert first.me != second.me
    assert not is_dead(first.me)


@pytest.mark.parametrize(
    ("annotations", "number"),
    [(None, 0), ({}, 0), ({"tandem.dev/fence": "12"}, 12), ({"tandem.dev/fence": "by hand"}, 0)],
)
def test_an_object_without_a_number_is_older_than_all(
    annotations: dict[str, str] | None, number: int
) -> None:
    assert fence_of({"metadata": {"annotations": annotations}}) == number
    assert fence_of(None) == 0


def test_who_lost_the_lease_is_told_by_whom() -> None:
    lease = Lease(Api.__new__(Api), "small", print)
    lease.check()
    lease._lost = "host 0000/4026531836/77/1 token"
    with pytest.raises(Superseded, match="was taken by process 77 of host: another deploy is on"):
        lease.check()
