"""The errors a person can mend: one line each that says what, where, and what would be right."""

import re


class TandemError(Exception):
    """Anything that Tandem refuses or cannot do; `str(error)` is one line for a person."""


class SettingError(TandemError):
    """A setting (an environment variable, `[tool.tandem.app]`) has a wrong value."""


class StorageError(TandemError):
    """The object store could not be used: names the store and what is needed."""


class NotFound(StorageError):
    """There is no object with that key."""


class Conflict(StorageError):
    """A conditional write lost: the object is there already, or is not the one that was read."""


class PackageError(TandemError):
    """A model package is refused: names the file and the reason."""


class SourceError(TandemError):
    """The Git remote, branch or commit could not be read."""


class BuildError(TandemError):
    """A commit could not be turned into an app image (its tests failing is not an error)."""


class RecipeError(BuildError):
    """A commit says wrongly, or not at all, how it is built: a verdict on it, as red tests are."""


class SandboxError(TandemError):
    """Code that is not ours could not be started in a sandbox; says nothing of that code."""


class NothingToPack(TandemError):
    """There is no tested commit or no accepted model to pack: a state, not a fault."""


class RegistryError(TandemError):
    """The registry, or an image in it, is not as it should be."""


class TargetError(TandemError):
    """An image could not be made live; says what is live now instead."""


class ImageFault(TargetError):
    """The image itself is at fault: it ends by itself, or answers otherwise than it must.

    A verdict on the image. Every other `TargetError` is a fault of the machinery (engine away,
    pull failed, not ready in time on a busy machine) says nothing of the image, and is tried again.
    """


def one_line(problem: object) -> str:
    """What a library said, as one short line."""
    text = " ".join((str(problem) or type(problem).__name__).split())
    # An address in memory says nothing to anyone, and would make each try another package.
    return re.sub(r"\b0x[0-9a-f]{6,}", "0x…", text)[:300]
