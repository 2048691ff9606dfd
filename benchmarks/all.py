"""All benchmarks, one after the other, and one table of their figures with goals and misses.

The table goes to the screen and to .tandem/bench.md; what a service is missing for says so.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
NAMES = ("release", "image", "models", "deploy", "serving")
TABLE = HERE.parent / ".tandem" / "bench.md"


def main() -> int:
    """Run them; returns how many goals were missed or could not be measured."""
    rows, missed = [], 0
    for name in NAMES:
        print(f"--- {name}", flush=True)
        done = subprocess.run(
            [sys.executable, str(HERE / f"{name}.py")], stdout=subprocess.PIPE, text=True
        )
        figures = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        for one in figures:
            mark = "" if not one["goal"] else "met" if one["ok"] else "**missed**"
            missed += mark == "**missed**"
            rows.append(
                f"| {name} | {one['name']} | {one['value']:,.4g} {one['unit']} "
                f"| {one['goal']} | {mark} |"
            )
        if not figures:
            said = (done.stdout.strip().splitlines() or ["nothing was said"])[-1]
            rows.append(f"| {name} | not measured: {said} | | | **missed** |")
            missed += 1
    table = "\n".join(
        ["| bench | figure | value | goal | |", "| --- | --- | --- | --- | --- |", *rows]
    )
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text(table + "\n")
    print(f"\n{table}\n\n{missed} missed; also in {TABLE.relative_to(HERE.parent)}")
    return missed


if __name__ == "__main__":
    sys.exit(main())
