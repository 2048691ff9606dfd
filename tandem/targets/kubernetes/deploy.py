"""One deploy with the Lease held: applied, waited for, asked, or undone."""

from __future__ import annotations

import time
from functools import partial

import msgspec

from tandem.errors import ImageFault, TandemError, TargetError
from tandem.targets.kubernetes import answers, rollout
from tandem.targets.kubernetes.api import Api, Unreachable
from tandem.targets.kubernetes.apply import Applying, delete, offered, prune, with_replicas
from tandem.targets.kubernetes.differences import changed
from tandem.targets.kubernetes.fence import Fence, Superseded
from tandem.targets.kubernetes.lease import Lease
from tandem.targets.kubernetes.live import url_of
from tandem.targets.kubernetes.manifests import Object, ReleasedImage, grace_seconds, name_of
from tandem.targets.kubernetes.pods import image_of, pods_of
from tandem.targets.kubernetes.pull_secret import login_mark
from tandem.targets.kubernetes.record import (
    LastGood,
    Record,
    hash_of,
    last_good,
    mark_good,
    read_record,
    release_of,
    write_record,
)
from tandem.targets.kubernetes.settings import KubernetesSettings
from tandem.targets.kubernetes.timeline import Timeline
from tandem.targets.protocol import ServiceCheck
from tandem.util.clock import now

ADDRESS_WAIT = 300.0
"""Seconds a cloud may take to give a load balancer its address, or DNS its name."""
A_LITTLE = 0.5


class Deployed(msgspec.Struct, frozen=True, kw_only=True):
    """What a deploy left."""

    deployment: Object
    pods: list[Object]
    notes: list[str]
    """What was left out, a line each."""


