"""`python3 -m tandem.serving.record PACKAGE [FOLDER]`: record a model for tests."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from tandem.errors import TandemError
from tandem.serving.recorded import record

USAGE = "usage: python3 -m tandem.serving.record PACKAGE [FOLDER, by default recorded_model]"


def main(arguments: Sequence[str]) -> int:
    """0 when it is written; 1, with one line on stderr, when the package is refused."""
    if len(arguments) not in (1, 2):
        print(USAGE, file=sys.stderr)
        return 2
    try:
        folder = record(Path(arguments[0]), Path((*arguments, "recorded_model")[1]))
    except (TandemError, OSError) as error:
        print(f"record: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    print(f"recorded in {folder}: commit this folder beside the app")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
