"""`tandem init`: what a repository says of itself, what is guessed, and a recipe of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from tandem.cli.options import one_line, open_project
from tandem.cli.tables import print_table
from tandem.errors import RecipeError, SettingError, TandemError

_LINES = ("lock", "test", "command", "paths", "extension")


@click.command()
@click.option("--ask/--no-ask", default=True, help="Build it and ask it the proposed questions.")
@one_line
def init(ask: bool) -> None:
    """Look at this repository, and write the recipe of its app into pyproject.toml."""
    from tandem.build import defaults
    from tandem.build.proposals import propose
    from tandem.release.app import own_name

    folder = Path.cwd()
    if not (folder / ".git").exists():
        raise SettingError(f"{folder} is no Git repository: run `git init`, and commit something")
    name = own_name(folder)
    found = {
        "lock": defaults.requirements(folder),
        "test": defaults.test_command(folder),
        "command": defaults.command(folder),
        "paths": defaults.packed_paths(folder),
    }
    if found["paths"]:
        found["extension"] = defaults.extension(folder, found["paths"].value)
    rows = [["name", name, "pyproject.toml or the folder"]]
    for key in _LINES:
        guess = found.get(key)
        rows.append([key, _shown(key, guess), guess.source if guess else "not found"])
    print_table(["line", "value", "found in"], rows)
    for note in _notes(folder, found["lock"].value if found["lock"] else ""):
        click.echo(f"note: {note}")
    lines = [f'name = "{name}"']
    if found["test"] is None:
        lines.append("tests = false")
        click.echo("note: no tests were found; what has no tests is released untested")
    alone = defaults.without_model(folder, found["paths"].value) if found["paths"] else None
    if alone and open_project(None).models.latest() is None:
        lines.append("model = false")
        click.echo(f"note: it is released as code alone: {alone.source}, and no model is published")
        click.echo(
            'note: to release a model of its own, publish it with runtime="files", open it at '
            "$TANDEM_MODEL, and take out model = false"
        )
    for key in ("lock", "command"):
        if found[key] is None:
            raise RecipeError(f"no {key} was found: say {key} = … in [tool.tandem.app]")
    _write(folder / "pyproject.toml", lines)
    proposals = [] if found["extension"] and found["extension"].value else propose(folder)
    if ask and proposals:
        _ask(folder, proposals)


def _ask(folder: Path, proposals: list[Any]) -> None:
    """Ask what the repository suggests, show the answers, and keep the good ones."""
    from tandem.release.trial import try_questions

    try:
        tried = try_questions(open_project(None), proposals)
    except TandemError as problem:
        click.echo(f"the proposed questions could not be asked: {problem}")
        return
    print_table(
        ["question", "suggested by", "answer", ""],
        [[str(one.proposal), one.proposal.source, str(one.status), one.excerpt] for one in tried],
    )
    if broken := [one for one in tried if one.status >= 500]:
        click.echo(f"note: {broken[0].proposal} fails, whatever a health path may say")
    kept = [one for one in tried if one.good][:3]
    for one in kept:
        table = {**one.proposal.table, "expect": {"status": one.status}}
        _append(folder / "pyproject.toml", _toml(table))
    if kept:
        click.echo(
            f"{len(kept)} questions were written into pyproject.toml: change what they expect"
        )


def _notes(folder: Path, lock: str) -> list[str]:
    from tandem.build.requirements import read_requirements

    if not lock.endswith(".txt"):
        return []
    notes = read_requirements(folder, lock).notes
    for name in (".python-version", "runtime.txt"):
        if (folder / name).is_file():
            asked = (folder / name).read_text("utf-8", errors="replace").strip()
            notes.append(f"{name} asks for {asked}; TANDEM_BASE_IMAGE says what the image has")
    return notes


def _shown(key: str, guess: Any) -> str:
    if guess is None:
        return ""
    if key == "paths":
        return f"{len(guess.value)} files"
    return guess.value if isinstance(guess.value, str) else json.dumps(guess.value)


def _write(path: Path, lines: list[str]) -> None:
    text = path.read_text("utf-8") if path.exists() else ""
    if "[tool.tandem.app]" in text:
        click.echo("pyproject.toml has a recipe already: it is left as it is")
        return
    _append(path, "\n".join(["[tool.tandem.app]", *lines]))
    click.echo("wrote [tool.tandem.app] into pyproject.toml: commit it, then `tandem release`")


def _append(path: Path, text: str) -> None:
    before = path.read_text("utf-8").rstrip("\n") + "\n\n" if path.exists() else ""
    path.write_text(f"{before}{text}\n", "utf-8")


def _toml(table: dict[str, Any]) -> str:
    lines = ["[[tool.tandem.app.question]]"]
    lines += [f"{name} = {_value(value)}" for name, value in table.items()]
    return "\n".join(lines)


def _value(value: Any) -> str:
    """A value as TOML writes it; JSON does but for tables and null."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(k)} = {_value(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
