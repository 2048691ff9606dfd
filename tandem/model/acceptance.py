"""Whether a published version may go live: loaded with care, asked, measured, and compared with the
champion on the same rows.

A published package is untrusted, so it is opened by a program of its own (`tandem.model.judge`) in
the sandbox. A verdict is stored beside the version, `models/NAME/verdicts/000017.json`, and read by
whoever needs it. It names the rule that it was made by: a version that was never live is judged
again by another rule.
"""

from __future__ import annotations

import atexit
import datetime
import hashlib
import logging
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

import tandem
from tandem import sandbox
from tandem.errors import (
    Conflict,
    NotFound,
    PackageError,
    SandboxError,
    SettingError,
    one_line,
)
from tandem.model.interface import Takes, mismatch
from tandem.model.judge import MACHINERY, READY, Check, Found, Job, refused
from tandem.model.metrics import Measured, check_metric
from tandem.model.package import MAX_EVALUATION, HeldOut, Manifest, Package
from tandem.model.repository import Repository, Version
from tandem.util.folders import scratch

log = logging.getLogger("tandem.model.acceptance")

CHECKS = ("good_enough", "loads_safely", "answers_match", "same_interface")
SECONDS = 30.0
SECONDS_A_ROW = 0.05
"""What a package may compute in all, and for each row that it is asked."""
WAIT = 20.0
"""How much longer, by the clock, a busy machine may take for that."""
MEMORY = 4 * 2**30
"""Bytes, beside eight times the package's own size."""


