"""The app's own routes, as far as Flask knows them, for the OpenAPI document."""

from __future__ import annotations

import re
from typing import Any

from flask import Flask

from tandem.serving.addresses import Addresses

_PART = re.compile(r"<(?:[^:<>]+(?:\([^<>]*\))?:)?([^<>]+)>")
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


def document(app: Flask, addresses: Addresses) -> dict[str, Any]:
    """OpenAPI paths: the first line of each view's docstring says what it does."""
    paths: dict[str, Any] = {}
    for rule in app.url_map.iter_rules():
        view = app.view_functions.get(rule.endpoint)
        if view is None or rule.endpoint == "static" or addresses.of(rule.rule).name is not None:
            continue
        summary = ((view.__doc__ or "").strip().partition("\n")[0]) or rule.endpoint
        entry = paths.setdefault(_PART.sub(r"{\1}", rule.rule), {})
        if names := sorted(rule.arguments):
            schema = {"type": "string"}
            entry["parameters"] = [
                {"name": name, "in": "path", "required": True, "schema": schema} for name in names
            ]
        for method in _METHODS:
            if method in (rule.methods or ()):
                entry[method.lower()] = {
                    "summary": summary,
                    "operationId": f"{rule.endpoint}_{method.lower()}",
                    "responses": {"default": {"description": "The app's own answer"}},
                }
    return paths
