"""What is counted: written by each worker into memory that all share, read for /metrics.

Counting costs a microsecond and no lock between processes, as each worker has a region of its own;
all that is slow (sums, drift, text) happens when somebody asks.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tandem.serving.server import REGION, shared_memory

if TYPE_CHECKING:
    from tandem.serving.model import Model

BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
STATUSES = (200, 304, 400, 401, 403, 404, 405, 408, 413, 415, 422, 429, 500, 501, 503)
PATHS = (
    "/",
    "/score",
    "/healthz",
    "/readyz",
    "/version",
    "/metrics",
    "/docs",
    "/openapi.json",
    "/v2",
    "/v2/health/{}",
    "/v2/models/{}",
    "/v2/models/{}/infer",
    "other",
)
LABELS = 1000
"""Labels that are counted one by one; a model with more is counted as a whole."""
WINDOW = 1000
"""Recent rows that drift is computed from, for each worker."""
FEW = 30
"""With fewer rows than this nothing is said about drift."""
SHOWN = 100
"""Features whose drift is shown one by one: of more, those that drifted most."""

_path_number = {path: number for number, path in enumerate(PATHS)}
_status_number = {status: number for number, status in enumerate(STATUSES)}
_OTHER = _path_number["other"]
_WIDTH = len(STATUSES) + 1


def path_of(path: str) -> int:
    """The number of a path in PATHS; unknown ones are one, so that nobody can make up new ones."""
    number = _path_number.get(path)
    if number is not None:
        return number
    path = "/" + path.strip("/")  # Flask's rules take them at both ends
    if path in _path_number:
        return _path_number[path]
    if path.startswith("/v2/models/"):
        return _path_number["/v2/models/{}/infer" if path.endswith("/infer") else "/v2/models/{}"]
    if path.startswith("/v2/health/"):
        return _path_number["/v2/health/{}"]
    return _OTHER


class Metrics:
    """The counters of one worker, and the sum of all."""

    def __init__(self, model: Model, memory: mmap.mmap | None = None, worker: int = 0) -> None:
        self.model = model
        self.memory = memory or shared_memory(1)
        self.workers = len(self.memory) // REGION
        self.labels = model.manifest.labels if len(model.manifest.labels) <= LABELS else []
        statistics = model.manifest.statistics
        self.elements = statistics.elements if statistics else []
        # Region: pid, busy, rows, turned away, lines dropped, rows seen for drift, then the tables.
        self._head = 8
        self._requests = self._head
        self._times = self._requests + len(PATHS) * _WIDTH
        self._predictions = self._times + len(PATHS) * (len(BUCKETS) + 2)
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

    def began(self) -> None:
        """A request is being answered."""
        with self._lock:
            self._cells[1] += 1

    def ended(self, path: int, status: int, seconds: float) -> None:
        """A request was answered."""
        cells = self._cells
        code = self._requests + path * _WIDTH + _status_number.get(status, _WIDTH - 1)
        bucket = 0
        for bound in BUCKETS:
            if seconds <= bound:
                break
            bucket += 1
        times = self._times + path * (len(BUCKETS) + 2)
        with self._lock:
            cells[1] -= 1
            cells[code] += 1
            cells[times + bucket] += 1
            cells[times + len(BUCKETS) + 1] += seconds

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
            self._ring[start % self.window] = rows.ravel()  # as below, without its preparations
            return
        if rows.dtype == object:
            rows = rows[:, self.model.numeric]
        flat = rows.reshape(count, -1)[-self.window :]
        place = (start + count - len(flat)) % self.window
        first = min(len(flat), self.window - place)
        with np.errstate(over="ignore"):
            self._ring[place : place + first] = flat[:first]
            self._ring[: len(flat) - first] = flat[first:]

    # --- reading ---

    def recent(self) -> np.ndarray:
        """The rows (as float32) that the workers saw last."""
        parts = []
        for worker in range(self.workers):
            cells, ring = self._region(worker)
            parts.append(ring[: min(int(cells[5]), self.window)])
        return np.concatenate(parts)

    def text(self, build: dict[str, str], accept: str = "") -> tuple[bytes, str]:
        """All of it in the format that a Prometheus server asks for, and its media type."""
        from prometheus_client import CollectorRegistry
        from prometheus_client.exposition import choose_encoder

        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Collector(self, build))
        encode, kind = choose_encoder(accept)
        return encode(registry), kind

    def families(self, build: dict[str, str]) -> Iterator[Any]:
        """The metrics, summed over the workers."""
        from prometheus_client.metrics_core import (
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
            InfoMetricFamily,
        )

        regions = [self._region(worker)[0] for worker in range(self.workers)]
        cells = np.sum([np.array(region) for region in regions], axis=0)
        yield InfoMetricFamily("tandem_build", "What is running.", value=build)

        family = CounterMetricFamily(
            "tandem_requests", "Requests answered.", labels=["path", "status"]
        )
        table = cells[self._requests : self._times].reshape(len(PATHS), _WIDTH)
        for path, status in zip(*np.nonzero(table), strict=True):
            code = str(STATUSES[status]) if status < len(STATUSES) else "other"
            family.add_metric([PATHS[path], code], table[path, status])
        yield family

        spent = HistogramMetricFamily(
            "tandem_request_seconds", "Time to answer, without the network.", labels=["path"]
        )
        times = cells[self._times : self._predictions].reshape(len(PATHS), len(BUCKETS) + 2)
        for path, row in enumerate(times):
            counts = np.cumsum(row[:-1])
            if counts[-1]:
                bounds = [*map(str, BUCKETS), "+Inf"]
                spent.add_metric(
                    [PATHS[path]], list(zip(bounds, counts, strict=True)), sum_value=row[-1]
                )
        yield spent

        yield GaugeMetricFamily("tandem_requests_busy", "Requests at work.", value=cells[1])
        yield CounterMetricFamily("tandem_rows", "Rows scored.", value=cells[2])
        yield CounterMetricFamily(
            "tandem_turned_away", "Requests answered 503 for overload.", value=cells[3]
        )
        yield CounterMetricFamily(
            "tandem_log_lines_dropped", "Log lines that nobody read in time.", value=cells[4]
        )
        yield from self._predicted(cells[self._predictions : self._numbers])
        yield from self._drifted()

        memory = GaugeMetricFamily(
            "tandem_worker_memory_bytes", "Resident memory of each worker.", labels=["worker"]
        )
        for number, region in enumerate(regions):
            if (size := _resident(int(region[0]))) is not None:
                memory.add_metric([str(number)], size)
        yield memory

    def _predicted(self, counts: np.ndarray) -> Iterator[Any]:
        from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

        if not self.labels:
            return
        family = CounterMetricFamily(
            "tandem_predictions", "Rows by the label that was best.", labels=["label"]
        )
        for label, count in zip(self.labels, counts, strict=True):
            family.add_metric([label], count)
        yield family
        statistics = self.model.manifest.statistics
        if statistics and statistics.answers and counts.sum() >= FEW:
            usual = np.array([statistics.answers.get(label, 0.0) for label in self.labels])
            distance = 0.5 * np.abs(counts / counts.sum() - usual).sum()
            yield GaugeMetricFamily(
                "tandem_prediction_drift",
                "Total variation distance between the labels answered and those at training.",
                value=distance,
            )

    def _drifted(self) -> Iterator[Any]:
        from prometheus_client.metrics_core import GaugeMetricFamily

        statistics = self.model.manifest.statistics
        if statistics is None or not self.elements:
            return
        rows = self.recent()
        yield GaugeMetricFamily(
            "tandem_input_drift_rows", "Recent rows that drift is computed from.", value=len(rows)
        )
        if len(rows) < FEW:
            return
        distances = drift(rows, np.array(statistics.levels), np.array(statistics.quantiles))
        yield GaugeMetricFamily(
            "tandem_input_drift_max", "The largest of all features' drifts.", value=distances.max()
        )
        family = GaugeMetricFamily(
            "tandem_input_drift",
            "Distance (0 to 1) between recent and training values: Kolmogorov-Smirnov at the "
            "training quantiles.",
            labels=["feature"],
        )
        for at in sorted(np.argsort(-distances, kind="stable")[:SHOWN]):
            family.add_metric([self.elements[at]], distances[at])
        yield family


def drift(rows: np.ndarray, levels: np.ndarray, quantiles: np.ndarray) -> np.ndarray:
    """For each column how far its distribution is from the one with these quantiles, 0 to 1.

    The Kolmogorov-Smirnov distance, taken at the known quantiles (columns by levels). Where many
    values are equal a quantile stands for a jump of the distribution: only what is outside counts.
    """
    quantiles = quantiles.astype(np.float32)
    distances = np.zeros(rows.shape[1])
    for level, values in zip(levels, quantiles.T, strict=True):
        below = (rows < values).mean(axis=0)
        up_to = (rows <= values).mean(axis=0)
        outside = np.maximum(below - level, level - up_to)
        distances = np.maximum(distances, outside)
    return distances.clip(0, 1)


class _Collector:
    def __init__(self, metrics: Metrics, build: dict[str, str]) -> None:
        self._metrics = metrics
        self._build = build

    def collect(self) -> Iterator[Any]:
        return self._metrics.families(self._build)


def _resident(pid: int) -> int | None:
    try:
        with open(f"/proc/{pid}/statm", "rb") as stream:  # noqa: PTH123
            return int(stream.read().split()[1]) * mmap.PAGESIZE
    except (OSError, IndexError, ValueError):
        return None
