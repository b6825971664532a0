"""The goals, as ratios in one run, and what is said of a measured one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from benchmarks.figure import Figure, Spread

AT_MOST, AT_LEAST = "≤", "≥"


@dataclass(frozen=True)
class Goal:
    """``ratio``: the name it goes by in a figure; ``text``: what is compared."""

    ratio: str
    text: str
    relation: str
    limit: float

    def margin(self, value: float) -> float:
        """How many times better than the limit ``value`` is; under 1 it is missed."""
        return self.limit / value if self.relation == AT_MOST else value / self.limit

    def verdict(self, value: float | None) -> str:
        """Met, or missed and by how much."""
        if value is None:
            return "not measured"
        if self.margin(value) >= 1:
            return "met"
        return f"missed by {abs(value / self.limit - 1) * 100:.0f} %"


GOALS = (
    Goal("caller tagged", "caller, tagged, p50 added ÷ bare QueueHandler's", AT_MOST, 0.25),
    Goal("caller untagged", "caller, untagged, added ÷ NullHandler's total", AT_MOST, 0.05),
    Goal(
        "caller p99 delivering",
        "caller p99 while delivering ÷ QueueHandler's with a draining thread",
        AT_MOST,
        1.0,
    ),
    Goal("delivery / urllib3", "delivered/s ÷ bare signing urllib3 loop", AT_LEAST, 1.0),
    Goal("delivery / best peer", "delivered/s ÷ best peer that POSTs per event", AT_LEAST, 1.3),
    Goal("delivery, batch / single", "delivered/s with batches of 100 ÷ single", AT_LEAST, 15),
    Goal("delivery, curl / urllib3", "delivered/s with curl ÷ bare signing loop", AT_LEAST, 3.5),
    Goal("delivery, CPU curl / default", "CPU per delivery, curl ÷ default", AT_MOST, 0.4),
    Goal("latency, idle / POST", "p50 latency, idle ÷ one bare urllib3 POST", AT_MOST, 2.0),
    Goal("growth, endpoints", "time per event at 1,000 endpoints ÷ at 1", AT_MOST, 1.3),
    Goal("growth, retries", "time per event at 10⁶ waiting retries ÷ at 10³", AT_MOST, 1.3),
    Goal("durable, SQLite / memory", "delivered/s from SQLite ÷ from memory", AT_LEAST, 0.6),
    Goal("durable, PostgreSQL / memory", "delivered/s from PostgreSQL ÷ memory", AT_LEAST, 0.6),
    Goal(
        "durable, two workers / one",
        "delivered/s of 2 workers ÷ 1, PostgreSQL, an answer takes 5 ms",
        AT_LEAST,
        1.6,
    ),
    *(
        Goal(
            f"durable, lease {kind}, {what}",
            f"a lease at 10⁶ waiting ÷ at 10³, {kind}, {what}",
            AT_MOST,
            2.0,
        )
        for kind in ("SQLite", "PostgreSQL")
        for what in ("plain", "keyed")
    ),
    Goal("bytes, queued", "bytes per queued 300-byte event", AT_MOST, 2048),
)


@dataclass(frozen=True)
class Judged:
    """What a run says of a goal. ``spread`` None: it has not been measured."""

    goal: Goal
    spread: Spread | None

    @property
    def verdict(self) -> str:
        """By the median of the repeats."""
        return self.goal.verdict(self.spread.median if self.spread else None)


def judge(figures: Iterable[Figure], chosen: Iterable[str]) -> list[Judged]:
    """All goals of the chosen figures."""
    ratios: Mapping[str, list[float]] = {
        name: values for figure in figures for name, values in figure.ratios.items()
    }
    names = tuple(chosen)
    return [
        Judged(goal, Spread.of(ratios[goal.ratio]) if goal.ratio in ratios else None)
        for goal in GOALS
        if goal.ratio.startswith(_beginnings(names))
    ]


def _beginnings(figures: tuple[str, ...]) -> tuple[str, ...]:
    # Bytes are measured with growth.
    return (*figures, "bytes") if "growth" in figures else figures


def others(figures: Iterable[Figure]) -> dict[str, Spread]:
    """The ratios that have no goal."""
    known = {goal.ratio for goal in GOALS}
    return {
        name: Spread.of(values)
        for figure in figures
        for name, values in figure.ratios.items()
        if name not in known
    }
