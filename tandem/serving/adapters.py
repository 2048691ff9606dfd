"""A field of an app's own for POST /score, and how it becomes rows of the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from tandem.serving.model import Model


class InputAdapter(Protocol):
    """Turns another kind of question (pictures, texts, ids) into rows, for an app.

    A body of POST /score then has either "rows" or this field, a list with one item for each row.
    """

    field: str
    """The member of the body, such as "images"."""

    item: Any
    """The type of one item, as msgspec decodes it."""

    problems: Mapping[int, str]
    """What `rows` refuses with a status other than 422, for the API's description."""

    def fits(self, model: Model) -> bool:
        """Whether this model can be asked so."""

    def schema(self, model: Model) -> dict[str, Any]:
        """The JSON schema of the field's value."""

    def rows(self, items: Sequence[Any], model: Model) -> np.ndarray:
        """One row an item, as `Model.rows` makes them. Raises Problem naming the item."""

    def warm_up(self, model: Model) -> None:
        """Do once what the first caller should not wait for."""
