"""What an ordinary Flask repository says without a recipe: each guess with where it was found."""

from __future__ import annotations

import ast
import os
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

LOCKS = ("uv.lock", "pylock.toml", "requirements.txt", "requirements/base.txt")
TEST_REQUIREMENTS = (
    "requirements-test.txt", "requirements-dev.txt", "requirements_test.txt",
    "requirements_dev.txt", "test-requirements.txt", "dev-requirements.txt",
    "requirements/test.txt", "requirements/dev.txt",
)  # fmt: skip
MODULES = ("wsgi", "app", "application", "main", "run", "server", "api")
"""Where the Flask object is looked for first: the two of `flask run`, then what people use."""
OBJECTS = ("app", "application")
FACTORIES = ("create_app", "make_app")
SKIPPED = {"tests", "test", "docs", "node_modules", "venv", ".venv", "env", "__pycache__"}
MODEL_FILES = {
    ".h5", ".joblib", ".keras", ".npy", ".npz", ".onnx", ".pickle", ".pkl", ".pt", ".pth", ".sav",
    ".skops", ".ubj",
}  # fmt: skip
START = {
    "gunicorn": "python3 -m gunicorn",
    "granian": "python3 -m granian",
    "uvicorn": "python3 -m uvicorn",
    "hypercorn": "python3 -m hypercorn",
    "waitress-serve": "python3 -m waitress",
    "flask": "python3 -m flask",
    "python": "python3",
}
"""Programs of a Procfile, as they are started where no scripts are installed."""


class Guess(msgspec.Struct, frozen=True):
    """A value that the commit does not say itself, and the file that it was found in."""

    value: Any
    source: str
    needs: tuple[str, ...] = ()
    """What has to be installed for it, beside what the commit asks for."""
    search: str = ""
    """A folder whose modules it imports by their bare names, as a script beside them does."""


def requirements(folder: Path) -> Guess | None:
    """The file that says what is installed."""
    for name in LOCKS:
        if (folder / name).is_file():
            return Guess(name, name)
    try:
        project = tomllib.loads((folder / "pyproject.toml").read_text("utf-8")).get("project", {})
    except (OSError, ValueError):
        return None
    if project.get("dependencies"):
        return Guess("pyproject.toml", "[project] dependencies of pyproject.toml")
    return None


def test_requirements(folder: Path) -> Guess | None:
    """The file that says what the tests need on top."""
    for name in TEST_REQUIREMENTS:
        if (folder / name).is_file():
            return Guess(name, name)
    return None


