"""What is counted: written by each worker into memory that all share.

Counting costs a microsecond and no lock between processes, as each worker has a region of its own;
all that is slow (sums, drift, text) happens when somebody asks (exposition.py).
"""

from __future__ import annotations

import mmap
import os
import threading
from bisect import bisect_left
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from tandem.serving.memory import REGION, shared_memory

if TYPE_CHECKING:
    from tandem.serving.model import Model

BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
STATUSES = (200, 304, 400, 401, 403, 404, 405, 408, 413, 415, 422, 429, 500, 501, 503)
LABELS = 1000
"""Labels that are counted one by one; a model with more is counted as a whole."""
WINDOW = 1000
"""Recent rows that drift is computed from, for each worker."""
_status_number = {status: number for number, status in enumerate(STATUSES)}
_WIDTH = len(STATUSES) + 1
_TIMES = len(BUCKETS) + 2


class Totals(msgspec.Struct, frozen=True):
    """The sums over all workers.

    `requests` is paths by statuses (the last column: any other status), `seconds` paths by
    buckets, then those beyond the last bucket and the sum in seconds; `labels` are rows by the
    label that was best, `pids` the workers' processes.
    """

    busy: float
    rows: float
    turned_away: float
    lines_dropped: float
    requests: np.ndarray
    seconds: np.ndarray
    labels: np.ndarray
    pids: list[int]


class Metrics:
    """The counters of one worker, and the sum of all."""

    def __init__(
        self,
        model: Model | None,
        paths: Sequence[str] = (),
        memory: mmap.mmap | None = None,
        worker: int = 0,
    ) -> None:
        self.model = model
        self.paths = paths
        self.memory = memory or shared_memory(1)
        self.workers = len(self.memory) // REGION
        labels = model.manifest.labels if model else []
        self.labels = labels if len(labels) <= LABELS else []
        self.statistics = statistics = model.manifest.statistics if model else None
        self.elements = statistics.elements if statistics else []
        # Region: pid, busy, rows, turned away, lines dropped, rows seen for drift, then the tables.
        self._head = 8
        self._requests = self._head
        self._times = self._requests + len(self.paths) * _WIDTH
        self._predictions = self._times + len(self.paths) * _TIMES
        self._numbers = self._predictions + len(self.labels)
        room = (REGION - self._numbers * 8) // (4 * max(1, len(self.elements)))
        self.window = min(WINDOW, room)
        self._cells, self._ring = self._region(worker)
        self._lock = threading.Lock()
        self._cells[0] = float(os.getpid())
        self._cells[1] = 0.0

    def _region(self, worker: int) -> tuple[memoryview[float], np.ndarray]:
        start = worker * REGION
        split = start + self._numbers * 8
        view = memoryview(self.memory)
        size = self.window * len(self.elements)
        ring = np.frombuffer(self.memory, np.float32, size, split)
        return view[start:split].cast("d"), ring.reshape(self.window, len(self.elements))

    def at_work(self, requests: int) -> None:
        """So many requests are being answered."""
        self._cells[1] = requests

    def ended(self, path: int, status: int, seconds: float, at_work: int) -> None:
        """A request was answered, and so many others are still at work."""
        cells = self._cells
        code = self._requests + path * _WIDTH + _status_number.get(status, _WIDTH - 1)
        bucket = bisect_left(BUCKETS, seconds)
        times = self._times + path * _TIMES
        with self._lock:
            cells[1] = at_work
            cells[code] += 1
            cells[times + bucket] += 1
            cells[times + _TIMES - 1] += seconds

    def turned_away(self) -> None:
        """A request was refused because of overload."""
        with self._lock:
            self._cells[3] += 1

    def dropped(self, lines: int) -> None:
        """Lines of the log were dropped."""
        with self._lock:
            self._cells[4] += lines

    def scored(self, rows: np.ndarray, output: np.ndarray) -> None:
        """Rows were answered: count their labels, and keep them for drift."""
        count = len(rows)
        classifies = self.labels and output.ndim == 2
        if not classifies:
            best: Sequence[Any] = ()
        else:
            best = output.argmax(axis=1) if count > 1 else (output.argmax(),)
        with self._lock:
            self._cells[2] += count
            for at in best:
                self._cells[self._predictions + at] += 1
            if not self.elements:
                return
            start = int(self._cells[5])
            self._cells[5] += count
        if count == 1 and rows.dtype == np.float32:
            self._ring[start % self.window] = rows[0] if rows.ndim == 2 else rows.ravel()
            return
        if rows.dtype == object:
            assert self.model is not None  # noqa: S101 - it made the output
            rows = rows[:, self.model.numeric]
        flat = rows.reshape(count, -1)[-self.window :]
        place = (start + count - len(flat)) % self.window
        first = min(len(flat), self.window - place)
        with np.errstate(over="ignore"):
            self._ring[place : place + first] = flat[:first]
            self._ring[: len(flat) - first] = flat[first:]

    def totals(self) -> Totals:
        """The sums over all workers."""
        regions = [np.array(self._region(worker)[0]) for worker in range(self.workers)]
        cells = np.sum(regions, axis=0)
        return Totals(
            busy=cells[1],
            rows=cells[2],
            turned_away=cells[3],
            lines_dropped=cells[4],
            requests=cells[self._requests : self._times].reshape(-1, _WIDTH),
            seconds=cells[self._times : self._predictions].reshape(-1, _TIMES),
            labels=cells[self._predictions : self._numbers],
            pids=[int(region[0]) for region in regions],
        )

    def recent(self) -> np.ndarray:
        """The rows (as float32) that the workers saw last."""
        parts = []
        for worker in range(self.workers):
            cells, ring = self._region(worker)
            parts.append(ring[: min(int(cells[5]), self.window)])
        return np.concatenate(parts)
