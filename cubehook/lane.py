"""The lane of one endpoint: its backlog, its order by key, its circuit, its counts.

A plain state machine: the dispatcher holds the lock, runs the threads and keeps the time.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from types import MappingProxyType
from typing import NamedTuple

from cubehook.message import Message
from cubehook.outcome import Dead, Delivered, Failure, Outcome, Reply, RetryAt
from cubehook.pace import Effort, Pace
from cubehook.retry import WebhookRetry, backoff
from cubehook.stats import EndpointStats

OPEN_AFTER = 5
"""Failures in a row that open the circuit."""

LONGEST_PROBE_PAUSE = 60.0
"""The longest that an open circuit waits between two probes, in seconds: a delivery may wait for
hours, but an endpoint that is back should be noticed within a minute."""


class Delivery:
    """One event for one endpoint. ``retry``: the policy as it stands after the attempts so far.

    generation: which ``flush`` waits for it. floor: the moment a ``Retry-After`` forbids to be
    early for. leads: it is the one of its key that the others wait for.
    """

    __slots__ = ("floor", "generation", "leads", "message", "retry")

    def __init__(self, message: Message, retry: WebhookRetry, generation: int = 0) -> None:
        self.message = message
        self.retry = retry
        self.generation = generation
        self.floor = 0.0
        self.leads = False


class LaneSettings(NamedTuple):
    """What a lane is told. ``capacity``: of its backlog; ``share``: the most attempts at once."""

    name: str
    send: Callable[[Message, float | None], Reply | Failure]
    policy: WebhookRetry
    capacity: int
    share: int
    ordered: bool = True


class Lane:
    """See the module. Every method is called with the dispatcher's lock held, but ``send``."""

    def __init__(self, settings: LaneSettings) -> None:
        self.name = settings.name
        self.listed = False  # whether it stands in one of the dispatcher's lines
        self.alarm = 0.0  # the moment for which the dispatcher has a probe in its heap
        self.ready: deque[Delivery] = deque()
        self.in_flight = 0
        self.waiting = 0  # in the dispatcher's heap, for the time of their retry
        # Behind one with the same key; None for the many keys that have just that one.
        self._held: dict[str, deque[Delivery] | None] = {}
        self._held_count = 0
        self._counts: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()
        self.reconfigure(settings)

    def reconfigure(self, settings: LaneSettings) -> None:
        """Take new settings; the backlog stays, the circuit closes, a 410 is forgotten."""
        self.send = settings.send
        self.policy = settings.policy
        self._capacity = settings.capacity
        self._ordered = settings.ordered
        self._window = 1
        self._pace = Pace(settings.share)
        self.failures = 0
        self.probe_at = 0.0
        self.off = False

    @property
    def pending(self) -> int:
        """Deliveries that have neither ended nor been dropped."""
        return len(self.ready) + self._held_count + self.in_flight + self.waiting

    @property
    def open(self) -> bool:
        """Whether the circuit is open: one probe at a time."""
        return self.failures >= OPEN_AFTER

    def offer(self, delivery: Delivery) -> bool:
        """Take a delivery into the backlog. False: it is dropped, and counted."""
        if self.off or self.pending >= self._capacity:
            self.drop("switched_off" if self.off else "backlog_full")
            return False
        self._counts["received"] += 1
        key = delivery.message.key
        if not self._ordered or key is None:
            self.ready.append(delivery)
        elif key not in self._held:
            self._held[key] = None
            delivery.leads = True
            self.ready.append(delivery)
        else:
            held = self._held[key] = self._held[key] or deque()
            held.append(delivery)
            self._held_count += 1
        return True

    def drop(self, reason: str) -> None:
        """Count a delivery that is not taken, or never could be made."""
        self._counts["received"] += 1
        self._dropped[reason] += 1

    def may_send(self, now: float) -> bool:
        """Whether the lane's own limits let one more attempt begin."""
        if self.off:
            return False
        if self.open:
            return self.in_flight == 0 and now >= self.probe_at
        return self.in_flight < self._window

    def take(self) -> Delivery:
        """The next delivery, now in flight."""
        self.in_flight += 1
        return self.ready.popleft()

    def due(self, delivery: Delivery) -> None:
        """The time of a retry has come: it was here before what is ready."""
        self.waiting -= 1
        self.ready.appendleft(delivery)

    def settle(
        self, delivery: Delivery, outcome: Outcome, now: float, effort: Effort | None = None
    ) -> bool:
        """Take the outcome of an attempt. True: the delivery has ended; False: it waits."""
        self.in_flight -= 1
        if isinstance(outcome, Delivered):
            self.failures = 0
            if effort is not None:
                self._pace.note(effort)
            # A lane earns its threads: one that hangs from the start never has more than one.
            self._window = min(self._window + 1, self._pace.useful)
            self._counts["delivered"] += 1
            self._release(delivery)
            return True
        self._failed(now, pause=isinstance(outcome, RetryAt) or outcome.exhausted)
        if isinstance(outcome, Dead) or self.off:
            self.off = self.off or (isinstance(outcome, Dead) and outcome.gone)
            self._counts["dead"] += 1
            self._release(delivery)
            return True
        delivery.retry = outcome.retry  # type: ignore[assignment]
        delivery.floor = outcome.floor
        self._counts["retried"] += 1
        self.waiting += 1
        return False

    def give_up(self, waiting: list[Delivery], reason: str | None = None) -> list[Delivery]:
        """End everything that is not in flight: dropped for ``reason``, or dead without one.

        waiting: the lane's deliveries that the dispatcher had in its heap. Returns all that ended.
        """
        ended = [*self.ready, *waiting]
        leading = {delivery.message.key for delivery in ended if delivery.leads}
        for held in self._held.values():
            ended += held or ()
        # The keys that are left are led by attempts under way: what comes next waits for them.
        self._held = dict.fromkeys(key for key in self._held if key not in leading)
        self.ready.clear()
        self._held_count = self.waiting = 0
        if reason is None:
            self._counts["dead"] += len(ended)
        else:
            self._dropped[reason] += len(ended)
        return ended

    def stats(self) -> EndpointStats:
        """The counts at this moment."""
        counts = self._counts
        return EndpointStats(
            state="off" if self.off else "open" if self.open else "closed",
            received=counts["received"],
            delivered=counts["delivered"],
            retried=counts["retried"],
            dead=counts["dead"],
            dropped=MappingProxyType(dict(self._dropped)),
            queued=len(self.ready) + self._held_count,
            in_flight=self.in_flight,
            waiting=self.waiting,
            failures_in_row=self.failures,
        )

    def _failed(self, now: float, *, pause: bool) -> None:
        self.failures += 1
        self._window = 1
        # A refusal for good (404, …) came from an endpoint that answers: no need to wait.
        probes = self.failures - OPEN_AFTER + 1 if pause else 0
        highest = min(self.policy.backoff_max, LONGEST_PROBE_PAUSE)
        self.probe_at = now + backoff(probes, self.policy.backoff_factor, highest)

    def _release(self, delivery: Delivery) -> None:
        """The delivery has ended: the next one with its key may go."""
        key = delivery.message.key
        if key is None or not delivery.leads:
            return
        held = self._held[key]
        if held:
            self._held_count -= 1
            following = held.popleft()
            following.leads = True
            self.ready.append(following)
        else:
            del self._held[key]
