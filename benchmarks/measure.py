"""What all benchmarks share: repeated measurements in turn, the table, and a JSON line a figure."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence


class Figures:
    """Collects figures with their goals, and prints them at the end."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._lines: list[dict[str, object]] = []

    def add(self, name: str, value: float, unit: str, goal: str = "") -> None:
        """One figure; `goal` is `<= NUMBER`, `>= NUMBER` or nothing, where it is only stated."""
        ok = True
        if goal:
            sign, number = goal.split()
            ok = value <= float(number) if sign == "<=" else value >= float(number)
        self._lines.append(
            {"name": name, "value": round(value, 4), "unit": unit, "goal": goal, "ok": ok}
        )

    def show(self) -> int:
        """Print the table, then the JSON lines; returns how many goals were missed."""
        print(f"\n{self._title}")
        width = max(len(str(line["name"])) for line in self._lines)
        for line in self._lines:
            mark = "" if not line["goal"] else ("ok" if line["ok"] else "MISSED")
            print(
                f"  {line['name']:<{width}}  {line['value']:>12,.4g} {line['unit']:<10} "
                f"{line['goal']:<10} {mark}"
            )
        print()
        for line in self._lines:
            print(json.dumps(line))
        sys.stdout.flush()
        return sum(not line["ok"] for line in self._lines)


def seconds(work: Callable[[], object]) -> float:
    """How long one call takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def in_turn(works: Sequence[Callable[[], object]], runs: int = 5, warm: int = 1) -> list[float]:
    """The median seconds of each of `works`, run in turn so that a machine's drift meets all."""
    taken: list[list[float]] = [[] for _ in works]
    for number in range(warm + runs):
        for index, work in enumerate(works):
            took = seconds(work)
            if number >= warm:
                taken[index].append(took)
    return [statistics.median(one) for one in taken]
