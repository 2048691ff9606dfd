"""Installed Python distributions, as a bill of materials lists them."""

from __future__ import annotations

from email.message import Message
from email.parser import HeaderParser

import msgspec


class Component(msgspec.Struct, frozen=True, kw_only=True):
    """One installed distribution, for the bill of materials."""

    name: str
    version: str
    license: str = ""
    summary: str = ""


def component_of(metadata: str, folder: str) -> Component:
    """The component that the METADATA of a `.dist-info` folder describes."""
    headers = HeaderParser().parsestr(metadata)
    name, _, version = folder.removesuffix(".dist-info").rpartition("-")
    return Component(
        name=str(headers.get("Name") or name),
        version=str(headers.get("Version") or version),
        license=_license(headers),
        summary=str(headers.get("Summary") or "").strip(),
    )


def _license(metadata: Message) -> str:
    """The licence in a few words: the newest field first, and never a whole text."""
    words = [str(metadata.get("License-Expression") or ""), str(metadata.get("License") or "")]
    for text in words:
        if 0 < len(text.strip()) < 60 and "\n" not in text.strip():
            return text.strip()
    classifiers = [str(line).split(" :: ") for line in metadata.get_all("Classifier") or []]
    # "License :: OSI Approved" alone names none.
    named = [path[-1].strip() for path in classifiers if path[0] == "License" and len(path) > 2]
    return ", ".join(dict.fromkeys(named))
