"""A worker's metrics in Prometheus' text format. It needs the extra ``prometheus``."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cubehook.outbox import Status
from cubehook.series import COMMON
from cubehook.worker import Metrics

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def exposition(read: Callable[[], Metrics]) -> Callable[[], bytes]:
    """What makes the page of what ``read`` returns at that moment."""
    # A registry of its own: the default one would add what is of this Python process.
    registry = CollectorRegistry()
    registry.register(_Families(read))
    return lambda: generate_latest(registry)


class _Families(Collector):
    def __init__(self, read: Callable[[], Metrics]) -> None:
        self._read = read

    def describe(self) -> list[Metric]:
        """Nothing, so that being registered does not count the outbox."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Called for each page."""
        metrics = self._read()
        yield GaugeMetricFamily(
            "cubehook_healthy", "1 while /healthz answers 200.", value=metrics.healthy
        )
        yield CounterMetricFamily(
            "cubehook_leases_lost",
            "Outcomes that came after their lease was lost, and were discarded.",
            value=metrics.lost_leases,
        )
        yield CounterMetricFamily(
            "cubehook_pruned", "Delivered rows that this worker has deleted.", value=metrics.pruned
        )
        yield from _of_endpoints(metrics)
        if metrics.outbox is not None:
            yield _of_outbox(metrics)


def _of_endpoints(metrics: Metrics) -> Iterator[Metric]:
    for series in COMMON:
        metric = series.kind(series.name, series.text, labels=["endpoint", *series.labels])
        for name, one in metrics.endpoints.items():
            for labels, value in series.read(one):
                metric.add_metric([name, *labels], value)
        yield metric


def _of_outbox(metrics: Metrics) -> Metric:
    stored = GaugeMetricFamily(
        "cubehook_outbox_deliveries",
        "Deliveries in the outbox, whoever stored them; the same from every worker.",
        labels=["endpoint", "status"],
    )
    counts = metrics.outbox or {}
    for name in sorted({*counts, *metrics.endpoints}):
        for status in Status:
            stored.add_metric([name, status.value], counts.get(name, {}).get(status, 0))
    return stored
