"""What runs inside the image: a Flask extension for an app and its released model.

from tandem.serving import Tandem

app = Flask(__name__)
tandem = Tandem(app)
tandem.model.predict(rows).labels
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tandem.serving.adapters import InputAdapter as InputAdapter
    from tandem.serving.extension import Tandem as Tandem
    from tandem.serving.predictions import Predictions as Predictions
    from tandem.serving.problems import Problem as Problem

__all__ = ["InputAdapter", "Predictions", "Problem", "Tandem"]
_HOMES = {
    "InputAdapter": "adapters",
    "Predictions": "predictions",
    "Problem": "problems",
    "Tandem": "extension",
}


def __getattr__(name: str) -> Any:
    # Imported when asked for: `python3 -m tandem.serving` refuses wrong settings before Flask is.
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
