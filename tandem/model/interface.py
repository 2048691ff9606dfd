"""What a model is asked and what it answers, against what is live and what the commit says."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from tandem.model.package import Feature, Manifest

_KINDS = {"str": "text", "bool": "bool"}
_SHOWN = 4


class Takes(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[tool.tandem.app.model]` of a commit: the model that its code is written for.

    What is left out is as it is live. `image` is width and height in pixels; `features` are names
    with "number", "text" or "bool", or how many unnamed numbers there are.
    """

    task: Literal["classification", "regression"] | None = None
    labels: list[str] | None = None
    image: tuple[int, int] | None = None
    features: dict[str, Literal["number", "text", "bool"]] | int | None = None


def mismatch(manifest: Manifest, live: Manifest | None, takes: Takes | None) -> str:
    """How a model's interface differs from what it must be; empty where it fits.

    What the commit says counts; where it says nothing, what is live does.
    """
    said = takes or Takes()
    wrong = [
        _task(manifest, live, said.task),
        _image(manifest, live, said.image),
        "" if manifest.image else _features(manifest, live, said.features),
        _labels(manifest, live, said.labels),
    ]
    return "; ".join(one for one in wrong if one)


def _task(manifest: Manifest, live: Manifest | None, said: str | None) -> str:
    wanted = said or (live.task if live else manifest.task)
    if manifest.task == wanted:
        return ""
    return f"it does {manifest.task}, {_who(said)} does {wanted}"


def _image(manifest: Manifest, live: Manifest | None, said: tuple[int, int] | None) -> str:
    ours = (manifest.image.width, manifest.image.height) if manifest.image else None
    if said is None and live is not None and live.image is not None:
        wanted: tuple[int, int] | None = (live.image.width, live.image.height)
    elif said is None and live is None:
        return ""
    else:
        wanted = said
    if ours == wanted:
        return ""
    return f"it takes {_picture(ours)}, {_who(said)} takes {_picture(wanted)}"


def _picture(size: tuple[int, int] | None) -> str:
    return f"pictures of {size[0]} x {size[1]}" if size else "no pictures"


def _features(
    manifest: Manifest, live: Manifest | None, said: Mapping[str, str] | int | None
) -> str:
    ours = _named(manifest.features)
    if isinstance(said, int):
        numbers = sum(math.prod(feature.shape) for feature in manifest.features)
        plain = all(feature.dtype not in _KINDS for feature in manifest.features)
        if numbers == said and plain:
            return ""
        return f"it takes {_told(ours)}, {_who(said)} takes {said} numbers"
    wanted = dict(said) if said is not None else _named(live.features) if live else ours
    if list(ours.items()) == list(wanted.items()):
        return ""
    if manifest.layout == "table" and ours == wanted:
        return ""  # columns are asked for by name
    if ours == wanted:
        return f"it takes {_told(ours)} in another order than {_who(said)} takes {_told(wanted)}"
    return f"it takes {_told(ours)}, {_who(said)} takes {_told(wanted)}"


def _named(features: Sequence[Feature]) -> dict[str, str]:
    return {feature.name: _kind(feature) for feature in features}


def _kind(feature: Feature) -> str:
    kind = _KINDS.get(feature.dtype, "number")
    return f"{kind} {'x'.join(map(str, feature.shape))}" if feature.shape else kind


def _told(features: Mapping[str, str]) -> str:
    if len(features) == 1 and " " in (kind := next(iter(features.values()))):
        return f"rows of {kind.split()[1]} numbers"
    first = ", ".join(f"{name} ({kind})" for name, kind in list(features.items())[:_SHOWN])
    more = f" and {len(features) - _SHOWN} more" if len(features) > _SHOWN else ""
    return f"{len(features)} features: {first}{more}"


def _labels(manifest: Manifest, live: Manifest | None, said: list[str] | None) -> str:
    wanted = said if said is not None else list(live.labels) if live else manifest.labels
    if set(manifest.labels) == set(wanted):
        return ""
    added = sorted(set(manifest.labels) - set(wanted))
    missing = sorted(set(wanted) - set(manifest.labels))
    parts = [f"answers also {_list(added)}"] if added else []
    parts += [f"never answers {_list(missing)}"] if missing else []
    other = "the commit says" if said is not None else "is live"
    return f"it {' and '.join(parts)}, unlike what {other}"


def _list(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - _SHOWN} more" if len(labels) > _SHOWN else ""
    return ", ".join(labels[:_SHOWN]) + more


def _who(said: object) -> str:
    return "the commit" if said is not None else "what is live"