def test_command(folder: Path) -> Guess | None:
    """pytest where it finds tests by itself, else with the files that look like tests."""
    base = ["python", "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    python = _files(folder, skipped=SKIPPED - {"tests", "test"})
    usual = [p for p in python if re.fullmatch(r"(test_.*|.*_test)\.py", p.rsplit("/", 1)[-1])]
    if usual:
        return Guess(base, usual[0])
    # Files that pytest does not look for by itself.
    other = [
        path
        for path in python
        if re.fullmatch(r"tests?\.py", path.rsplit("/", 1)[-1])
        or (path.startswith(("tests/", "test/")) and not path.endswith("__init__.py"))
    ]
    return Guess([*base, *other], other[0]) if other else None


def packed_paths(folder: Path) -> Guess | None:
    """Every file of the commit but tests, hidden files, and what .dockerignore leaves out."""
    ignore = folder / ".dockerignore"
    kept = {
        path
        for path in _files(folder, skipped={"tests", "test", "__pycache__"}, suffix="")
        if not path.startswith(".")
        and not re.fullmatch(r"(test_.*|.*_test|conftest)\.py", path.rsplit("/", 1)[-1])
    }
    if ignore.is_file():
        from docker.utils.build import exclude_paths

        lines = ignore.read_text("utf-8", errors="replace").splitlines()
        patterns = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        kept &= {path.replace(os.sep, "/") for path in exclude_paths(str(folder), patterns)}
    source = "all files" + (" less .dockerignore" if ignore.is_file() else "") + ", less tests"
    return Guess(sorted(kept), source) if kept else None


def command(folder: Path) -> Guess | None:
    """The `web` line of a Procfile, else a server for the Flask object that is found."""
    procfile = folder / "Procfile"
    if procfile.is_file():
        for line in procfile.read_text("utf-8", errors="replace").splitlines():
            kind, _, text = line.partition(":")
            if kind.strip() == "web" and text.strip():
                return Guess(started(text.strip()), "Procfile")
    found = flask_object(folder)
    if found is None:
        return None
    name = shlex.quote(found.value)
    python = "python3"
    if found.search:
        python = f'env PYTHONPATH={shlex.quote(found.search)}:"$PYTHONPATH" python3'
    if _mentions(folder, "gunicorn"):
        address = '"${HOST:-0.0.0.0}:${PORT:-8080}"'
        return Guess(f"{python} -m gunicorn --bind {address} {name}", found.source)
    if _mentions(folder, "tandem-release"):
        return Guess(f"{python} -m tandem.serving {name}", found.source)
    factory = "--factory " if found.value.endswith("()") else ""
    served = (
        f"{python} -m granian --interface wsgi "
        + '--host "${HOST:-0.0.0.0}" --port "${PORT:-8080}" '
        + factory
        + name.replace("()", "")
    )
    return Guess(served, found.source, needs=() if _mentions(folder, "granian") else ("granian",))


def started(line: str) -> str:
    """A line that starts a program, where no scripts of libraries are installed."""
    first, _, rest = line.partition(" ")
    return f"{START.get(first, first)} {rest}".strip()


def _mentions(folder: Path, library: str) -> bool:
    found = requirements(folder)
    if found is None:
        return False
    text = (folder / found.value).read_bytes().replace(b"\0", b"").decode("utf-8", "replace")
    return bool(re.search(rf"(?m)^\W*(name = \")?{library}\b", text))


def extension(folder: Path, paths: list[str]) -> Guess:
    """Whether what is packed imports the extension, `tandem.serving`."""
    for path in paths:
        files = [folder / path] if (folder / path).is_file() else (folder / path).rglob("*.py")
        for file in files:
            if file.suffix == ".py" and b"tandem.serving" in file.read_bytes():
                return Guess(True, file.relative_to(folder).as_posix())
    return Guess(False, "nothing that is packed imports tandem.serving")


def without_model(folder: Path, paths: list[str]) -> Guess | None:
    """False where nothing that is packed asks for a model of Tandem's, with those it carries."""
    carried = []
    asks = rb"tandem\.serving|TANDEM_MODEL"
    for path in paths:
        file = folder / path
        if file.suffix in MODEL_FILES:
            carried.append(path)
        elif file.suffix == ".py" and re.search(asks, file.read_bytes()):
            return None
    source = f"{carried[0]} is packed" if carried else "nothing that is packed reads TANDEM_MODEL"
    return Guess(False, source)


def flask_object(folder: Path) -> Guess | None:
    """`MODULE:NAME` of the Flask object that `flask run` would find, or a factory `MODULE:NAME()`.

    Found by reading the source, which is somebody's: nothing of it is run.
    """
    for path in _candidates(folder):
        try:
            tree = ast.parse((folder / path).read_bytes())
        except (SyntaxError, ValueError, RecursionError):
            continue
        name = _object_in(tree)
        if name:
            search = _script_folder(folder, path, tree)
            inside = path.removeprefix(f"{search}/") if search else path
            module = inside.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            return Guess(f"{module}:{name}", path, search=search)
    return None


def _script_folder(folder: Path, path: str, tree: ast.Module) -> str:
    """The folder of a file that imports its neighbours as a script does; empty for a module."""
    parent = Path(path).parent
    if parent == Path() or (folder / parent / "__init__.py").exists():
        return ""
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            imported.add(node.module.partition(".")[0])

    def is_in(place: Path, name: str) -> bool:
        return (place / f"{name}.py").is_file() or (place / name).is_dir()

    beside = any(is_in(folder / parent, name) and not is_in(folder, name) for name in imported)
    return parent.as_posix() if beside else ""


def _candidates(folder: Path) -> Iterator[str]:
    """Python files, the likeliest first."""
    files = _files(folder, skipped=SKIPPED)
    named = _flask_app(folder)

    def rank(path: str) -> tuple[bool, int, int, str]:
        parts = path.removesuffix(".py").removesuffix("/__init__").split("/")
        module = ".".join(parts)
        likely = MODULES.index(parts[-1]) if parts[-1] in MODULES else len(MODULES)
        return module != named, likely, len(parts), path

    yield from sorted(files, key=rank)


def _flask_app(folder: Path) -> str:
    """The module that .flaskenv names."""
    try:
        text = (folder / ".flaskenv").read_text("utf-8")
    except (OSError, ValueError):
        return ""
    found = re.search(r"^\s*(?:export\s+)?FLASK_APP\s*=\s*['\"]?([\w./]+)", text, re.MULTILINE)
    return found[1].removesuffix(".py").replace("/", ".") if found else ""


def _object_in(tree: ast.Module) -> str:
    objects, factories = [], []
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Call):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [target.id for target in targets if isinstance(target, ast.Name)]
            function = ast.unparse(node.value.func)
            if function.rsplit(".", 1)[-1] in ("Flask", *FACTORIES):
                objects += names
        elif isinstance(node, ast.FunctionDef) and node.name in FACTORIES:
            arguments = node.args
            if len(arguments.args) == len(arguments.defaults):
                factories.append(f"{node.name}()")
    for name in OBJECTS:
        if name in objects:
            return name
    return next(iter([*objects, *factories]), "")


def _files(folder: Path, *, skipped: set[str], suffix: str = ".py") -> list[str]:
    """Files of the commit as paths with slashes, in order."""
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in skipped and name != ".git"]
        for name in names:
            if name.endswith(suffix):
                found.append((Path(parent) / name).relative_to(folder).as_posix())
    return sorted(found)
