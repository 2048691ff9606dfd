"""Questions that a repository suggests: what its tests send, and what its routes take."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

METHODS = {"get": "GET", "post": "POST", "put": "PUT"}
MOST = 8


class Proposal(msgspec.Struct, frozen=True, kw_only=True):
    """One request worth asking, as a table of the recipe, and the file that suggests it."""

    table: dict[str, Any]
    source: str

    def __str__(self) -> str:
        return f"{self.table.get('method', 'GET')} {self.table['path']}"


def propose(folder: Path) -> list[Proposal]:
    """What the service could be asked, the most telling first; nothing of the code is run.

    What the tests send comes first; then routes that take nothing, and forms by their fields.
    """
    sent, routes = [], []
    for file in sorted(folder.rglob("*.py")):
        name = file.relative_to(folder).as_posix()
        if re.search(r"(^|/)(\.|venv|env|node_modules)", name):
            continue
        try:
            tree = ast.parse(file.read_bytes())
        except (SyntaxError, ValueError, RecursionError, OSError):
            continue
        if "test" in name:
            sent += [Proposal(table=table, source=name) for table in _sent(tree)]
        else:
            routes += [Proposal(table=table, source=name) for table in _routes(tree)]
    chosen: dict[str, Proposal] = {}
    for proposal in (*sent, *routes):
        chosen.setdefault(str(proposal), proposal)
    # What is computed says more than a page that is shown.
    telling = sorted(chosen.values(), key=lambda found: found.table.get("method", "GET") == "GET")
    return telling[:MOST]


def _sent(tree: ast.Module) -> Iterator[dict[str, Any]]:
    """The requests of a test client with values that are written out: `client.post("/p", …)`."""
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        method = METHODS.get(node.func.attr)
        path = _literal(node.args[0]) if node.args else None
        if method is None or not isinstance(path, str) or not path.startswith("/"):
            continue
        table: dict[str, Any] = {"path": path}
        if method != "GET":
            table["method"] = method
        readable = True
        for keyword in node.keywords:
            value = _literal(keyword.value)
            if keyword.arg == "json" and value is not None:
                table["json"] = value
            elif keyword.arg == "data" and isinstance(value, dict) and _is_form(value):
                table["form"] = value
            elif keyword.arg == "data" and isinstance(value, str):
                table["body"] = value
            elif keyword.arg in ("json", "data", "files"):
                readable = False
        if readable:
            yield table


def _routes(tree: ast.Module) -> Iterator[dict[str, Any]]:
    """Routes without parameters: those that are read, and forms by the fields they ask for."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef):
            continue
        for decorator in node.decorator_list:
            if not (isinstance(decorator, ast.Call) and isinstance(decorator.func, ast.Attribute)):
                continue
            path = _literal(decorator.args[0]) if decorator.args else None
            if decorator.func.attr not in ("route", *METHODS) or not isinstance(path, str):
                continue
            if "<" in path or not path.startswith("/"):
                continue
            methods = {decorator.func.attr.upper()} & set(METHODS.values()) or {"GET"}
            for keyword in decorator.keywords:
                if keyword.arg == "methods":
                    methods = set(_literal(keyword.value) or methods)
            if "GET" in methods:
                yield {"path": path}
            fields = sorted(_fields(node))
            if "POST" in methods and fields:
                yield {"path": path, "method": "POST", "form": dict.fromkeys(fields, "1")}


def _fields(function: ast.FunctionDef) -> set[str]:
    """The form fields that a view reads: `request.form["x"]`, `request.form.get("x")`."""
    text = ast.unparse(function)
    return set(re.findall(r"request\.form(?:\.get\(|\[)'(\w+)'", text))


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError):
        return None


def _is_form(value: dict[Any, Any]) -> bool:
    return all(
        isinstance(name, str) and isinstance(cell, str | int | float)
        for name, cell in value.items()
    )
