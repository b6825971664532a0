"""What a measurement brings: rows of values, one value for each repeat, and ratios of them."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


@dataclass(frozen=True)
class Options:
    """How much is measured. ``quick``: little of it, to see that it works."""

    repeats: int
    quick: bool

    def of(self, full: int, quick: int) -> int:
        """A number that depends on it."""
        return quick if self.quick else full


class Spread(NamedTuple):
    """The values of the repeats in three numbers."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Of one value or more."""
        known = list(values)
        return cls(statistics.median(known), min(known), max(known))


@dataclass
class Row:
    """One line of a figure. ``values``: by column, one for each repeat.

    note: why there are none, or what is to be known of them.
    """

    name: str
    values: dict[str, list[float]] = field(default_factory=dict)
    note: str = ""

    def add(self, **values: float) -> None:
        """The values of one repeat."""
        for column, value in values.items():
            self.values.setdefault(column, []).append(value)

    def median(self, column: str) -> float | None:
        """None: it was not measured."""
        return statistics.median(self.values[column]) if self.values.get(column) else None


@dataclass
class Figure:
    """See the module. columns: their headings, by name. ratios: by the name of what they compare;
    those that have a goal go by its name (see `goals`)."""

    name: str
    title: str
    columns: dict[str, str]
    rows: list[Row]
    ratios: dict[str, list[float]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def compare(
        self, name: str, above: Sequence[float] | None, below: Sequence[float] | None
    ) -> None:
        """Add the ratios of two rows' values, repeat by repeat, if both were measured."""
        if above and below:
            self.ratios[name] = [one / other for one, other in zip(above, below, strict=True)]


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that so many percent of them do not exceed."""
    return sorted(values)[min(int(len(values) * percent / 100), len(values) - 1)]


def progress(text: str) -> None:
    """Say what is being measured."""
    print(text, file=sys.stderr, flush=True)
