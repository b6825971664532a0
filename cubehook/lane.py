"""The lane of one endpoint: its backlog, its order by key, its circuit, its counts.

A plain state machine: the dispatcher holds the lock, runs the threads and keeps the time.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import NamedTuple

from cubehook.message import Message
from cubehook.outcome import Dead, Delivered, Failure, Outcome, Reply, RetryAt, Split
from cubehook.pace import Effort, Pace
from cubehook.rate import Rate, Window
from cubehook.retry import WebhookRetry, backoff
from cubehook.stats import EndpointStats

OPEN_AFTER = 5
"""Failures in a row that open the circuit."""

LONGEST_PROBE_PAUSE = 60.0
"""The longest that an open circuit waits between two probes, in seconds: a delivery may wait for
hours, but an endpoint that is back should be noticed within a minute."""


AHEAD, MOST_AHEAD = 128, 512
"""How many deliveries are leased ahead: for each attempt that a lane may make at once; at most."""

_UNMADE = Message("", "", None, "", b"")


class Delivery:
    """One event for one endpoint, or a batch. ``retry``: the policy as the attempts have left it.

    generation: which ``flush`` waits for it. since: when it was offered. floor: the moment a
    ``Retry-After`` forbids to be early for. leads: it is the one of its key that the others wait
    for. tried: an attempt was made. alone: no batch may take it in. apart: it went alone where
    others go in batches. parts: what a batch is made of; empty for a single event. lease: what the
    outbox knows it by; None for one that is in memory alone. until: when the lease ends; no attempt
    begins after that, since others may have it.
    """

    __slots__ = (
        *("alone", "apart", "floor", "generation", "join", "leads", "lease"),
        *("message", "parts", "retry", "since", "tried", "until"),
    )

    def __init__(
        self, message: Message, retry: WebhookRetry, generation: int = 0, since: float = 0.0
    ) -> None:
        self.message = message
        self.retry = retry
        self.generation = generation
        self.since = since
        self.floor = 0.0
        self.leads = self.tried = self.alone = self.apart = False
        self.parts: tuple[Delivery, ...] = ()
        self.lease: object = None
        self.until = 0.0
        self.join: Callable[[Sequence[Message]], Message] | None = None

    @classmethod
    def batch(
        cls,
        parts: Sequence[Delivery],
        policy: WebhookRetry,
        join: Callable[[Sequence[Message]], Message],
    ) -> Delivery:
        """Several in one. Its message is still to be made: see `prepare`."""
        made = cls(_UNMADE, policy, since=parts[0].since)
        made.parts = tuple(parts)
        made.join = join
        return made

    def prepare(self) -> None:
        """Make the message of a batch, once. A format of the application's may do so: it may raise,
        and take locks, so none should be held."""
        if self.join is not None:
            self.message = self.join([part.message for part in self.parts])
            self.join = None

    @property
    def size(self) -> int:
        """How many events it is."""
        return len(self.parts) or 1


class Places:
    """How many events are in each place of a lane."""

    __slots__ = ("in_flight", "queued", "waiting")

    def __init__(self) -> None:
        self.queued = self.in_flight = self.waiting = 0


class Batching(NamedTuple):
    """How a lane puts events together. ``linger``: seconds to wait for more, from the first.

    max_bytes: of the bodies and the commas between them. join: makes one message of several.
    """

    max_events: int
    linger: float
    max_bytes: int
    join: Callable[[Sequence[Message]], Message]


class LaneSettings(NamedTuple):
    """What a lane is told. ``capacity``: of its backlog; ``share``: the most attempts at once;
    ``rate``: how often one may begin."""

    name: str
    send: Callable[[Message, float | None], Reply | Failure]
    policy: WebhookRetry
    capacity: int
    share: int
    ordered: bool = True
    batching: Batching | None = None
    rate: Rate | None = None


class Lane:
    """See the module. Every method is called with the dispatcher's lock held, but ``send``."""

    def __init__(self, settings: LaneSettings) -> None:
        self.name = settings.name
        self.listed = False  # whether it stands in one of the dispatcher's lines
        self.alarm = 0.0  # the moment that stands for it in the heap of the schedule; 0: none
        self.ready: deque[Delivery] = deque()
        self.in_flight = 0  # attempts
        self.waiting = 0  # deliveries in the dispatcher's heap, for the time of their retry
        # Behind one with the same key; None for the many keys that have just that one.
        self._held: dict[str, deque[Delivery] | None] = {}
        self._recent: Window | None = None
        self._batching: Batching | None = None
        self._batches = 0  # that have not ended, and what went apart from them: without keys
        self._sealed_at = -math.inf
        self._events = Places()
        self._counts: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()
        self.reconfigure(settings)

    def reconfigure(self, settings: LaneSettings) -> None:
        """Take new settings; the backlog stays, the circuit closes, a 410 is forgotten."""
        self.send = settings.send
        self.policy = settings.policy
        self._capacity = settings.capacity
        self._ordered = settings.ordered
        former, self._batching = self._batching, settings.batching
        if (former is None) is not (settings.batching is None):
            self._rearrange()
        if settings.rate != (self._recent and self._recent.rate):
            self._recent = Window(settings.rate) if settings.rate else None
        self._window = 1
        self._pace = Pace(settings.share)
        self.failures = 0
        self.probe_at = 0.0
        self.off = False

    @property
    def pending(self) -> int:
        """Deliveries that have neither ended nor been dropped."""
        return self._events.queued + self._events.in_flight + self._events.waiting

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
        self._events.queued += 1
        self._line_up(delivery)
        return True

    def drop(self, reason: str) -> None:
        """Count a delivery that is not taken, or never could be made."""
        self._counts["received"] += 1
        self._dropped[reason] += 1

    def may_send(self, now: float) -> bool:
        """Whether the lane's own limits let one more attempt begin."""
        if self.off or self._gathers(now) or now < self._free_at:
            return False
        if self.open:
            return self.in_flight == 0 and now >= self.probe_at
        return self.in_flight < self._window

    def wakes_at(self, now: float) -> float | None:
        """When time alone will let an attempt begin; None if something else has to happen."""
        if self.off or not self.ready or (self.open and self.in_flight):
            return None
        moment = max(self.probe_at if self.open else now, self._free_at)
        if self._gathers(now):
            if self._batching is None or self._blocked:
                return None
            moment = max(moment, self.ready[0].since + self._batching.linger)
        return moment if moment > now else None

    def seal(self, now: float) -> None:
        """Wait for no more events to join those that are here."""
        self._sealed_at = now

    def take(self, now: float) -> Delivery:
        """The next delivery, now in flight."""
        self.in_flight += 1
        if self._recent is not None:
            self._recent.note(now)
        delivery = self.ready.popleft()
        if self._batching is not None and not delivery.alone:
            delivery = self._batch_of(delivery, self._batching)
        elif self._batching is not None and not (delivery.parts or delivery.apart):
            delivery.apart = True
            self._batches += 1
        self._events.queued -= delivery.size
        self._events.in_flight += delivery.size
        return delivery

    def due(self, delivery: Delivery) -> None:
        """The time of a retry has come: it was here before what is ready."""
        self.waiting -= 1
        self._events.waiting -= delivery.size
        self._events.queued += delivery.size
        self.ready.appendleft(delivery)

    def settle(
        self, delivery: Delivery, outcome: Outcome | Split, now: float, effort: Effort | None = None
    ) -> bool:
        """Take the outcome of an attempt. True: the delivery has ended; False: it, or what it is
        made of, is still to be sent."""
        self.in_flight -= 1
        self._events.in_flight -= delivery.size
        if isinstance(outcome, Split):
            self._split(delivery)
            return False
        if isinstance(outcome, Delivered):
            self.failures = 0
            if effort is not None:
                self._pace.note(effort)
            # A lane earns its threads: one that hangs from the start never has more than one.
            self._window = min(self._window + 1, self._pace.useful)
            self._counts["delivered"] += delivery.size
            self._release(delivery)
            return True
        self._failed(now, pause=isinstance(outcome, RetryAt) or outcome.exhausted)
        if isinstance(outcome, RetryAt) and delivery.lease is not None:
            self._counts["retried"] += 1
            self._counts["stored"] += 1  # the outbox keeps the time, and the order
            return True
        if isinstance(outcome, Dead) or self.off:
            self.off = self.off or (isinstance(outcome, Dead) and outcome.gone)
            self._counts["dead"] += delivery.size
            self._release(delivery)
            return True
        delivery.retry = outcome.retry  # type: ignore[assignment]
        delivery.floor = outcome.floor
        delivery.tried = delivery.alone = True  # the same bytes and the same id from now on
        self._counts["retried"] += 1
        self.waiting += 1
        self._events.waiting += delivery.size
        return False

    def give_up(self, waiting: list[Delivery], reason: str | None = None) -> list[Delivery]:
        """End everything that is not in flight: dropped for ``reason``, or dead without one.

        waiting: the lane's deliveries that the dispatcher had in its heap. Returns all that ended.
        """
        ended = self._clear(waiting)
        self.waiting = self._events.queued = self._events.waiting = 0
        self._batches -= sum(bool(delivery.parts) or delivery.apart for delivery in ended)
        events = sum(delivery.size for delivery in ended if delivery.lease is None)
        self._counts["stored"] += sum(delivery.lease is not None for delivery in ended)
        if reason is None:
            self._counts["dead"] += events
        elif events:
            self._dropped[reason] += events
        return ended

    def lend(self, delivery: Delivery) -> bool:
        """Take one that is leased from the outbox, whatever the backlog. False: the lane is off."""
        if self.off:
            return False
        self._counts["received"] += 1
        self._events.queued += 1
        delivery.alone = True  # the outbox keeps the order, by leasing one of a key at a time
        self.ready.append(delivery)
        return True

    def unlend(self, now: float = math.inf) -> list[Delivery]:
        """Take out what is leased and not in flight; ``now``: only leases that have ended."""
        ended = [one for one in self.ready if one.lease is not None and one.until <= now]
        if ended:
            self.ready = deque(one for one in self.ready if one.lease is None or one.until > now)
        self._events.queued -= len(ended)
        self._counts["stored"] += len(ended)
        return ended

    def appetite(self, now: float) -> int:
        """How many more deliveries from the outbox would have something to do here."""
        if self.off or (self.open and now < self.probe_at):
            return 0
        more = (1 if self.open else min(AHEAD * self._window, MOST_AHEAD)) - self.pending
        if self._recent is not None:  # the lease would end before its turn comes
            unbegun = self.pending - self._events.in_flight
            more = min(more, self._recent.room(now) - unbegun)
        return max(more, 0)

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
            queued=self._events.queued,
            in_flight=self._events.in_flight,
            waiting=self._events.waiting,
            failures_in_row=self.failures,
            stored=counts["stored"],
        )

    @property
    def _free_at(self) -> float:
        """When the ``rate_limit`` lets one more attempt begin."""
        return -math.inf if self._recent is None else self._recent.free_at()

    @property
    def _blocked(self) -> bool:
        """Whether what is new has to wait for all that is under way: events are in order, all of
        them, since a batch has no key; also when batches were turned off, and some are left."""
        unfinished = self.in_flight > 0 or self.waiting > 0
        return self._ordered and unfinished and (self._batching is not None or self._batches > 0)

    def _gathers(self, now: float) -> bool:
        """Whether what is ready still waits: for a batch before it, or for more to make one of."""
        batching = self._batching
        if (batching is None and not self._batches) or not self.ready or self.ready[0].tried:
            return False
        if self._blocked:
            return True
        first = self.ready[0]
        if batching is None or first.alone or first.since <= self._sealed_at:
            return False
        room = len(self.ready) < batching.max_events and self.pending < self._capacity
        return room and now < first.since + batching.linger

    def _line_up(self, delivery: Delivery) -> None:
        key = delivery.message.key
        if not self._ordered or key is None or self._batching is not None:
            self.ready.append(delivery)
        elif key not in self._held:
            self._held[key] = None
            delivery.leads = True
            self.ready.append(delivery)
        else:
            held = self._held[key] = self._held[key] or deque()
            held.append(delivery)

    def _rearrange(self) -> None:
        """Line up all anew: batches have no keys, and what is in none has a place by its key."""
        for delivery in sorted(self._clear(()), key=lambda one: one.since):
            self._line_up(delivery)

    def _clear(self, waiting: Sequence[Delivery]) -> list[Delivery]:
        """Take out what is ready and what is held back. Returns it, with what is ``waiting``."""
        taken = [*self.ready, *waiting]
        leading = {delivery.message.key for delivery in taken if delivery.leads}
        for held in self._held.values():
            taken += held or ()
        # The keys that are left are led by attempts under way: what comes next waits for them.
        self._held = dict.fromkeys(key for key in self._held if key not in leading)
        self.ready.clear()
        for delivery in taken:
            delivery.leads = False
        return taken

    def _batch_of(self, first: Delivery, batching: Batching) -> Delivery:
        parts, left = [first], batching.max_bytes - len(first.message.body)
        while self.ready and len(parts) < batching.max_events and not self.ready[0].alone:
            left -= len(self.ready[0].message.body) + 1  # and the comma
            if left < 0:
                break
            parts.append(self.ready.popleft())
        self._batches += 1
        return Delivery.batch(parts, self.policy, batching.join)

    def _split(self, delivery: Delivery) -> None:
        self._batches -= 1
        self._events.queued += delivery.size
        for part in delivery.parts:
            part.alone = True
        self.ready.extendleft(reversed(delivery.parts))
        if self._batching is None:  # turned off meanwhile
            self._rearrange()

    def _failed(self, now: float, *, pause: bool) -> None:
        self.failures += 1
        self._window = 1
        # A refusal for good (404, …) came from an endpoint that answers: no need to wait.
        probes = self.failures - OPEN_AFTER + 1 if pause else 0
        highest = min(self.policy.backoff_max, LONGEST_PROBE_PAUSE)
        self.probe_at = now + backoff(probes, self.policy.backoff_factor, highest)

    def _release(self, delivery: Delivery) -> None:
        """The delivery has ended: the next one with its key may go."""
        self._batches -= bool(delivery.parts) or delivery.apart
        key = delivery.message.key
        if key is None or not delivery.leads:
            return
        held = self._held[key]
        if held:
            following = held.popleft()
            following.leads = True
            self.ready.append(following)
        else:
            del self._held[key]
