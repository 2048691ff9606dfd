"""Whether a published version may go live: the verdict on it, stored, overruled and read.

A published package is untrusted, so it is opened by a process of its own (`tandem.model.judge`). A
verdict is stored beside the version, `models/NAME/verdicts/000017.json`, and read by whoever needs
it. It names the rule that it was made by: a version that was never live is judged again by another
rule.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import msgspec

from tandem.errors import Conflict, NotFound, PackageError
from tandem.model.interface import mismatch
from tandem.model.judge import examine_version
from tandem.model.judge_job import Check
from tandem.model.kept_criteria import keep
from tandem.model.metrics import Measured, check_metric
from tandem.model.repository import Repository, Version
from tandem.model.rules import Criteria
from tandem.util.clock import now

CHECKS = ("good_enough", "loads_safely", "answers_match", "same_interface")


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the version was accepted, by which checks or by which person.

    Without any checks it is a person's word, given before anybody judged the version.
    """

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
        if self.overruled_by and not self.checks:
            return f"accepted by {self.overruled_by} if it is safe: {self.overruled_reason}"
        if self.overruled_by and self.accepted:
            return f"accepted by {self.overruled_by}: {self.overruled_reason}"
        if self.overruled_by:
            failed = [check for check in failed if check.name != "good_enough"]
        return "; ".join(check.summary for check in failed)


def judge(
    repository: Repository, number: int, criteria: Criteria, *, cache: Path, again: bool = False
) -> Verdict:
    """The verdict that stands on version `number`, or a new one, then stored.

    Being refused is a result; raises `NotFound` and `StorageError`, `SettingError` for a rule that
    cannot be read, and `SandboxError` when the machine could not judge, which says nothing of the
    version.
    """
    version = repository.version(number)
    if not again and (standing := standing_verdict(repository, version, criteria)):
        return standing
    check_metric(criteria.rule.metric_of(version.manifest.task))
    key = _key(repository, number)
    ahead, etag = None, None
    with contextlib.suppress(NotFound):
        data, etag = repository.store.read(key)
        before = _decode(data, key)
        ahead = before if not before.checks else None
    keep(repository, criteria)
    found = examine_version(repository, version, criteria, cache)
    result = Verdict(
        version=number,
        digest=version.digest,
        accepted=False,
        checks=[*found.checks, same_interface(repository, version, criteria)],
        judged_at=now(),
        champion=criteria.champion,
        measured=found.measured,
        rule=criteria.digest(version.manifest),
    )
    failed = {check.name for check in result.checks if not check.passed}
    result = msgspec.structs.replace(result, accepted=not failed)
    if ahead is not None and "good_enough" in failed:
        # A person took that upon themselves before anybody had judged it.
        result = msgspec.structs.replace(
            result,
            accepted=failed == {"good_enough"},
            overruled_by=ahead.overruled_by,
            overruled_reason=ahead.overruled_reason,
        )
    try:
        if etag is None:
            repository.store.put(key, msgspec.json.encode(result), if_absent=True)
        else:
            repository.store.put(key, msgspec.json.encode(result), if_match=etag)
    except Conflict:
        # Somebody judged it at the same moment: one verdict counts, the first.
        return standing_verdict(repository, version, criteria) or result
    return result


def standing_verdict(
    repository: Repository, version: Version, criteria: Criteria
) -> Verdict | None:
    """The stored verdict as far as it still counts; None: judge the version.

    What is live, or older, and what a person accepted, is not judged again. Its interface is: that
    takes no opening of the model, and the commit beside it may be another one.
    """
    found = verdict(repository, version.number)
    if found is None or not found.checks:
        return None
    live = criteria.champion is not None and version.number <= criteria.champion
    if not (live or found.overruled_by or found.rule == criteria.digest(version.manifest)):
        return None
    before = [check for check in found.checks if check.name != "same_interface"]
    fits = same_interface(repository, version, criteria)
    good = all(
        check.passed or (check.name == "good_enough" and bool(found.overruled_by))
        for check in before
    )
    return msgspec.structs.replace(found, checks=[*before, fits], accepted=good and fits.passed)


def same_interface(repository: Repository, version: Version, criteria: Criteria) -> Check:
    """Whether it is asked and answers as the commit says, and else as what is live."""
    name, live = "same_interface", None
    if criteria.champion is not None and criteria.champion != version.number:
        try:
            live = repository.version(criteria.champion).manifest
        except NotFound:
            live = None
    elif criteria.champion == version.number:
        live = version.manifest
    wrong = mismatch(version.manifest, live, criteria.takes)
    if wrong:
        text = (
            f"{wrong}: the model must fit the code; a wanted change comes with a commit that says "
            "so in [tool.tandem.app.model]"
        )
        return Check(name, False, text)
    said = " and ".join(
        [*(["the commit says"] if criteria.takes else []), *(["is live"] if live else [])]
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
    """Accept a version that is not good enough; `by` and `reason` stay in its verdict.

    One that was not judged yet is accepted if it then turns out to be safe. Raises `PackageError`
    when it was accepted anyway, or was refused for its safety or its answers: nobody can overrule
    those.
    """
    if not by.strip() or not reason.strip():
        raise PackageError("overruling a verdict takes a name and a reason")
    key = _key(repository, number)
    try:
        data, etag = repository.store.read(key)
    except NotFound:
        ahead = Verdict(
            version=number,
            digest=repository.version(number).digest,
            accepted=False,
            checks=[],
            judged_at=now(),
            overruled_by=by.strip(),
            overruled_reason=reason.strip(),
        )
        repository.store.put(key, msgspec.json.encode(ahead), if_absent=True)
        return ahead
    before = _decode(data, key)
    if not before.checks:
        raise PackageError(f"v{number} of {repository.name}: {before.reason}")
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
    criteria: Criteria,
    judge_missing: Callable[[int], Verdict] | None = None,
    *,
    unjudged: bool = False,
) -> tuple[Version | None, list[tuple[int, str]]]:
    """The newest accepted version, and the newer ones, each with its reason.

    `judge_missing` is called where no verdict stands; without it such a version counts as accepted
    with `unjudged`, and is passed over otherwise.
    """
    passed_over: list[tuple[int, str]] = []
    for version in repository.versions():
        found = standing_verdict(repository, version, criteria)
        if found is None and judge_missing is not None:
            found = judge_missing(version.number)
        if found.accepted if found is not None else unjudged:
            return version, passed_over
        passed_over.append((version.number, found.reason if found else "not judged yet"))
    return None, passed_over


def _key(repository: Repository, number: int) -> str:
    return f"{repository.prefix}/verdicts/{number:06}.json"


def _decode(data: bytes, key: str) -> Verdict:
    try:
        return msgspec.json.decode(data, type=Verdict)
    except msgspec.MsgspecError as problem:
        raise PackageError(f"{key}: not a verdict: {problem}") from None
