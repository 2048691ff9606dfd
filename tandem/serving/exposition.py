"""The text of /metrics: what the workers counted, summed, as Prometheus has it."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)

from tandem.serving.drift import drift
from tandem.serving.metrics import BUCKETS, STATUSES, Metrics

FEW = 30
"""With fewer rows than this nothing is said about drift."""
SHOWN = 100
"""Features whose drift is shown one by one: of more, those that drifted most."""


def text(metrics: Metrics, build: dict[str, str], accept: str = "") -> tuple[bytes, str]:
    """All of it in the format that a Prometheus server asks for, and its media type."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(metrics, build))
    encode, kind = choose_encoder(accept)
    return encode(registry), kind


class _Collector:
    def __init__(self, metrics: Metrics, build: dict[str, str]) -> None:
        self._metrics = metrics
        self._build = build

    def collect(self) -> Iterator[Any]:
        return families(self._metrics, self._build)


def _resident(pid: int) -> int | None:
    try:
        with open(f"/proc/{pid}/statm", "rb") as stream:  # noqa: PTH123
            return int(stream.read().split()[1]) * mmap.PAGESIZE
    except (OSError, IndexError, ValueError):
        return None


def families(metrics: Metrics, build: dict[str, str]) -> Iterator[Any]:
    """The metrics, summed over the workers."""
    totals = metrics.totals()
    yield InfoMetricFamily("tandem_build", "What is running.", value=build)

    family = CounterMetricFamily("tandem_requests", "Requests answered.", labels=["path", "status"])
    table = totals.requests
    for path, status in zip(*np.nonzero(table), strict=True):
        code = str(STATUSES[status]) if status < len(STATUSES) else "other"
        family.add_metric([metrics.paths[path], code], table[path, status])
    yield family

    spent = HistogramMetricFamily(
        "tandem_request_seconds", "Time to answer, without the network.", labels=["path"]
    )
    for path, row in enumerate(totals.seconds):
        counts = np.cumsum(row[:-1])
        if counts[-1]:
            bounds = [*map(str, BUCKETS), "+Inf"]
            spent.add_metric(
                [metrics.paths[path]], list(zip(bounds, counts, strict=True)), sum_value=row[-1]
            )
    yield spent

    yield GaugeMetricFamily("tandem_requests_busy", "Requests at work.", value=totals.busy)
    yield CounterMetricFamily("tandem_rows", "Rows scored.", value=totals.rows)
    yield CounterMetricFamily(
        "tandem_turned_away", "Requests answered 503 for overload.", value=totals.turned_away
    )
    yield CounterMetricFamily(
        "tandem_log_lines_dropped",
        "Log lines that nobody read in time.",
        value=totals.lines_dropped,
    )
    yield from _predicted(metrics, totals.labels)
    yield from _drifted(metrics)

    memory = GaugeMetricFamily(
        "tandem_worker_memory_bytes", "Resident memory of each worker.", labels=["worker"]
    )
    for number, pid in enumerate(totals.pids):
        if (size := _resident(pid)) is not None:
            memory.add_metric([str(number)], size)
    yield memory


def _predicted(metrics: Metrics, counts: np.ndarray) -> Iterator[Any]:
    if not metrics.labels:
        return
    family = CounterMetricFamily(
        "tandem_predictions", "Rows by the label that was best.", labels=["label"]
    )
    for label, count in zip(metrics.labels, counts, strict=True):
        family.add_metric([label], count)
    yield family
    statistics = metrics.statistics
    if statistics and statistics.answers and counts.sum() >= FEW:
        usual = np.array([statistics.answers.get(label, 0.0) for label in metrics.labels])
        distance = 0.5 * np.abs(counts / counts.sum() - usual).sum()
        yield GaugeMetricFamily(
            "tandem_prediction_drift",
            "Total variation distance between the labels answered and those at training.",
            value=distance,
        )


def _drifted(metrics: Metrics) -> Iterator[Any]:
    statistics = metrics.statistics
    if statistics is None or not metrics.elements:
        return
    rows = metrics.recent()
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
        family.add_metric([metrics.elements[at]], distances[at])
    yield family
