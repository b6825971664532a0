"""The metrics of endpoints that a worker's page and an application's have in common.

It needs the extra ``prometheus``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeAlias

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from cubehook.stats import EndpointStats

Samples: TypeAlias = "Iterable[tuple[list[str], float]]"
"""The labels' values, and the number, of each."""

OUTCOMES = ("delivered", "retried", "dead")

STATES = ("closed", "open", "off")
"""Of an endpoint; see `EndpointStats`."""


class Series(NamedTuple):
    """One metric. labels: beside that of the endpoint. read: the samples of one endpoint."""

    kind: type[CounterMetricFamily] | type[GaugeMetricFamily]
    name: str
    text: str
    labels: list[str]
    read: Callable[[EndpointStats], Samples]


COMMON = (
    Series(
        *(CounterMetricFamily, "cubehook_attempts"),
        "Attempts, by what came of them.",
        ["outcome"],
        lambda one: [([outcome], getattr(one, outcome)) for outcome in OUTCOMES],
    ),
    Series(
        *(GaugeMetricFamily, "cubehook_in_flight"),
        "Attempts under way.",
        [],
        lambda one: [([], one.in_flight)],
    ),
    Series(
        *(GaugeMetricFamily, "cubehook_endpoint_state"),
        "1 for the state of the endpoint's circuit; off: it answered 410.",
        ["state"],
        lambda one: [([state], state == one.state) for state in STATES],
    ),
)
