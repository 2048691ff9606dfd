"""The `tandem` command; each file here holds the commands of one kind."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line, or name the extra that has the libraries it lacks."""
    try:
        import click  # noqa: F401
        import rich  # noqa: F401
    except ImportError as problem:
        print(
            f"tandem: the command line needs {problem.name}: pip install 'tandem-release[cli]'",
            file=sys.stderr,
        )
        raise SystemExit(1) from None
    from tandem.cli.commands import tandem

    tandem()