class Gate(msgspec.Struct, frozen=True, kw_only=True):
    """What a model must reach to be accepted, by the application's word.

    `metric` is at least `floor` on held-out rows with 95 % confidence (an error like "mae": at
    most), and not worse than the live version's by more than `margin` (in the metric's unit for
    shares and scores, relative for errors). `held_out` is a JSON file of the application's own
    `rows` and `truth`; without one the live version's rows count, without those the publisher's.
    """

    metric: str = "accuracy"
    floor: float = 0.0
    margin: float = 0.02
    least_rows: int = 30
    """Fewer held-out rows accept nothing."""
    tolerance: float = 0.001
    """How far the recorded answers may differ from those given, whatever the package says: a
    probability, or a share of the largest value."""
    held_out: str | Path = ""

    def read_held_out(self) -> HeldOut | None:
        """The application's own rows. Raises `SettingError`."""
        data = self._held_out_bytes()
        if data is None:
            return None
        try:
            found = msgspec.json.decode(data, type=HeldOut)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as problem:
            raise SettingError(f"held-out rows {self.held_out}: {one_line(problem)}") from None
        if not found.rows or len(found.rows) != len(found.truth):
            raise SettingError(
                f"held-out rows {self.held_out}: {len(found.rows)} rows with "
                f"{len(found.truth)} answers"
            )
        return found

    def _held_out_bytes(self) -> bytes | None:
        if not self.held_out:
            return None
        try:
            with Path(self.held_out).open("rb") as file:
                data = file.read(MAX_EVALUATION + 1)
        except OSError as problem:
            raise SettingError(f"held-out rows {self.held_out}: {problem.strerror}") from None
        if len(data) > MAX_EVALUATION:
            raise SettingError(f"held-out rows {self.held_out}: more than {MAX_EVALUATION} bytes")
        return data


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """What versions are judged by just now: the gate, the commit's word, what is live."""

    gate: Gate = Gate()
    takes: Takes | None = None
    lock: Mapping[str, str] | None = None
    """Versions of the libraries that the model would be served with, where they are known."""
    champion: int | None = None
    """The live version."""

    def digest(self, manifest: Manifest) -> str:
        """Names all that decides a verdict on a package but what is live."""
        needed = ("scikit-learn", "skops") if manifest.runtime == "sklearn" else ()
        gate = msgspec.structs.replace(self.gate, held_out="")
        held_out = self.gate._held_out_bytes()
        told = [
            gate,
            hashlib.sha256(held_out).hexdigest() if held_out is not None else "",
            {name: (self.lock or {}).get(name) for name in needed} if self.lock else {},
        ]
        encoded = msgspec.json.encode(told, order="deterministic")
        return hashlib.sha256(encoded).hexdigest()[:16]


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the version was accepted, by which checks, or by whom in spite of `good_enough`."""

    version: int
    digest: str
    accepted: bool
    checks: list[Check]
    judged_at: str
    champion: int | None = None
    measured: Measured | None = None
    overruled_by: str = ""
    overruled_reason: str = ""
    rule: str = ""
    """The digest of the rule that it was judged by."""

    @property
    def reason(self) -> str:
        """Why it was refused, or accepted in spite of a check."""
        failed = [check for check in self.checks if not check.passed]
        if self.overruled_by and self.accepted:
            return f"accepted by {self.overruled_by}: {self.overruled_reason}"
        if self.overruled_by:
            failed = [check for check in failed if check.name != "good_enough"]
        return "; ".join(check.summary for check in failed)


def judge(
    repository: Repository, number: int, rule: Rule, *, cache: Path, again: bool = False
) -> Verdict:
    """The verdict that stands on version `number`, or a new one, then stored.

    Being refused is a result; raises `NotFound` and `StorageError`, `SettingError` for a rule that
    cannot be read, and `SandboxError` when the machine could not judge, which says nothing of the
    version.
    """
    version = repository.version(number)
    if not again and (standing := standing_verdict(repository, version, rule)):
        return standing
    check_metric(rule.gate.metric)
    key = _key(repository, number)
    try:
        _, etag = repository.store.read(key)
    except NotFound:
        etag = None
    found = _found(repository, version, rule, cache)
    result = Verdict(
        version=number,
        digest=version.digest,
        accepted=False,
        checks=[*found.checks, same_interface(repository, version, rule)],
        judged_at=_now(),
        champion=rule.champion,
        measured=found.measured,
        rule=rule.digest(version.manifest),
    )
    result = msgspec.structs.replace(result, accepted=all(check.passed for check in result.checks))
    try:
        if etag is None:
            repository.store.put(key, msgspec.json.encode(result), if_absent=True)
        else:
            repository.store.put(key, msgspec.json.encode(result), if_match=etag)
    except Conflict:
        # Somebody judged it at the same moment: one verdict counts, the first.
        return standing_verdict(repository, version, rule) or result
    return result


def standing_verdict(repository: Repository, version: Version, rule: Rule) -> Verdict | None:
    """The stored verdict, as far as it still counts; None where the version has to be judged.

    What is live, or older, and what a person accepted, is not judged again. Its interface is: that
    takes no opening of the model, and the commit beside it may be another one.
    """
    found = verdict(repository, version.number)
    if found is None:
        return None
    live = rule.champion is not None and version.number <= rule.champion
    if not (live or found.overruled_by or found.rule == rule.digest(version.manifest)):
        return None
    before = [check for check in found.checks if check.name != "same_interface"]
    fits = same_interface(repository, version, rule)
    good = all(
        check.passed or (check.name == "good_enough" and bool(found.overruled_by))
        for check in before
    )
    return msgspec.structs.replace(found, checks=[*before, fits], accepted=good and fits.passed)


def same_interface(repository: Repository, version: Version, rule: Rule) -> Check:
    """Whether it is asked and answers as the commit says, and else as what is live."""
    name, live = "same_interface", None
    if rule.champion is not None and rule.champion != version.number:
        try:
            live = repository.version(rule.champion).manifest
        except NotFound:
            live = None
    elif rule.champion == version.number:
        live = version.manifest
    wrong = mismatch(version.manifest, live, rule.takes)
    if wrong:
        text = (
            f"{wrong}: the model must fit the code; a wanted change comes with a commit that says "
            "so in [tool.tandem.app.model]"
        )
        return Check(name, False, text)
    said = " and ".join(
        [*(["the commit says"] if rule.takes else []), *(["is live"] if live else [])]
    )
    return Check(name, True, f"asked and answers as {said}" if said else "the first: all is new")


def verdict(repository: Repository, number: int) -> Verdict | None:
    """The stored verdict on version `number`, if it was judged."""
    try:
        data, _ = repository.store.read(_key(repository, number))
    except NotFound:
        return None
    return _decode(data, _key(repository, number))


def overrule(repository: Repository, number: int, *, by: str, reason: str) -> Verdict:
    """Accept a version that was not good enough; `by` and `reason` stay in its verdict.

    Raises `PackageError` when it was not judged, was accepted anyway, or was refused for its safety
    or its answers: nobody can overrule those.
    """
    if not by.strip() or not reason.strip():
        raise PackageError("overruling a verdict takes a name and a reason")
    key = _key(repository, number)
    try:
        data, etag = repository.store.read(key)
    except NotFound:
        raise PackageError(f"v{number} of {repository.name} was not judged yet") from None
    before = _decode(data, key)
    if before.accepted:
        raise PackageError(f"v{number} of {repository.name} is accepted already")
    failed = [check for check in before.checks if not check.passed]
    for check in failed:
        # An interface that does not fit waits for its commit, whoever accepts the version.
        fits_later = check.name == "same_interface" and len(failed) > 1
        if check.name != "good_enough" and not fits_later:
            raise PackageError(f"v{number}: {check.name} cannot be overruled: {check.summary}")
    after = msgspec.structs.replace(
        before, accepted=True, overruled_by=by.strip(), overruled_reason=reason.strip()
    )
    repository.store.put(key, msgspec.json.encode(after), if_match=etag)
    return after


def newest_accepted(
    repository: Repository,
    rule: Rule,
    judge_missing: Callable[[int], Verdict] | None = None,
    *,
    unjudged: bool = False,
) -> tuple[Version | None, list[tuple[int, str]]]:
    """The newest accepted version, and the newer ones that are not, each with the reason.

    `judge_missing` is asked for a verdict where none stands; without it such a version counts as
    accepted with `unjudged`, and is passed over else.
    """
    passed_over: list[tuple[int, str]] = []
    for version in repository.versions():
        found = standing_verdict(repository, version, rule)
        if found is None and judge_missing is not None:
            found = judge_missing(version.number)
        if found.accepted if found is not None else unjudged:
            return version, passed_over
        passed_over.append((version.number, found.reason if found else "not judged yet"))
    return None, passed_over


# --- running the judge ----------------------------------------------------------------------------


def _found(repository: Repository, version: Version, rule: Rule, cache: Path) -> Found:
    held_out = rule.gate.read_held_out()
    try:
        package = _fetched(repository, version.number, cache)
        asked = len(package.golden().inputs)
        own = package.held_out()
    except PackageError as problem:
        return refused(str(problem))
    live = None
    if rule.champion is not None and rule.champion != version.number:
        try:
            live = _fetched(repository, rule.champion, cache)
        except (PackageError, NotFound):
            live = None
    rows = [held_out, own, live.held_out() if live else None]
    asked += max(len(one.rows) if one else 0 for one in rows)
    job = Job(
        candidate=str(package.folder.resolve()),
        number=version.number,
        champion=str(live.folder.resolve()) if live else None,
        champion_number=rule.champion,
        metric=rule.gate.metric,
        floor=rule.gate.floor,
        margin=rule.gate.margin,
        least_rows=rule.gate.least_rows,
        tolerance=rule.gate.tolerance,
        lock=dict(rule.lock) if rule.lock is not None else None,
        held_out=held_out,
        seconds=int(SECONDS + SECONDS_A_ROW * asked),
    )
    return _run(job, package.size, cache)


def _fetched(repository: Repository, number: int, cache: Path) -> Package:
    # Beside the packages for images, which hold no held-out rows.
    folder = Path(cache) / "judged" / f"{repository.name}-{number:06}"
    package = repository.fetch(number, folder, with_evaluation=True)
    os.utime(folder)  # what is not used for long is removed
    return package


def _run(job: Job, size: int, cache: Path) -> Found:
    """What the judge says of the job, of packages below `cache`.

    Raises `SandboxError` when it could not say anything.
    """
    done = None
    if ahead := _ahead.pop(cache, None):
        done = ahead.judge(job, size)
    if done is None or not done.stdout.startswith(READY):
        shown = [Path(one) for one in (job.candidate, job.champion) if one]
        done = _judging(
            msgspec.json.encode(job),
            shown,
            seconds=WAIT * job.seconds,
            memory=MEMORY + 8 * size,
        )
    return _said(job, done)


def _judging(
    stdin: bytes | Callable[[], bytes],
    shown: list[Path],
    *,
    seconds: float,
    memory: int,
    option: str = "",
) -> sandbox.Finished:
    ours = Path(tandem.__file__).parent
    libraries = [Path(sys.prefix), *map(Path, _site()), ours]
    with scratch("judge") as folder:
        return sandbox.run(
            [sys.executable, "-m", "tandem.model.judge", *([option] if option else [])],
            folder=folder,
            readable=[*libraries, *shown],
            env={
                "PATH": os.defpath,
                "PYTHONPATH": os.pathsep.join([str(ours.parent), *_site()]),
                "PYTHONDONTWRITEBYTECODE": "1",
                "OPENBLAS_NUM_THREADS": "2",
                "OMP_NUM_THREADS": "2",
            },
            limits=sandbox.Limits(seconds=seconds, memory=memory, output=64 * 2**20),
            stdin=stdin,
        )


def _said(job: Job, done: sandbox.Finished) -> Found:
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    last = sandbox.redact(lines[-1][:200]) if lines else ""
    outside = (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT)
    if not done.stdout.startswith(READY) or done.code == MACHINERY or done.code in outside:
        how = done.stopped or f"exit code {done.code}"
        raise SandboxError(
            f"v{job.number} could not be judged: the judge ended before its time ({how}): {last}"
        )
    if done.code == -signal.SIGXCPU:
        return refused(f"takes more than {job.seconds} s of computing to be asked")
    if done.stopped:
        return refused(f"was stopped: it {done.stopped}")
    if done.code != 0:
        how = f"signal {-done.code}" if done.code and done.code < 0 else f"exit {done.code}"
        return refused(f"ends the process that asks it ({how}): {last}")
    try:
        found = msgspec.json.decode(done.stdout[len(READY) :], type=Found)
    except (msgspec.MsgspecError, RecursionError):
        return refused("the process that asks it ended without a verdict")
    if found.measured and not found.measured.is_whole():
        # What that process says is believed no further than it can be shown.
        return msgspec.structs.replace(found, measured=None)
    return found


class _Ahead:
    """A judge that was started before there was anything to judge: its imports take seconds."""

    def __init__(self, cache: Path) -> None:
        self._told: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[sandbox.Finished | None] = queue.SimpleQueue()
        self._shown = cache / "judged"
        self._shown.mkdir(parents=True, exist_ok=True)
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            done = _judging(
                self._told.get, [self._shown], seconds=AHEAD, memory=MEMORY, option="--ahead"
            )
        except (SandboxError, OSError) as problem:
            log.info("no judge was started ahead: %s", problem)
            self._done.put(None)
        else:
            self._done.put(done)

    def judge(self, job: Job, size: int) -> sandbox.Finished | None:
        """How it ended over the job; None where this is not the one for it."""
        if size > _SMALL:
            self.end()
            return None
        self._told.put(msgspec.json.encode(job))
        return self._done.get()

    def end(self) -> None:
        """Let it go: there is nothing to judge."""
        self._told.put(b"")
        self._done.get()


AHEAD = 3600.0
_SMALL = 64 * 2**20
_ahead: dict[Path, _Ahead] = {}


def start_ahead(cache: Path) -> None:
    """Start a judge for packages below `cache`, as one will be needed soon in this process."""
    if cache not in _ahead:
        _ahead[cache] = _Ahead(cache)


def end_ahead() -> None:
    """Let go of the judges that were started and not needed."""
    while _ahead:
        _ahead.popitem()[1].end()


atexit.register(end_ahead)


def _site() -> list[str]:
    # Where this process found its libraries, in case it was not through its interpreter alone.
    return [path for path in sys.path if path.endswith("site-packages")]


def _key(repository: Repository, number: int) -> str:
    return f"{repository.prefix}/verdicts/{number:06}.json"


def _decode(data: bytes, key: str) -> Verdict:
    try:
        return msgspec.json.decode(data, type=Verdict)
    except msgspec.MsgspecError as problem:
        raise PackageError(f"{key}: not a verdict: {problem}") from None


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
