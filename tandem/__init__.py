"""Tandem: your latest tested code and your latest model, released together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tandem.model.publish import publish as publish

__all__ = ["publish"]


def __getattr__(name: str) -> Any:
    # Imported when asked for: the service packs this package without the repository behind it.
    if name == "publish":
        from tandem.model.publish import publish

        return publish
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
