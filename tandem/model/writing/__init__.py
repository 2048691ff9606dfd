"""Writing a model package: from a fitted estimator, or from an ONNX or skops file.

ONNX is made where the conversion works and its answers are the estimator's own, the golden rows are
chosen, and the estimator is stored so that equal ones make equal bytes. Reading a package, and the
service, need none of this.
"""

from __future__ import annotations

from tandem.model.writing.folder import encode_manifest, write
from tandem.model.writing.held_out import file_of

__all__ = ["encode_manifest", "file_of", "write"]
