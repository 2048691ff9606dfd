"""Which addresses there are, who answers each, and what holds there.

Tandem's own stand below PREFIX, which meets no route of an app, and at their usual places unless
the app has those itself. All others are the app's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

PREFIX = "/_tandem"
USUAL: Mapping[str, tuple[str, ...]] = {
    "score": ("/score",),
    "live": ("/healthz", "/livez"),
    "ready": ("/readyz",),
    "version": ("/version",),
    "metrics": ("/metrics",),
    "docs": ("/docs",),
    "openapi.json": ("/openapi.json",),
}
"""The usual places of what stands at PREFIX/NAME."""
V2 = "/v2"
QUIET = frozenset({"live", "ready", "metrics"})
"""Asked by machines every few seconds: no line in the log, no span."""
PAGE, V2_HEALTH, V2_MODEL, V2_INFER = "", "v2/health", "v2/models", "v2/infer"
OTHER = "other"
MOST = 200
"""Routes of an app that are counted one by one; further ones count as "other"."""
_LABELS = {
    **{name: places[0] for name, places in USUAL.items()},
    PAGE: f"{PREFIX}/",
    V2: V2,
    V2_HEALTH: "/v2/health/{}",
    V2_MODEL: "/v2/models/{}",
    V2_INFER: "/v2/models/{}/infer",
}
_NUMBERS = {name: number for number, name in enumerate(_LABELS)}


class Address(msgspec.Struct, frozen=True):
    """What holds at an address."""

    number: int
    """Its place among `Addresses.labels`."""
    name: str | None
    """What Tandem answers there; None: it is the app's."""
    key: bool
    """Whether a key or token is needed there, where the service has any."""
    scores: bool = False
    quiet: bool = False


class Addresses:
    """The addresses of one app and of Tandem.

    `rules` are the app's URL rules, `usual` says whether Tandem answers at the usual places too,
    `public` names the app's paths that need no key ("/static/" stands for all below it), `guarded`
    what needs one all the same.
    """

    def __init__(
        self,
        rules: Sequence[str] = (),
        *,
        usual: bool = True,
        public: Sequence[str] = (),
        guarded: Sequence[str] = (),
    ) -> None:
        routes = sorted(set(rules))[:MOST]
        self.labels = [*_LABELS.values(), *routes, OTHER]
        self.routes = {rule: len(_LABELS) + number for number, rule in enumerate(routes)}
        self.other = len(self.labels) - 1
        taken = {_stripped(rule) for rule in rules}
        self.v2 = V2 if usual and not any(_below(rule, V2) for rule in taken) else PREFIX + V2
        self.places: dict[str, tuple[str, ...]] = {}
        """Where each of Tandem's own stands, the place to name first."""
        guarded_names = {name for name, places in USUAL.items() if set(places) & set(guarded)}
        if "/" in guarded:
            guarded_names.add(PAGE)
        self._known: dict[str, Address] = {}
        for name, places in USUAL.items():
            offered = [place for place in places if usual and place not in taken]
            self.places[name] = (*offered, f"{PREFIX}/{name}")
            address = Address(
                _NUMBERS[name], name, name == "score" or name in guarded_names, name == "score",
                name in QUIET,
            )  # fmt: skip
            self._known |= dict.fromkeys(self.places[name], address)
        self._page = Address(_NUMBERS[PAGE], PAGE, PAGE in guarded_names)
        self._guarded = frozenset(guarded)
        self._public = frozenset(public)
        self._below = tuple(path for path in public if path != "/" and path.endswith("/"))

    def of(self, path: str) -> Address:
        """What holds at this path, however many slashes it has at its ends."""
        if (known := self._known.get(path)) is not None:
            return known
        stripped = _stripped(path)
        if (known := self._known.get(stripped)) is not None:
            return known
        if _below(stripped, self.v2):
            return _v2(stripped.removeprefix(self.v2))
        if _below(stripped, PREFIX):
            return self._page
        public = path in self._public or path.startswith(self._below)
        key = not public or path in self._guarded
        return Address(self.routes.get(path, self.other), None, key)


def _v2(rest: str) -> Address:
    if rest.startswith("/health/"):
        return Address(_NUMBERS[V2_HEALTH], V2_HEALTH, False, quiet=rest == "/health/live")
    if rest.startswith("/models/"):
        if rest.endswith("/infer"):
            return Address(_NUMBERS[V2_INFER], V2_INFER, True, True)
        return Address(_NUMBERS[V2_MODEL], V2_MODEL, False)
    return Address(_NUMBERS[V2], V2, False)


def _stripped(path: str) -> str:
    return "/" + path.strip("/")


def _below(path: str, top: str) -> bool:
    return path == top or path.startswith(top + "/")