class Deploy:
    """The steps of one deploy of one app."""

    def __init__(
        self, api: Api, app: str, settings: KubernetesSettings, timeline: Timeline, lease: Lease
    ) -> None:
        self.api = api
        self.app = app
        self.settings = settings
        self.timeline = timeline
        self.lease = lease
        self.fence = Fence(api, lease)
        self.applying = Applying(api, app, timeline, self.fence)

    def run(
        self,
        release: ReleasedImage,
        wanted: list[Object],
        secret: Object | None,
        check: ServiceCheck,
    ) -> Deployed:
        """Make the release live with these objects and its pull secret.

        Raises `Superseded` where a newer deploy has begun, and `TargetError` once what was live
        before is live again.
        """
        record = read_record(self.api, self.app)
        known, notes = offered(self.api, wanted)
        before = self.api.get("Deployment", self.app)
        if before:
            # Asked while nothing is written yet: an old Role does not allow it.
            rollout.Revisions(self.api, self.app).hash_of(before)
        objects = with_replicas(known, self.settings, before)
        for note in notes:
            self.timeline.say(note)
        self._report_drift(record, before)
        # Written down first: what a deploy that is cut off made is then known to the next one.
        applied = [*([secret] if secret else []), *objects]
        names = sorted({*record.names, *map(name_of, applied)})
        self._remember(msgspec.structs.replace(record, names=names))
        try:
            self.applying.apply(applied)
            self.lease.check()
            pods = self._whole(release, check)
            self.lease.check()
        except Superseded as newer:
            raise Superseded(f"release {release.number} did not go live: {newer}") from None
        except BaseException as problem:  # noqa: BLE001 - what _undo gives is raised
            raise self._undo(record, release, problem) from None
        prune(self.fence, self.timeline, names, applied)
        self.timeline.say(f"release {release.number} is live")
        good = LastGood(
            release=release.number,
            digest=release.digest,
            reference=release.reference,
            since=now(),
            applied=hash_of(wanted),
            health=release.health,
            names_its_image=release.names_its_image,
            left_out=[name_of(candidate) for candidate in wanted if candidate not in known],
        )
        self._remember(
            Record(
                objects=objects,
                names=sorted(map(name_of, applied)),
                timeline=self.timeline.moments,
                good=good,
                login=login_mark(secret),
            )
        )
        deployment = mark_good(self.fence, self.app, good)
        return Deployed(deployment=deployment, pods=pods, notes=notes)

    def _report_drift(self, record: Record, live: Object | None) -> None:
        """Say what somebody changed since the last release: it is put back."""
        good = last_good(live)
        applied = release_of(live)
        if live is None or good is None or applied != good.release:
            return  # a deploy that was cut off left it, which is nobody's doing
        known = {f"Deployment/{self.app}": live}
        for line in changed(self.api, self.settings, record.objects, known):
            self.timeline.say(f"changed by somebody: {line}")

    def _whole(self, release: ReleasedImage, check: ServiceCheck) -> list[Object]:
        """Wait until every pod is of this release, and every answer too."""
        pods = self._rolled_out(release.number, release)
        url = self._await_address()
        self.timeline.say(f"all {len(pods)} pods are ready; asking {url}")
        end = time.monotonic() + answers.ANSWER_WAIT
        took = self._await_answers(url, release, len(pods))
        while problem := _refusal(check, url):
            # Each node learns by itself that a pod is on its way out: the answer may be of one.
            if time.monotonic() > end or not self._is_leaving(release.digest):
                raise problem
            self.timeline.say(f"asking again, as long as an old pod is still there: {problem}")
            time.sleep(A_LITTLE)
        self.timeline.say(f"{took} answers in a row, and the check")
        return pods

    def _rolled_out(self, number: int, release: ReleasedImage) -> list[Object]:
        def still_ours(deployment: Object) -> None:
            self.fence.refuse_newer("Deployment", deployment)

        return rollout.wait(
            self.api, self.app, number,
            deadline=release.deadline, timeline=self.timeline, still_ours=still_ours,
        )  # fmt: skip

    def _await_answers(self, url: str, serving: ReleasedImage | LastGood, pods: int) -> int:
        """Wait until every answer is of that release; returns how many were asked for."""
        if serving.names_its_image:
            asked = partial(answers.other_image, url, serving.digest)
        else:
            self._await_the_last_old_pod(serving.digest)
            asked = partial(answers.unhealthy, url, serving.health)
        return answers.await_answers(url, asked, pods, self.timeline.say)

    def _await_the_last_old_pod(self, digest: str) -> None:
        """Wait until no pod of another image is left that could still answer."""
        end = time.monotonic() + grace_seconds(self.settings) + answers.ANSWER_WAIT
        while self._is_leaving(digest):
            if time.monotonic() > end:
                raise TargetError("a pod of the previous release has not ended in its time")
            self.timeline.say("waiting for the last pod of the previous release to end")
            time.sleep(A_LITTLE)

    def _is_leaving(self, digest: str) -> bool:
        """Whether a pod of another image is still there."""
        return any(
            not image_of(pod["spec"]).endswith(f"@{digest}") for pod in pods_of(self.api, self.app)
        )

    def _await_address(self) -> str:
        end = time.monotonic() + ADDRESS_WAIT
        pause = 0.05
        while not (url := url_of(self.api.get("Service", self.app), self.settings)):
            if time.monotonic() > end:
                raise TargetError(
                    f"Service/{self.app} was given no address within {ADDRESS_WAIT:.0f} s: "
                    "has this cluster a load balancer?"
                )
            self.timeline.say("waiting for the load balancer's address")
            time.sleep(pause)
            pause = min(2 * pause, 2.0)
        return url

    def _undo(
        self, record: Record, release: ReleasedImage, problem: BaseException,
    ) -> BaseException:  # fmt: skip
        """Put back what was live, and wait for it; gives the error that tells both."""
        why = str(problem) if isinstance(problem, TandemError | OSError) else repr(problem)
        failed = f"release {release.number} did not go live: {why}"
        good = record.good
        self.timeline.say(f"release {release.number} failed: {why.splitlines()[0]}")
        try:
            if isinstance(problem, Unreachable):
                raise problem
            self.fence.holder.verify()
            if good is None:
                delete(self.fence, f"Deployment/{self.app}")
                then = "nothing was live before, and nothing is now"
            else:
                self.timeline.say(f"putting release {good.release} back")
                live = self.api.get("Deployment", self.app)
                objects = with_replicas(record.objects, self.settings, live)
                self.applying.apply(objects)
                pods = self._rolled_out(good.release, release)
                url = self._await_address()
                self._await_answers(url, good, len(pods))
                then = f"release {good.release} is live again"
        except Unreachable as away:
            then = f"and what is live now is not known, because {away}: run it again"
        except Superseded as newer:
            then = f"and nothing was put back, because {newer}"
        except TandemError as worse:
            then = f"and release {good.release if good else 0} could not be put back: {worse}"
        if not isinstance(problem, Exception):
            return problem
        # What it says of the image stays: that is a verdict, and all else is tried again.
        fault = ImageFault if isinstance(problem, ImageFault) else TargetError
        return fault(f"{failed}\n{then}" if "\n" in failed else f"{failed}; {then}")

    def _remember(self, record: Record) -> None:
        write_record(self.fence, self.app, self.api.namespace, record)


def _refusal(check: ServiceCheck, url: str) -> TargetError | None:
    try:
        check(url)
    except TargetError as problem:
        return problem
    return None
