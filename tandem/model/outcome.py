"""What publishing finds out about a new version, with the remedy for each refusal.

The same checks as the release makes, by the criteria that it kept. The release judges again: what a
publisher's machine says accepts nothing.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Literal

import msgspec

from tandem.errors import TandemError
from tandem.model.acceptance import same_interface, standing_verdict
from tandem.model.judge import examine_package
from tandem.model.judge_job import Check
from tandem.model.kept_criteria import kept_criteria
from tandem.model.package import Package
from tandem.model.repository import Repository, Version
from tandem.model.rules import Criteria

State = Literal["accepted", "refused", "missing", "unknown"]
"""Missing: nothing but a person's word, or rows to measure it on, stands between it and a release.
Unknown: this machine could not examine it; the release will."""
_WORDS = {
    "accepted": "accepted by every check",
    "refused": "refused",
    "missing": "published, and not accepted yet",
    "unknown": "published, and not checked here",
}


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The checks on a version just published, and what to do about the failed ones."""

    state: State
    checks: list[Check] = []
    remedies: list[str] = []
    """One line for each failed check: what lifts it, and who."""
    by: str = ""
    """Whose criteria these were."""

    def lines(self) -> list[str]:
        """The outcome for a person: the verdict first, then why, then what to do."""
        failed = [check for check in self.checks if not check.passed]
        return [
            f"{_WORDS[self.state]} ({self.by})",
            *(f"  {check.name}: {check.summary}" for check in failed),
            *(f"  → {remedy}" for remedy in self.remedies),
        ]


def outcome_of(
    repository: Repository, package: Package, version: Version, *, trust: tuple[str, ...] = ()
) -> Outcome:
    """What the release's checks say of the version, whose files are in `package`.

    `trust`: the application's own types, until a release has kept what it trusts. Never raises
    what is the machine's fault: that is the state `unknown`.
    """
    name, number = repository.name, version.number
    try:
        kept = kept_criteria(repository)
        criteria = kept.criteria() if kept else Criteria(trust=trust)
        by = "by the criteria of the last release" if kept else "by default: no release judged yet"
        criteria = msgspec.structs.replace(criteria, modules=modules_of(criteria.trust))
        if (
            kept
            and not kept.own_rows
            and (verdict := standing_verdict(repository, version, criteria))
        ):
            checks = verdict.checks
            if verdict.accepted:
                return Outcome(state="accepted", checks=checks, by="judged by a release before")
        else:
            checks = _examined(repository, package, version, criteria)
    except (TandemError, OSError) as problem:
        return Outcome(state="unknown", remedies=["the release checks it"], by=str(problem))
    if kept and kept.own_rows:
        later = Check("good_enough", True, "measured at the release, on the application's own rows")
        checks = [later if check.name == "good_enough" else check for check in checks]
    failed = {check.name: check for check in checks if not check.passed}
    # What was not asked has no remedy of its own.
    real = [check for check in failed.values() if not check.summary.startswith("not asked")]
    remedies = [_remedy(check, name, number) for check in real]
    state: State = "refused"
    if not failed:
        state = "accepted"
    elif failed.keys() == {"good_enough"} and "missing" in failed["good_enough"].details:
        state = "missing"
    return Outcome(state=state, checks=checks, remedies=remedies, by=by)


def _examined(
    repository: Repository, package: Package, version: Version, criteria: Criteria
) -> list[Check]:
    with tempfile.TemporaryDirectory(prefix="tandem-judged-") as cache:
        found = examine_package(repository, package, version.number, criteria, Path(cache))
    return [*found.checks, same_interface(repository, version, criteria)]


def _remedy(check: Check, name: str, number: int) -> str:
    accept = f"tandem accept {number} --app {name} --by NAME --reason WHY"
    if check.name == "good_enough":
        missing = check.details.get("missing")
        if missing == "held-out rows":
            return f"publish it with held_out=(X, y), or a person accepts it: {accept}"
        if missing == "a person":
            return f"a person tries it and accepts it: {accept}"
        better = "train a better one, or " if "value" in check.details else ""
        return f"{better}a person takes it upon themselves: {accept}"
    if check.name == "same_interface":
        return "commit code that takes it, with [tool.tandem.app.model] saying so"
    if "[tool.tandem.app]" in check.summary:
        return "the app's developers add it to trust in [tool.tandem.app]: then it is judged again"
    return "nobody can accept this in spite of it: publish it anew"


def modules_of(types: tuple[str, ...]) -> tuple[Path, ...]:
    """The folders in which this process finds the types' own modules."""
    import importlib.util

    folders = set()
    for top in {name.partition(".")[0] for name in types}:
        try:
            spec = importlib.util.find_spec(top)
        except (ImportError, ValueError):
            continue
        if spec is None or spec.origin is None:
            continue
        place = Path(spec.origin).parent
        folder = place.parent if spec.submodule_search_locations else place
        if "site-packages" not in folder.parts:
            folders.add(folder.resolve())
    return tuple(sorted(folders))
