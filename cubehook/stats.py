"""What was counted: the frozen snapshots of ``handler.stats()``, and a lock-free counter."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class EndpointStats:
    """The counts of one endpoint, in deliveries.

    At any moment ``received == delivered + dead + sum(dropped.values()) + stored + pending``.

    state: ``closed`` (the circuit: all is well), ``open`` (failing, one probe at a time) or ``off``
    (it answered 410: switched off until the endpoints are updated).
    retried: attempts that failed and were put off. queued: waiting for their turn. waiting: for
    the time of their retry. failures_in_row: attempts that failed since the last success. stored:
    given back to the outbox, to be tried later or by others.
    """

    state: str
    received: int
    delivered: int
    retried: int
    dead: int
    dropped: Mapping[str, int]
    queued: int
    in_flight: int
    waiting: int
    failures_in_row: int
    stored: int = 0

    @property
    def pending(self) -> int:
        """Deliveries that have neither ended nor been dropped."""
        return self.queued + self.in_flight + self.waiting

    def plus(self, other: EndpointStats) -> EndpointStats:
        """The counts of both; the state and the failures in a row of this one."""
        dropped = {
            reason: self.dropped.get(reason, 0) + other.dropped.get(reason, 0)
            for reason in {**self.dropped, **other.dropped}
        }
        return EndpointStats(
            state=self.state,
            received=self.received + other.received,
            delivered=self.delivered + other.delivered,
            retried=self.retried + other.retried,
            dead=self.dead + other.dead,
            dropped=MappingProxyType(dropped),
            queued=self.queued + other.queued,
            in_flight=self.in_flight + other.in_flight,
            waiting=self.waiting + other.waiting,
            failures_in_row=self.failures_in_row,
            stored=self.stored + other.stored,
        )


NOTHING = EndpointStats("off", 0, 0, 0, 0, MappingProxyType({}), 0, 0, 0, 0)
"""Where a sum begins."""


@dataclass(frozen=True, slots=True)
class Stats:
    """The counts of a handler: the sums over its endpoints and what had not reached any yet.

    Counts are deliveries: one event for two endpoints is two. An event that is still in the queue
    of the handler, or was dropped there, counts as one. At any moment
    ``received == delivered + dead + sum(dropped.values()) + stored + pending``.

    stored: given to the outbox, or back to it. What was leased from it counts as received again.
    """

    received: int
    delivered: int
    retried: int
    dead: int
    dropped: Mapping[str, int]
    queued: int
    in_flight: int
    waiting: int
    endpoints: Mapping[str, EndpointStats]
    stored: int = 0

    @property
    def pending(self) -> int:
        """Events and deliveries that have neither ended nor been dropped."""
        return self.queued + self.in_flight + self.waiting


class Tally:
    """A counter that any thread may count up without a lock.

    ``next()`` of an ``itertools.count`` is one step for the interpreter; reading it is a step of
    its own, so the number of reads is taken off.
    """

    __slots__ = ("_lock", "_reads", "add")

    def __init__(self) -> None:
        self.add = itertools.count().__next__
        self._reads = 0
        self._lock = threading.Lock()

    def value(self) -> int:
        """How often ``add`` was called."""
        with self._lock:
            counted = self.add() - self._reads
            self._reads += 1
            return counted
