"""What operators do: look, count, replay, prune."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    case,
    delete,
    exists,
    func,
    select,
    update,
)

from cubehook.outbox._leasing import message_of
from cubehook.outbox.schema import NEW, attempts, deliveries, events
from cubehook.outbox.values import (
    SETTLED,
    AttemptRecord,
    DeliveryDetails,
    DeliveryRecord,
    Filter,
    Status,
)

_RECORDS = select(deliveries, events.c.name).join(events, events.c.id == deliveries.c.event)


def counts(connection: Connection) -> dict[str, dict[Status, int]]:
    """Deliveries by endpoint and status; a status without any is left out."""
    found: dict[str, dict[Status, int]] = defaultdict(dict)
    by = (deliveries.c.endpoint, deliveries.c.status)
    for endpoint, stored, count in connection.execute(select(*by, func.count()).group_by(*by)):
        status = _status(stored)
        found[endpoint][status] = found[endpoint].get(status, 0) + count
    return dict(found)


def records(
    connection: Connection, which: Filter, limit: int, before: int | None
) -> list[DeliveryRecord]:
    """Deliveries, the last one stored first; only those with an id below ``before``."""
    query = _RECORDS.where(*_conditions(which)).order_by(deliveries.c.id.desc()).limit(limit)
    if before is not None:
        query = query.where(deliveries.c.id < before)
    return [_record(row) for row in connection.execute(query)]


def details(connection: Connection, delivery: int) -> DeliveryDetails | None:
    """Everything of one delivery."""
    query = _RECORDS.add_columns(events.c.key, events.c.content_type, events.c.body)
    row = connection.execute(query.where(deliveries.c.id == delivery)).first()
    if row is None:
        return None
    made = (
        select(attempts.c.number, attempts.c.at, attempts.c.outcome, attempts.c.reason)
        .where(attempts.c.delivery == delivery)
        .order_by(attempts.c.number)
    )
    return DeliveryDetails(
        record=_record(row),
        message=message_of(row),
        attempts=tuple(AttemptRecord(*one) for one in connection.execute(made)),
    )


def replay(
    connection: Connection, which: Filter, after: int, now: float, chunk: int
) -> tuple[int, int | None]:
    """Send settled deliveries again, at most ``chunk`` of them, with ids above ``after``.

    How many, and the last one's id; None: there are no more. Raises ValueError if ``which`` asks
    for some that are not settled.
    """
    chosen = which.statuses or (Status.DEAD,)
    if not set(chosen) <= set(SETTLED):
        raise ValueError("only what is dead or delivered can be replayed")
    statuses = [status.value for status in chosen]
    query = (
        select(deliveries.c.id)
        .join(events, events.c.id == deliveries.c.event)
        .where(*_conditions(which), deliveries.c.status.in_(statuses), deliveries.c.id > after)
        .order_by(deliveries.c.id)
        .limit(chunk)
    )
    ids = connection.scalars(query).all()
    unchained = deliveries.c.chain.is_(None)
    replayed = connection.execute(
        update(deliveries)
        # Someone else may have been faster.
        .where(deliveries.c.id.in_(ids), deliveries.c.status.in_(statuses))
        .values(
            status=case((unchained, Status.WAITING.value), else_=NEW),
            at=case((unchained, now), else_=0.0),
            attempts=0,
        )
    )
    return replayed.rowcount, ids[-1] if len(ids) == chunk else None


def endpoints(connection: Connection) -> list[str]:
    """The endpoints that have deliveries."""
    found: list[str] = []
    last = ""
    # One step into an index for each, where DISTINCT would read all of it.
    while True:
        query = select(func.min(deliveries.c.endpoint)).where(deliveries.c.endpoint > last)
        following = connection.scalar(query)
        if following is None:
            return found
        last = following
        found.append(last)


def prune(connection: Connection, endpoint: str, status: Status, before: float, chunk: int) -> int:
    """Delete deliveries of that status, settled before that moment, at most ``chunk``; how many."""
    query = (
        select(deliveries.c.id, deliveries.c.event)
        .where(
            deliveries.c.endpoint == endpoint,
            deliveries.c.status == status.value,
            deliveries.c.at < before,
        )
        .order_by(deliveries.c.at, deliveries.c.id)
        .limit(chunk)
        .with_for_update(skip_locked=True)
    )
    rows = connection.execute(query).all()
    if not rows:
        return 0
    ids = [row.id for row in rows]
    parents = sorted({row.event for row in rows})
    # Two that each delete one of an event's last two deliveries would both leave the event.
    of_these = events.c.id.in_(parents)
    connection.execute(select(events.c.id).where(of_these).order_by(events.c.id).with_for_update())
    connection.execute(delete(attempts).where(attempts.c.delivery.in_(ids)))
    connection.execute(delete(deliveries).where(deliveries.c.id.in_(ids)))
    left = exists().where(
        # The first condition is for the index.
        deliveries.c.event_id == events.c.event_id,
        deliveries.c.event == events.c.id,
    )
    connection.execute(delete(events).where(of_these, ~left))
    return len(rows)


def _conditions(which: Filter) -> Iterator[ColumnElement[bool]]:
    if which.endpoint is not None:
        yield deliveries.c.endpoint == which.endpoint
    if which.statuses:
        stored = [status.value for status in which.statuses]
        yield deliveries.c.status.in_(
            [*stored, NEW] if Status.WAITING in which.statuses else stored
        )
    if which.event_id is not None:
        yield deliveries.c.event_id == which.event_id
    if which.since is not None:
        yield deliveries.c.created >= which.since
    if which.until is not None:
        yield deliveries.c.created < which.until
    if which.event is not None and which.event.endswith("*"):
        stem = which.event[:-1]
        # LIKE takes a capital for a small letter on SQLite, and _ and % for what they are not.
        if stem:
            yield func.substr(events.c.name, 1, len(stem), type_=events.c.name.type) == stem
    elif which.event is not None:
        yield events.c.name == which.event


def _status(stored: str) -> Status:
    return Status.WAITING if stored == NEW else Status(stored)


def _record(row: Any) -> DeliveryRecord:
    status = _status(row.status)
    return DeliveryRecord(
        id=row.id,
        event_id=row.event_id,
        event=row.name,
        endpoint=row.endpoint,
        status=status,
        attempts=row.attempts,
        reason=row.reason,
        created=row.created,
        due=row.at if status is Status.WAITING else None,
        owner=row.owner,
        expires=row.at if status is Status.LEASED else None,
        settled=row.at if status in SETTLED else None,
    )
