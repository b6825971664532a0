"""What goes into the outbox and comes out of it: values only, no behaviour.

All moments are seconds since the Unix epoch, on the outbox's clock.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import NamedTuple

from cubehook.message import Message
from cubehook.outcome import Outcome


class Status(str, enum.Enum):
    """Where a delivery stands.

    waiting: for its turn or for the time of its retry. held: behind an earlier one of its key.
    leased: a worker has it. delivered, dead: settled.
    """

    WAITING = "waiting"
    HELD = "held"
    LEASED = "leased"
    DELIVERED = "delivered"
    DEAD = "dead"


SETTLED = (Status.DELIVERED, Status.DEAD)
"""Nothing more happens to these by itself."""


class Target(NamedTuple):
    """An endpoint that a message is for; ``ordered``: events with the same key go one by one.

    The flag is stored with the delivery. Would each worker bring its own instead, two of them
    with different configurations could send two deliveries of a key at once.
    """

    endpoint: str
    ordered: bool = True


@dataclass(frozen=True, slots=True)
class Lease:
    """A delivery that one worker has until ``expires``; then any other may take it.

    id: the delivery's. attempts: made so far, since it was stored or replayed. due: when it was
    its turn. chained: it has followers to hold back (an ordered endpoint, and a key).
    token: proves the lease; another lease of the same delivery has another one.
    """

    id: int
    endpoint: str
    message: Message
    attempts: int
    due: float
    expires: float
    chained: bool
    token: bytes = field(repr=False)


class Result(NamedTuple):
    """The outcome of an attempt at a leased delivery, which ended ``at`` that moment.

    A `RetryAt`'s ``when`` has to be on the outbox's clock.
    """

    lease: Lease
    outcome: Outcome
    at: float


@dataclass(frozen=True, slots=True)
class Filter:
    """Which deliveries; what is None or empty does not matter.

    event: a name, ``prefix.*`` or ``*``, as in an endpoint's ``events``. event_id: the event's.
    since, until: when it was stored: not before, and before.
    """

    endpoint: str | None = None
    statuses: tuple[Status, ...] = ()
    event: str | None = None
    event_id: str | None = None
    since: float | None = None
    until: float | None = None


EVERYTHING = Filter()


@dataclass(frozen=True, slots=True)
class DeliveryRecord:
    """A delivery as it is stored.

    attempts: made since it was stored or replayed. due: when it is to be sent, for one that waits
    (0: at once). owner, expires: of its lease. reason: of the last attempt. settled: when.
    """

    id: int
    event_id: str
    event: str
    endpoint: str
    status: Status
    attempts: int
    reason: str | None
    created: float
    due: float | None
    owner: str | None
    expires: float | None
    settled: float | None


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """An attempt that was made. number: counts from 1 and goes on after a replay.

    outcome: ``delivered``, ``retry`` or ``dead``.
    """

    number: int
    at: float
    outcome: str
    reason: str


@dataclass(frozen=True, slots=True)
class DeliveryDetails:
    """A delivery with what is sent and the last attempts, oldest first."""

    record: DeliveryRecord
    message: Message
    attempts: tuple[AttemptRecord, ...]
