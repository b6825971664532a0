"""How workers come by deliveries: put in place what is new, claim what is due, give back, prolong.

Per-key order. Of the deliveries with one ``chain`` (endpoint and key) that are waiting or leased
there is one at most: the leader. The rest is held, until `_settling` makes the oldest of them the
leader. So whoever claims only meets what may be sent, however much is held. A new delivery is put
in its place here and not where it is added: nobody but workers has to wait for a worker then, and
an app's transaction that stays open has no part in the order before it commits.

Who decides on leaders has the lock of the endpoint's lane; claiming does without.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, ScalarSelect, bindparam, func, select, update

from cubehook.message import Message
from cubehook.outbox import _lanes
from cubehook.outbox._sql import chunks
from cubehook.outbox.schema import NEW, deliveries, events
from cubehook.outbox.values import Lease, Status


class Terms(NamedTuple):
    """Of a lease. limit: deliveries for each endpoint. The rest is the same for all of them."""

    limit: int
    now: float
    expires: float
    owner: str
    token: bytes


class _Candidate(NamedTuple):
    """A delivery that may be claimed; the one that is due first comes first."""

    due: float
    id: int


_PLACED = 200
"""New deliveries that a lease finds the place of, or as many as it may claim if that is more: a key
with a long backlog that has just come in holds up the others for as short as possible."""

_OF_STATUS = (
    deliveries.c.endpoint == bindparam("endpoint"),
    deliveries.c.status == bindparam("status"),
)
_DUE = (
    select(deliveries.c.at, deliveries.c.id)
    .where(*_OF_STATUS, deliveries.c.at <= bindparam("now"))
    .order_by(deliveries.c.at, deliveries.c.id)
    .limit(bindparam("limit"))
    .with_for_update(skip_locked=True)
)
_ANY_NEW = (
    select(deliveries.c.id).where(*_OF_STATUS).order_by(deliveries.c.at, deliveries.c.id).limit(1)
)
_ALL_NEW = (
    select(deliveries.c.id, deliveries.c.chain, deliveries.c.created)
    .where(*_OF_STATUS)
    .order_by(deliveries.c.at, deliveries.c.id)
    .limit(bindparam("limit"))
)
_CLAIMED = select(
    deliveries.c.id,
    deliveries.c.endpoint,
    deliveries.c.attempts,
    deliveries.c.chain,
    events.c.event_id,
    events.c.name,
    events.c.key,
    events.c.content_type,
    events.c.body,
).join(events, events.c.id == deliveries.c.event)


def _first(status: str) -> ScalarSelect[Any]:
    return (
        select(func.min(deliveries.c.at))
        .where(deliveries.c.endpoint == bindparam("endpoint"), deliveries.c.status == status)
        .scalar_subquery()
    )


_WANTED = select(_first(NEW), _first(Status.WAITING.value), _first(Status.LEASED.value))


def wanted(connection: Connection, endpoints: Iterable[str]) -> dict[str, float]:
    """When there is next something to claim for each endpoint that has anything; 0: at once."""
    found = {}
    for endpoint in endpoints:
        row = connection.execute(_WANTED, {"endpoint": endpoint}).one()
        moments = [moment for moment in row if moment is not None]
        if moments:
            found[endpoint] = min(moments)
    return found


def lease(connection: Connection, endpoints: Iterable[str], terms: Terms) -> list[Lease]:
    """Claim what is due, endpoint by endpoint, what is due first before the rest."""
    claimed: dict[int, float] = {}
    for endpoint in endpoints:
        claimed.update((one.id, one.due) for one in _claim(connection, endpoint, terms))
    found = {}
    for ids in chunks(list(claimed)):
        connection.execute(
            update(deliveries).where(deliveries.c.id.in_(ids)),
            {
                "status": Status.LEASED.value,
                "at": terms.expires,
                "token": terms.token,
                "owner": terms.owner,
            },
        )
        for row in connection.execute(_CLAIMED.where(deliveries.c.id.in_(ids))):
            found[row.id] = _lease(row, claimed[row.id], terms)
    return [found[one] for one in claimed]


def valid(connection: Connection, leases: Iterable[Lease]) -> dict[int, Any]:
    """The rows of the leases that are not lost, by id, locked."""
    tokens = {one.id: one.token for one in leases}
    rows: dict[int, Any] = {}
    for ids in chunks(sorted(tokens)):
        # In one order for everybody, or two of them could wait for each other.
        found = (
            select(deliveries.c.id, deliveries.c.token, deliveries.c.attempts_ever)
            .where(deliveries.c.id.in_(ids), deliveries.c.status == Status.LEASED.value)
            .order_by(deliveries.c.id)
            .with_for_update()
        )
        rows.update(
            (row.id, row) for row in connection.execute(found) if row.token == tokens[row.id]
        )
    return rows


def extend(connection: Connection, leases: Sequence[Lease], expires: float) -> list[Lease]:
    """Prolong the leases that are not lost, and return them."""
    rows = valid(connection, leases)
    for ids in chunks(list(rows)):
        connection.execute(update(deliveries).where(deliveries.c.id.in_(ids)), {"at": expires})
    return [dataclasses.replace(one, expires=expires) for one in leases if one.id in rows]


def release(connection: Connection, leases: Sequence[Lease]) -> None:
    """Give back what was not attempted; it is due as it was before."""
    rows = valid(connection, leases)
    back = [{"this": one.id, "due": one.due} for one in leases if one.id in rows]
    if back:
        connection.execute(_GIVEN_BACK, back)


_GIVEN_BACK = (
    update(deliveries)
    .where(deliveries.c.id == bindparam("this"))
    .values(status=Status.WAITING.value, at=bindparam("due"), token=None, owner=None)
)


def _claim(connection: Connection, endpoint: str, terms: Terms) -> list[_Candidate]:
    """What of an endpoint is to be leased; it is locked, but not yet changed."""
    fresh = _place(connection, endpoint, max(terms.limit, _PLACED))
    candidates = list(fresh)
    for status in (Status.LEASED.value, Status.WAITING.value):  # leased: by one that is overdue
        rows = connection.execute(
            _DUE,
            {"endpoint": endpoint, "status": status, "now": terms.now, "limit": terms.limit},
        )
        candidates += (_Candidate(*row) for row in rows)
    candidates.sort()
    chosen = candidates[: terms.limit]
    left = [one.id for one in {*fresh}.difference(chosen)]
    for ids in chunks(left):
        connection.execute(
            update(deliveries)
            .where(deliveries.c.id.in_(ids))
            .values(status=Status.WAITING.value, at=deliveries.c.created)
        )
    return chosen


def _place(connection: Connection, endpoint: str, limit: int) -> list[_Candidate]:
    """Find the place of new deliveries: the leaders among them, which are not yet changed.

    At most ``limit`` at a time, the oldest ones; none while another worker does it.
    """
    of_new = {"endpoint": endpoint, "status": NEW}
    if connection.scalar(_ANY_NEW, of_new) is None or not _lanes.try_lock(connection, endpoint):
        return []
    new = connection.execute(_ALL_NEW, {**of_new, "limit": limit}).all()
    led = _led(connection, list({row.chain for row in new}))
    leaders, held = [], []
    for row in new:
        if row.chain in led:
            held.append(row.id)
        else:
            led.add(row.chain)
            leaders.append(_Candidate(row.created, row.id))
    for ids in chunks(held):
        connection.execute(
            update(deliveries).where(deliveries.c.id.in_(ids)), {"status": Status.HELD.value}
        )
    return leaders


def _led(connection: Connection, chains: Sequence[bytes]) -> set[bytes]:
    """Those that have a leader."""
    leading = [Status.WAITING.value, Status.LEASED.value]
    found: set[bytes] = set()
    for some in chunks(chains):
        leaders = select(deliveries.c.chain).where(
            deliveries.c.chain.in_(some), deliveries.c.status.in_(leading)
        )
        found.update(connection.scalars(leaders))
    return found


def _lease(row: Any, due: float, terms: Terms) -> Lease:
    return Lease(
        id=row.id,
        endpoint=row.endpoint,
        message=message_of(row),
        attempts=row.attempts,
        due=due,
        expires=terms.expires,
        chained=row.chain is not None,
        token=terms.token,
    )


def message_of(row: Any) -> Message:
    """The message of a row that has the columns of ``events``."""
    return Message(
        id=row.event_id,
        event=row.name,
        key=row.key,
        content_type=row.content_type,
        body=bytes(row.body),
    )
