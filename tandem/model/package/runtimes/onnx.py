"""Runtime `onnx`: onnxruntime, on a file that was walked before."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tandem.errors import PackageError, one_line
from tandem.model.package.format import MAX_MODEL, MAX_ONNX, ONNX, SKOPS, Manifest
from tandem.model.package.onnx_file import check_onnx
from tandem.model.package.runtimes.answers import flat, softmax

NAME = "onnx"
FILE = ONNX
FILES: Mapping[str, int] = {ONNX: MAX_ONNX, SKOPS: MAX_MODEL}
SAME_VERSION: tuple[str, ...] = ()
NEEDED: tuple[str, ...] = ()


def open_model(
    folder: Path, manifest: Manifest, *, trusted: Iterable[str], threads: int
) -> OnnxPredictor:
    """A session of `model.onnx`; raises `PackageError`."""
    return OnnxPredictor(manifest, folder / ONNX, threads)


class OnnxPredictor:
    """Answers with onnxruntime."""

    runtime = "onnx"

    def __init__(self, manifest: Manifest, path: Path, threads: int) -> None:
        check_onnx(path)
        self._manifest = manifest
        self._session = onnx_session(path, threads)
        inputs = self._session.get_inputs()
        self._inputs = [(item.name, onnx_dtype(item.type)) for item in inputs]
        self._name, self._dtype = self._inputs[0]
        # A matrix goes in as it is; columns one by one, each (rows, 1).
        self._columns = len(inputs) > 1 or manifest.layout != "matrix"
        if len(inputs) != (len(manifest.features) if self._columns else 1):
            raise PackageError(
                f"{ONNX}: {len(inputs)} inputs for {len(manifest.features)} features"
            )
        self._flat = manifest.layout == "series" and len(inputs[0].shape) == 1
        # Several are known by their names, in whatever order the file has them.
        names = [feature.name for feature in manifest.features]
        by_name = {name for name, _ in self._inputs} == set(names)
        self._places = [
            names.index(name) if by_name else at for at, (name, _) in enumerate(self._inputs)
        ]
        self._tensors = manifest.layout == "tensors"
        # Exported with a number of rows of its own, it takes just that many.
        batch = inputs[0].shape[0] if inputs[0].shape else None
        self._batch = batch if isinstance(batch, int) and batch > 0 else None
        output = _answer_output(self._session, manifest)
        self._outputs = [output.name]
        self._probabilities = manifest.probabilities
        self._regression = manifest.task == "regression"
        self._maps = not output.type.startswith("tensor")
        # One row of a matrix, which is what a service is asked most, has buffers of its own that
        # the session is bound to: that halves what the call costs.
        self._bound: _BoundRow | None = None
        self._bindable = (
            not self._columns
            and not self._maps
            and np.dtype(self._dtype).kind != "O"
            and self._batch in (None, 1)
        )
        self._binding = threading.Lock()

    def predict(self, rows: Any) -> NDArray[Any]:
        """Probabilities (rows x labels) or values."""
        answer = self._answer(rows)
        if self._maps:
            answer = np.array([list(row.values()) for row in answer])
        if self._probabilities == "decision_function":
            # A binary machine's graph gives one score per class, of which the second is the
            # decision function.
            return softmax(_two_to_one(answer) if len(self._manifest.labels) == 2 else answer)
        if self._probabilities == "logits":
            return softmax(np.asarray(flat(np.asarray(answer, dtype=np.float64))))
        if self._probabilities == "positive":
            chance = np.asarray(answer, dtype=np.float64).reshape(len(rows))
            return np.stack([1 - chance, chance], axis=1)
        return flat(answer) if self._regression else np.asarray(answer)

    def _answer(self, rows: Any) -> Any:
        if not self._bindable or len(rows) != 1 or rows.dtype != self._dtype:
            return self._run(rows)
        if not self._binding.acquire(blocking=False):
            return self._run(rows)  # another thread has the buffers
        try:
            if self._bound is None:
                answer = self._run(rows)
                self._bound = _BoundRow(self._session, self._name, rows, self._outputs[0], answer)
                return answer
            return self._bound.run(rows) if rows.shape == self._bound.shape else self._run(rows)
        finally:
            self._binding.release()

    def _run(self, rows: Any) -> Any:
        batch, count = self._batch, len(rows)
        if batch is None or count == batch:
            return self._run_once(rows)
        answers = []
        for start in range(0, count, batch):
            part = rows[start : start + batch]
            # The last row again, to fill it up: what is answered to that is cut off.
            filler = np.repeat(part[-1:], batch - len(part), axis=0)
            answers.append(self._run_once(np.concatenate([part, filler]))[: len(part)])
        return np.concatenate(answers)

    def _run_once(self, rows: Any) -> Any:
        if self._tensors:
            feed = {
                name: np.stack(list(rows[:, at])).astype(dtype)
                for at, (name, dtype) in zip(self._places, self._inputs, strict=True)
            }
        elif self._columns:
            feed = {
                name: np.ascontiguousarray(rows[:, at : at + 1], dtype=dtype)
                for at, (name, dtype) in zip(self._places, self._inputs, strict=True)
            }
            if self._flat:
                feed = {name: column[:, 0] for name, column in feed.items()}
        else:
            feed = {self._name: np.ascontiguousarray(rows, dtype=self._dtype)}
        return self._session.run(self._outputs, feed)[0]


class _BoundRow:
    """A session with its input and output in place; for one thread at a time."""

    def __init__(
        self, session: Any, name: str, row: NDArray[Any], output: str, answer: NDArray[Any]
    ) -> None:
        from onnxruntime import OrtValue

        self._session = session
        self._row = np.array(row)
        self.shape = row.shape
        self._answer = np.array(answer)
        self._binding = session.io_binding()
        self._binding.bind_ortvalue_input(name, OrtValue.ortvalue_from_numpy(self._row))
        self._binding.bind_ortvalue_output(output, OrtValue.ortvalue_from_numpy(self._answer))

    def run(self, row: NDArray[Any]) -> NDArray[Any]:
        """The answer to one row of the bound shape."""
        self._row[:] = row
        self._session.run_with_iobinding(self._binding)
        return self._answer.copy()


def _two_to_one(scores: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(scores[:, -1] if scores.ndim == 2 else scores)


def onnx_session(path: Path, threads: int) -> Any:
    """An inference session on the CPU; raises `PackageError`."""
    # Since 1.31 it would keep a database in the home folder and send events to its maker.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as problem:  # noqa: BLE001 - onnxruntime has no common error class
        said = one_line(problem).replace(str(path), ONNX)
        raise PackageError(f"{ONNX}: onnxruntime refuses it: {said}") from None


def _answer_output(session: Any, manifest: Manifest) -> Any:
    outputs = session.get_outputs()
    if manifest.output is not msgspec.UNSET:
        chosen = [output for output in outputs if output.name == manifest.output]
        if not chosen:
            there = ", ".join(output.name for output in outputs)
            raise PackageError(
                f"{ONNX}: no output {manifest.output[:80]!r}, expected one of {there}"
            )
        return chosen[0]
    if manifest.task == "classification":
        named = [o for o in outputs if o.name in ("probabilities", "output_probability", "scores")]
        numeric = [o for o in outputs if "float" in o.type or "double" in o.type]
        outputs = named or numeric or outputs
    return outputs[0] if manifest.task == "regression" else outputs[-1]


def onnx_dtype(name: str) -> Any:
    """The numpy type of an ONNX input's; raises `PackageError`."""
    kinds = {
        "tensor(float)": np.float32,
        "tensor(double)": np.float64,
        "tensor(int64)": np.int64,
        "tensor(int32)": np.int32,
        "tensor(uint8)": np.uint8,
        "tensor(bool)": np.bool_,
        "tensor(string)": np.object_,
    }
    if name not in kinds:
        raise PackageError(f"{ONNX}: an input is {name}, expected one of {', '.join(kinds)}")
    return kinds[name]
