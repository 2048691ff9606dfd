"""What versions are judged by: the application's rule, the commit, what is live."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from tandem.errors import SettingError, one_line
from tandem.model.interface import Takes
from tandem.model.package import MAX_EVALUATION, HeldOut, Manifest


class AcceptanceRule(msgspec.Struct, frozen=True, kw_only=True):
    """What the application demands of a model before it is accepted.

    `metric` is at least `floor` on held-out rows with 95 % confidence (an error like "mae": at
    most), and not worse than the live version's by more than `margin` (in the metric's unit for
    shares and scores, relative for errors). `held_out` is a JSON file of the application's own
    `rows` and `truth`; without one the live version's rows count, without those the publisher's.
    """

    metric: str = ""
    """Accuracy where none is named, and r2 for a regression."""
    floor: float = 0.0
    margin: float = 0.02
    least_rows: int = 30
    """Fewer held-out rows accept nothing."""
    tolerance: float = 0.001
    """How far the recorded answers may differ from those given, whatever the package says: a
    probability, or a share of the largest value."""
    held_out: str = ""
    """The path of that file."""

    def metric_of(self, task: str) -> str:
        """The metric that a model of that task is measured by."""
        return self.metric or ("accuracy" if task == "classification" else "r2")

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

    def held_out_digest(self) -> str:
        """The sha256 of that file, read again only after it changed; else ""."""
        if not self.held_out:
            return ""
        try:
            stat = Path(self.held_out).stat()
        except OSError as problem:
            raise SettingError(f"held-out rows {self.held_out}: {problem.strerror}") from None
        return _sha256(self, stat.st_ino, stat.st_mtime_ns, stat.st_size)

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


class Criteria(msgspec.Struct, frozen=True, kw_only=True):
    """What versions are judged by now: the rule, the commit's own, what is live."""

    rule: AcceptanceRule = AcceptanceRule()
    takes: Takes | None = None
    lock: Mapping[str, str] | None = None
    """Versions of the libraries that the model would be served with, where they are known."""
    champion: int | None = None
    """The live version."""
    trust: tuple[str, ...] = ()
    """Types of its own that the application allows in a model, by their full names."""
    modules: tuple[Path, ...] = ()
    """Folders in which the modules of these types are found."""

    def digest(self, manifest: Manifest) -> str:
        """Names all that decides a verdict on a package but what is live."""
        needed = ("scikit-learn", "skops") if manifest.runtime == "sklearn" else ()
        rule = msgspec.structs.replace(self.rule, held_out="")
        decides = [
            rule,
            self.rule.held_out_digest(),
            {name: (self.lock or {}).get(name) for name in needed} if self.lock else {},
            # Left out where there are none: what was judged before there were any still stands.
            *([sorted(self.trust)] if self.trust else []),
        ]
        encoded = msgspec.json.encode(decides, order="deterministic")
        return hashlib.sha256(encoded).hexdigest()[:16]


@functools.lru_cache(maxsize=64)
def _sha256(rule: AcceptanceRule, *_: int) -> str:
    return hashlib.sha256(rule._held_out_bytes() or b"").hexdigest()
