"""A handler's counts for Prometheus, beside an application's own; needs the extra ``prometheus``.

The metrics that a worker's ``/metrics`` has, too, have the same names, and one label more.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cubehook.errors import ConfigError
from cubehook.handler import WebhookHandler
from cubehook.series import COMMON, Samples
from cubehook.stats import EndpointStats, Stats

__all__ = ["WebhookCollector"]

HANDLER, ENDPOINT = ["handler"], ["handler", "endpoint"]


class WebhookCollector(Collector):
    """Shows the counts of these handlers: ``REGISTRY.register(WebhookCollector(handler))``.

    The label ``handler`` is the handler's name, as the configuration of logging gives it, or
    ``handler-<index>``. A handler that the application has dropped is left out: it is not kept
    alive. One that is closed still shows what it counted.

    Raises `ConfigError` for what is no `WebhookHandler`, and for two of one name.
    """

    def __init__(self, *handlers: WebhookHandler) -> None:
        if not all(isinstance(handler, WebhookHandler) for handler in handlers):
            raise ConfigError("handlers: each must be a cubehook.WebhookHandler")
        names = [handler.name or f"handler-{index}" for index, handler in enumerate(handlers)]
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise ConfigError(f"handlers: there are two of the name {name!r}" for name in twice)
        self._handlers = {
            name: weakref.ref(handler) for name, handler in zip(names, handlers, strict=True)
        }

    def describe(self) -> Iterator[Metric]:
        """The names, so that no second collector is registered beside this one; no handler is
        asked for its counts."""
        for family in FAMILIES:
            yield family.of({})

    def collect(self) -> Iterator[Metric]:
        """Called for each page."""
        found = {name: weak() for name, weak in self._handlers.items()}
        seen = {
            name: Seen(handler.stats(), handler.queue_capacity)
            for name, handler in found.items()
            if handler is not None
        }
        for family in FAMILIES:
            yield family.of(seen)


class Seen(NamedTuple):
    """What one handler shows."""

    stats: Stats
    capacity: int

    @property
    def queued(self) -> int:
        """Events that have not reached their endpoints."""
        return self.stats.queued - sum(one.queued for one in self.stats.endpoints.values())


class Family(NamedTuple):
    """One metric. read: the labels' values after the handler's, and the number, of each sample."""

    kind: type[CounterMetricFamily] | type[GaugeMetricFamily]
    name: str
    text: str
    labels: list[str]
    read: Callable[[Seen], Samples]

    def of(self, seen: dict[str, Seen]) -> Metric:
        """The metric, of all handlers."""
        metric = self.kind(self.name, self.text, labels=self.labels)
        for handler, one in seen.items():
            for labels, value in self.read(one):
                metric.add_metric([handler, *labels], value)
        return metric


def _each(read: Callable[[EndpointStats], Samples]) -> Callable[[Seen], Samples]:
    """For each endpoint."""

    def samples(seen: Seen) -> Samples:
        for name, one in seen.stats.endpoints.items():
            for labels, value in read(one):
                yield [name, *labels], value

    return samples


def _count(field: str) -> Callable[[Seen], Samples]:
    return _each(lambda one: [([], getattr(one, field))])


def _drops(one: EndpointStats | Stats) -> Samples:
    return [([reason], count) for reason, count in sorted(one.dropped.items())]


FAMILIES = (
    Family(
        *(CounterMetricFamily, "cubehook_handler_received"),
        "Deliveries, and events that had not reached an endpoint; over all endpoints there were.",
        HANDLER,
        lambda seen: [([], seen.stats.received)],
    ),
    Family(
        *(CounterMetricFamily, "cubehook_handler_dropped"),
        "What was dropped, before it reached an endpoint and after; over all endpoints there were.",
        [*HANDLER, "reason"],
        lambda seen: _drops(seen.stats),
    ),
    Family(
        *(CounterMetricFamily, "cubehook_handler_stored"),
        "Given to the outbox, or back to it; over all endpoints there were.",
        HANDLER,
        lambda seen: [([], seen.stats.stored)],
    ),
    Family(
        *(GaugeMetricFamily, "cubehook_handler_queued"),
        "Events in the queue of the handler, on their way to the endpoints.",
        HANDLER,
        lambda seen: [([], seen.queued)],
    ),
    Family(
        *(GaugeMetricFamily, "cubehook_handler_queue_capacity"),
        "How many events there is room for in that queue.",
        HANDLER,
        lambda seen: [([], seen.capacity)],
    ),
    Family(
        *(CounterMetricFamily, "cubehook_received"),
        "Deliveries that the endpoint was given.",
        ENDPOINT,
        _count("received"),
    ),
    Family(
        *(CounterMetricFamily, "cubehook_dropped"),
        "Deliveries that were dropped, by the reason.",
        [*ENDPOINT, "reason"],
        _each(_drops),
    ),
    Family(
        *(CounterMetricFamily, "cubehook_stored"),
        "Deliveries given back to the outbox.",
        ENDPOINT,
        _count("stored"),
    ),
    Family(
        *(GaugeMetricFamily, "cubehook_queued"),
        "Deliveries that wait for their turn.",
        ENDPOINT,
        _count("queued"),
    ),
    Family(
        *(GaugeMetricFamily, "cubehook_waiting"),
        "Deliveries that wait for the time of their retry.",
        ENDPOINT,
        _count("waiting"),
    ),
    Family(
        *(GaugeMetricFamily, "cubehook_failures_in_row"),
        "Attempts that failed since the last success.",
        ENDPOINT,
        _count("failures_in_row"),
    ),
    *(
        Family(one.kind, one.name, one.text, [*ENDPOINT, *one.labels], _each(one.read))
        for one in COMMON
    ),
)
