"""How a commit is built, tested, started and asked: what it says, and defaults for the rest."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from tandem.build import defaults
from tandem.contract import OWN_READY_PATH
from tandem.errors import RecipeError, one_line
from tandem.model.interface import Takes

ENTRY = "[tool.tandem.app] of pyproject.toml"


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """How a commit is built, tested, started and asked."""

    name: str
    paths: list[str]
    """What is packed: files and folders of the repository."""
    lock: str
    """What is installed: a requirements file, `pylock.toml`, `uv.lock` or `pyproject.toml`."""
    test_lock: str = ""
    """What is installed for the tests; empty: as `lock`, with pytest and `test_requirements`."""
    test_requirements: str = ""
    test: list[str]
    command: list[str]
    tests: bool = True
    """False for a repository that has no tests, which every report of it then says."""
    model: Takes | None = None
    """The model that the code is written for, where it says so."""
    trust: list[str] = []
    """Classes of the application's own that may be in its model, by their full names; `pickle` for
    files that only it opens."""
    code_alone: bool = False
    """Whether it is released without a model: it takes none, or carries one in its repository."""
    needs: list[str] = []
    """What the command takes beside what the commit asks for."""
    contract: bool = True
    """Whether the service uses the extension (or speaks its contract by itself)."""
    health: str = ""
    """The path that says that it is ready; empty: whatever answers."""
    questions: list[Any] = []
    """Tables of what the service is asked (`tandem.service.question_tables`)."""
    guessed: dict[str, str] = {}
    """The lines that the commit does not say itself, with where each was found."""


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab", kw_only=True):
    """`[tool.tandem.app]` as it is written."""

    name: str = ""
    paths: list[str] | None = None
    lock: str | None = None
    test_lock: str | None = None
    test: list[str] | None = None
    command: list[str] | str | None = None
    tests: bool = True
    model: Takes | bool | None = None
    trust: list[str] = []
    extension: bool | None = None
    health: str | None = None
    question: list[dict[str, Any]] = []


def read_recipe(folder: Path, app: str) -> Recipe:
    """The recipe of a checked-out commit; what it does not say is found in its files.

    Raises `RecipeError` when it is malformed, names paths outside the folder or another app, and
    where there is nothing from which a line could be guessed.
    """
    table = _read_table(folder)
    if table.name and table.name != app:
        raise RecipeError(f"{ENTRY} describes {table.name!r}; this is the build of {app!r}")
    if (
        [] in (table.paths, table.test if table.tests else None)
        or ""
        in (
            table.lock,
            table.command,
        )
        or table.command == []
    ):
        raise RecipeError(f"{ENTRY}: paths, lock, test and command must not be empty")
    if table.model is True:
        raise RecipeError(f"{ENTRY}: expected model = false, or a table of what the code takes")
    for name in table.trust:
        if name != "pickle" and not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", name):
            raise RecipeError(f"{ENTRY} trusts {name!r}: expected a full name like package.Class")
    guessed: dict[str, str] = {}

    def guess(key: str, found: defaults.Guess | None, missing: str) -> Any:
        if found is None:
            raise RecipeError(f"{missing}: say {key} = … in {ENTRY}")
        guessed[key] = found.source
        return found.value

    paths = table.paths or guess("paths", defaults.packed_paths(folder), "nothing to pack")
    lock = table.lock
    if lock is None:
        lock = guess(
            "lock",
            defaults.requirements(folder),
            "no requirements.txt, pylock.toml, uv.lock or [project] dependencies were found",
        )
    command = table.command
    if isinstance(command, str):
        command = defaults.started(command)
    needs: tuple[str, ...] = ()
    if command is None:
        served = defaults.command(folder)
        command = guess(
            "command", served, "neither a Procfile with a web line nor a Flask object was found"
        )
        needs = served.needs if served else ()
    test, test_requirements = table.test, ""
    if table.tests and test is None:
        test = guess(
            "test",
            defaults.test_command(folder),
            "no tests were found; a commit without tests says tests = false there",
        )
    if table.test_lock is None and table.tests:
        found = defaults.test_requirements(folder)
        test_requirements = found.value if found else ""
        guessed["test-lock"] = found.source if found else "the libraries of the app, with pytest"
    extension = table.extension
    if extension is None:
        extension = guess("extension", defaults.extension(folder, paths), "")
    recipe = Recipe(
        name=app,
        paths=paths,
        lock=lock,
        test_lock=table.test_lock or "",
        test_requirements=test_requirements,
        test=test or [],
        command=["sh", "-c", f"exec {command}"] if isinstance(command, str) else command,
        tests=table.tests,
        model=None if isinstance(table.model, bool) else table.model,
        trust=table.trust,
        code_alone=table.model is False,
        needs=list(needs),
        contract=extension,
        health=table.health if table.health is not None else (OWN_READY_PATH if extension else ""),
        questions=table.question,
        guessed=guessed,
    )
    for entry in filter(None, (*recipe.paths, recipe.lock, recipe.test_lock)):
        _check_path(folder, entry)
    return recipe


def _read_table(folder: Path) -> _Table:
    path = folder / "pyproject.toml"
    try:
        content: Any = tomllib.loads(path.read_text(encoding="utf-8"))
        table = content.get("tool", {}).get("tandem", {}).get("app", {})
        return msgspec.convert(table, _Table)
    except FileNotFoundError:
        return _Table()
    except OSError as problem:
        raise RecipeError(f"pyproject.toml of this commit: {problem.strerror}") from None
    except RecursionError:
        raise RecipeError(f"{ENTRY}: it is nested too deeply") from None
    except (TypeError, ValueError, AttributeError, msgspec.ValidationError) as problem:
        raise RecipeError(f"{ENTRY}: {one_line(problem)}") from None


def _check_path(folder: Path, entry: str) -> None:
    pure = PurePosixPath(entry)
    if pure.is_absolute() or ".." in pure.parts or not pure.parts:
        raise RecipeError(f"{ENTRY} names {entry!r}: expected a path inside the repository")
    if not (folder / entry).resolve().is_relative_to(folder.resolve()):
        raise RecipeError(f"{ENTRY} names {entry!r}, a link that leads outside")
    if not (folder / entry).exists():
        raise RecipeError(f"{ENTRY} names {entry!r}: this commit has no such path")
