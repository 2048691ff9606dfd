"""Rows and tables on a terminal, and as plain text where there is none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text


def print_rows(rows: Sequence[tuple[str, str]]) -> None:
    """A name and what it stands for, a line each."""
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns under their names."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in head:
        table.add_column(name, overflow="fold")
    for row in rows:
        # As text: what people wrote into a commit is no markup.
        table.add_row(*(Text(cell) for cell in row))
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 10_000  # a pipe has no width: nothing is folded
    console.print(table)


def print_detail(name: str, value: Any) -> None:
    """What only the target knows: pods, a rollout's timeline, events, lines to copy."""
    if not isinstance(value, list) or not value:
        return
    print(f"\n{name}")
    if all(isinstance(row, dict) for row in value):
        head = list(dict.fromkeys(key for row in value for key in row))
        print_table(head, [[str(row.get(key, "")) for key in head] for row in value])
    else:
        for line in value:
            print(f"  {line}")
