"""Whose turn it is: the lanes in line, the retries and probes in a heap, what is not yet finished.

A plain state machine like the lane: it has no thread, no lock and no clock; the dispatcher has.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from typing import NamedTuple

from cubehook.lane import Delivery, Lane, LaneSettings
from cubehook.message import Message
from cubehook.outcome import Outcome, RetryAt, Split
from cubehook.pace import Effort
from cubehook.stats import NOTHING, EndpointStats


class Job(NamedTuple):
    """An attempt to be made. ``suspect``: the lane was failing when the job was handed out."""

    lane: Lane
    delivery: Delivery
    suspect: bool


class Formatted(NamedTuple):
    """An event, ready to be fanned out.

    messages: for the endpoints of these names; in place of a message stands the reason why it could
    not be made, for the lane to count. reason: why the event is for no lane at all, or None.
    stored: how many deliveries of it went into the outbox instead.
    """

    messages: Sequence[tuple[str, Message | str]]
    reason: str | None = None
    stored: int = 0


class Census(NamedTuple):
    """The counts of all lanes at one moment.

    fanned_out: events that reached the schedule. stored: deliveries of them that are in the outbox.
    dropped: events that are for no lane, by reason. removed: the sum over endpoints that are gone.
    """

    fanned_out: int
    stored: int
    dropped: Mapping[str, int]
    endpoints: Mapping[str, EndpointStats]
    removed: EndpointStats


class _Due(NamedTuple):
    """What becomes due at ``when``: a retry; without a delivery, a lane's next probe or batch."""

    when: float
    order: int  # keeps equal moments in order, and from comparing what follows
    lane: Lane
    delivery: Delivery | None


class Schedule:
    """See the module. ``most``: attempts at once, over all lanes; moments are of one clock."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._fanned_out = self._stored = 0
        self._dropped: Counter[str] = Counter()
        self._lanes: dict[str, Lane] = {}
        self._retired: dict[str, Lane] = {}  # removed, with attempts still under way
        self._former = NOTHING  # the sum over those that have none
        self._line: deque[Lane] = deque()  # lanes that can send, in turn
        self._suspects: deque[Lane] = deque()  # the same for lanes that are failing
        self._heap: list[_Due] = []
        self._order = itertools.count()
        self._generation = 0
        self._unfinished: Counter[int] = Counter()  # deliveries, by generation
        self._returned: list[tuple[object, Outcome | None]] = []
        self._busy = self._suspects_busy = 0
        self._unserved = 0  # lanes with nothing in flight

    # What goes in.

    def set_lanes(self, settings: Iterable[LaneSettings], now: float) -> None:
        """The lanes from now on. Those that stay keep their backlog; what one that is no longer
        there had waiting is dropped."""
        wanted = {each.name: each for each in settings}
        for name in [name for name in self._lanes if name not in wanted]:
            lane = self._retired[name] = self._lanes.pop(name)
            lane.off = True
            self._abandon(lane, "endpoint_removed")
        for name, each in wanted.items():
            known = self._lanes.get(name) or self._retired.pop(name, None)
            if known is None:
                self._lanes[name] = Lane(each)
            else:
                known.reconfigure(each)
                self._lanes[name] = known
        for name in [name for name, lane in self._retired.items() if not lane.in_flight]:
            self._former = self._former.plus(self._retired.pop(name).stats())
        self._unserved = sum(lane.in_flight == 0 for lane in self._lanes.values())
        for lane in self._lanes.values():
            self._enlist(lane, now)

    def fan_out(self, event: Formatted, now: float) -> bool:
        """Offer the messages of one event to the lanes. Returns whether anything was dropped."""
        self._fanned_out += 1
        self._stored += event.stored
        dropped = event.reason is not None
        if event.reason is not None:
            self._dropped[event.reason] += 1
        for name, message in event.messages:
            lane = self._lanes.get(name)
            if lane is not None:  # else the endpoint was removed this very moment
                dropped |= not self._offer(lane, message, now)
        return dropped

    def lend(self, name: str, delivery: Delivery, now: float) -> bool:
        """Take a delivery that is leased from the outbox; False where no lane can have it."""
        lane = self._lanes.get(name)
        delivery.generation, delivery.since = self._generation, now
        if lane is None or not lane.lend(delivery):
            return False
        self._unfinished[self._generation] += 1
        self._enlist(lane, now)
        return True

    def refuse(self, delivery: Delivery) -> None:
        """Give back what no lane can have."""
        self._returned.append((delivery.lease, None))

    def appetites(self, now: float) -> dict[str, int]:
        """How many more deliveries from the outbox each lane would have something to do for."""
        return {name: lane.appetite(now) for name, lane in self._lanes.items()}

    def returned(self) -> list[tuple[object, Outcome | None]]:
        """The leases that have ended since the last call; without an outcome: not attempted."""
        returned, self._returned = self._returned, []
        return returned

    def give_back(self) -> None:
        """End what is leased and not in flight."""
        for lane in self._lanes.values():
            self._finish(lane.unlend())

    def settle(
        self, job: Job, outcome: Outcome | Split, now: float, effort: Effort | None = None
    ) -> None:
        """Take the outcome of an attempt, and what it took."""
        lane = job.lane
        self._busy -= 1
        self._suspects_busy -= job.suspect
        if lane.settle(job.delivery, outcome, now, effort):
            if job.delivery.lease is not None and not isinstance(outcome, Split):
                self._returned.append((job.delivery.lease, outcome))
                job.delivery.lease = None
            self._finish([job.delivery])
        elif isinstance(outcome, RetryAt):
            self._push(outcome.when, lane, job.delivery)
        self._unserved += lane.in_flight == 0 and self._lanes.get(lane.name) is lane
        if lane.off:
            self._abandon(lane, None)
        elif lane.open:
            self._finish(lane.unlend())  # for others to try; what probes is leased one at a time
        self._enlist(lane, now)

    def hurry(self, now: float) -> None:
        """Make every waiting retry due, unless a ``Retry-After`` forbids: the last chance."""
        self._heap = [
            due._replace(when=max(due.delivery.floor, now)) for due in self._heap if due.delivery
        ]
        heapq.heapify(self._heap)
        for lane in self._lanes.values():
            lane.probe_at = now
            lane.alarm = 0.0
            self._enlist(lane, now)

    def new_generation(self, now: float) -> int:
        """What is offered from now on is of a new one. Returns the last one, which is in a hurry:
        it waits for nothing to join it."""
        for lane in self._lanes.values():
            lane.seal(now)
            self._enlist(lane, now)
        self._generation += 1
        return self._generation - 1

    # What comes out.

    def next(self, now: float) -> Job | None:
        """The next attempt that may begin now."""
        self._ripen(now)
        # Failing lanes get half of the threads at most, and one of them first: an endpoint that
        # hangs shall neither starve the others nor be starved by them.
        first, second = self._line, self._suspects
        if self._suspects_busy == 0:
            first, second = second, first
        return self._next_of(first, now) or self._next_of(second, now)

    @property
    def idle(self) -> bool:
        """Whether nothing is in line and nothing is being attempted."""
        return not (self._busy or self.in_line)

    @property
    def in_line(self) -> int:
        """How many lanes stand in line."""
        return len(self._line) + len(self._suspects)

    @property
    def next_due(self) -> float | None:
        """When the next retry or probe is due."""
        return self._heap[0].when if self._heap else None

    @property
    def pending(self) -> int:
        """Deliveries that have not ended."""
        return sum(self._unfinished.values())

    def pending_of(self, last: int) -> bool:
        """Whether deliveries of that generation, or of earlier ones, have not ended."""
        return any(generation <= last for generation in self._unfinished)

    def census(self) -> Census:
        """The counts at this moment."""
        return Census(
            fanned_out=self._fanned_out,
            stored=self._stored,
            dropped=dict(self._dropped),
            endpoints={name: lane.stats() for name, lane in self._lanes.items()},
            removed=reduce(
                EndpointStats.plus, (lane.stats() for lane in self._retired.values()), self._former
            ),
        )

    def _offer(self, lane: Lane, message: Message | str, now: float) -> bool:
        if isinstance(message, str):
            lane.drop(message)
            return False
        delivery = Delivery(message, lane.policy, self._generation, now)
        if not lane.offer(delivery):
            return False
        self._unfinished[self._generation] += 1
        self._enlist(lane, now)
        return True

    def _next_of(self, line: deque[Lane], now: float) -> Job | None:
        suspects = line is self._suspects
        if suspects and self._suspects_busy >= max(self._most // 2, 1):
            return None
        for _ in range(len(line)):
            lane = line.popleft()
            lane.listed = False
            if lane.ready and lane.ready[0].lease is not None and lane.ready[0].until <= now:
                self._finish(lane.unlend(now))
            may_start = bool(lane.failures) is suspects and (not lane.in_flight or self._spare())
            if may_start and lane.ready and lane.may_send(now):
                return self._start(lane, suspects, now)
            # It is listed again now, when an attempt of its own has ended, or a time has come.
            self._enlist(lane, now)
        return None

    def _start(self, lane: Lane, suspect: bool, now: float) -> Job:
        self._unserved -= lane.in_flight == 0
        self._busy += 1
        self._suspects_busy += suspect
        job = Job(lane, lane.take(now), suspect)
        self._enlist(lane, now)
        return job

    def _spare(self) -> bool:
        """Whether a thread is free beyond one for each lane that has none yet."""
        reserved = min(self._unserved, self._most // 2)
        return self._busy + reserved < self._most

    def _enlist(self, lane: Lane, now: float) -> None:
        """Put a lane that can send at the end of its line, or set the alarm for when it can."""
        if lane.listed or not lane.ready:
            return
        if lane.may_send(now):
            lane.listed = True
            (self._suspects if lane.failures else self._line).append(lane)
        elif (moment := lane.wakes_at(now)) is not None and not 0.0 < lane.alarm <= moment:
            # An alarm that comes too early sets the next one: a lane has one at a time, mostly.
            lane.alarm = moment
            self._push(moment, lane, None)

    def _push(self, when: float, lane: Lane, delivery: Delivery | None) -> None:
        heapq.heappush(self._heap, _Due(when, next(self._order), lane, delivery))

    def _ripen(self, now: float) -> None:
        """Move what is due from the heap to its lane."""
        while self._heap and self._heap[0].when <= now:
            due = heapq.heappop(self._heap)
            if due.delivery is not None:
                due.lane.due(due.delivery)
            elif due.lane.alarm == due.when:
                due.lane.alarm = 0.0
            self._enlist(due.lane, now)

    def _abandon(self, lane: Lane, reason: str | None) -> None:
        mine = [due for due in self._heap if due.lane is lane]
        if mine:
            self._heap = [due for due in self._heap if due.lane is not lane]
            heapq.heapify(self._heap)
            lane.alarm = 0.0
        waiting = [due.delivery for due in mine if due.delivery is not None]
        self._finish(lane.give_up(waiting, reason))

    def _finish(self, deliveries: list[Delivery]) -> None:
        for delivery in itertools.chain.from_iterable(one.parts or (one,) for one in deliveries):
            if delivery.lease is not None:
                self._returned.append((delivery.lease, None))
            self._unfinished[delivery.generation] -= 1
            if not self._unfinished[delivery.generation]:
                del self._unfinished[delivery.generation]
