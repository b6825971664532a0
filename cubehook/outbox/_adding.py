"""How deliveries are stored: `insert_all`, the same for the outbox and for an app's transaction.

Whoever adds takes no lock that a worker might wait for, and waits for none of a worker's: an app
may leave its transaction open for as long as it likes.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, delete, insert, select
from sqlalchemy.exc import DBAPIError

from cubehook.errors import ConfigError
from cubehook.message import Message
from cubehook.outbox import _failures, schema
from cubehook.outbox._failures import OutboxUnavailableError
from cubehook.outbox._sql import CHUNK, insert_if_new
from cubehook.outbox.schema import deliveries, events
from cubehook.outbox.values import Status, Target

MAX_BODY_LENGTH = 1_048_576
"""The highest ``max_payload_bytes``."""

_MAX_STATEMENT = 4_194_304  # bytes of bodies; MariaDB takes 16 MiB, and they are escaped


def enqueue(
    connection: Connection,
    batch: Iterable[tuple[Message, Iterable[Target]]],
    *,
    clock: Callable[[], float] = time.time,
) -> int:
    """Add deliveries in the transaction of an app: they are sent if and only if it commits.

    connection: the app's, of the database that an `Outbox` has been opened on; with the ORM,
    ``session.connection()``. It is not committed. Otherwise as `Outbox.add`. On MySQL, a delivery
    that is there already is locked until the transaction ends. After an `OutboxUnavailableError`
    it has to be rolled back. Raises `ConfigError` where there are no outbox tables.
    """
    try:
        return insert_all(connection, batch, clock())
    except DBAPIError as error:
        failure = _failures.phrase(error)
    if failure == _failures.NO_TABLES:
        raise ConfigError(f"outbox: {failure}; open it once with Outbox(url).prepare()")
    raise OutboxUnavailableError(failure)


def insert_all(
    connection: Connection, batch: Iterable[tuple[Message, Iterable[Target]]], now: float
) -> int:
    """Store what is new of ``batch``; how many deliveries that were.

    Raises ValueError for a message that no database could keep.
    """
    planned = list(_plan(batch))
    new = 0
    for chunk in _portions(planned):
        new += _insert(connection, chunk, now)
    return new


def chain(endpoint: str, key: str) -> bytes:
    """The digest that the deliveries of one endpoint and key share."""
    # An endpoint's name is printable: a NUL ends it.
    text = endpoint.encode() + b"\0" + schema.key_bytes(key)
    return hashlib.blake2b(text, digest_size=16).digest()


def _plan(
    batch: Iterable[tuple[Message, Iterable[Target]]],
) -> Iterator[tuple[Message, list[Target]]]:
    """The batch without what is in it twice."""
    seen = set()
    for message, targets in batch:
        _check(message)
        fresh = []
        for target in targets:
            _check_text("endpoint", target.endpoint, schema.MAX_ENDPOINT_LENGTH)
            if (message.id, target.endpoint) not in seen:
                seen.add((message.id, target.endpoint))
                fresh.append(target)
        if fresh:
            yield message, fresh


def _check(message: Message) -> None:
    _check_text("id", message.id, schema.MAX_ID_LENGTH)
    _check_text("event", message.event, schema.MAX_ID_LENGTH)
    _check_text("content type", message.content_type, schema.MAX_TEXT_LENGTH)
    if not isinstance(message.body, bytes):  # from a format of the application's
        raise ValueError("a body must be bytes")
    if len(message.body) > MAX_BODY_LENGTH:
        raise ValueError(f"a body must be of at most {MAX_BODY_LENGTH} bytes")


def _check_text(what: str, text: str, longest: int) -> None:
    if not (isinstance(text, str) and text.isprintable() and 0 < len(text) <= longest):
        raise ValueError(f"the {what} must be printable, of 1 to {longest} characters")


def _portions(
    planned: Iterable[tuple[Message, list[Target]]],
) -> Iterator[list[tuple[Message, list[Target]]]]:
    """Parts that a statement can carry."""
    portion: list[tuple[Message, list[Target]]] = []
    size = 0
    for message, targets in planned:
        if portion and (len(portion) >= CHUNK or size + len(message.body) > _MAX_STATEMENT):
            yield portion
            portion, size = [], 0
        portion.append((message, targets))
        size += len(message.body)
    if portion:
        yield portion


def _insert(
    connection: Connection, portion: Sequence[tuple[Message, list[Target]]], now: float
) -> int:
    ids = _insert_events(connection, [message for message, _ in portion])
    rows = [
        _delivery(event, message, target, now)
        for event, (message, targets) in zip(ids, portion, strict=True)
        for target in targets
    ]
    connection.execute(
        insert_if_new(connection, deliveries, deliveries.c.event_id, deliveries.c.endpoint), rows
    )
    # What was there already, or has come in between from another process, has its own event.
    stored = connection.scalars(
        select(deliveries.c.event).where(
            deliveries.c.event_id.in_([message.id for message, _ in portion])
        )
    )
    own = set(ids)
    mine = [event for event in stored if event in own]
    needless = own.difference(mine)
    if needless:
        connection.execute(delete(events).where(events.c.id.in_(needless)))
    return len(mine)


def _insert_events(connection: Connection, messages: Sequence[Message]) -> list[int]:
    rows: list[dict[str, Any]] = [
        {
            "event_id": message.id,
            "name": message.event,
            "key": message.key,
            "content_type": message.content_type,
            "body": message.body,
        }
        for message in messages
    ]
    if connection.dialect.insert_executemany_returning:
        returning = insert(events).returning(events.c.id, sort_by_parameter_order=True)
        return list(connection.scalars(returning, rows))
    # MySQL, and SQLite before 3.35.
    inserted = (connection.execute(insert(events), row).inserted_primary_key for row in rows)
    return [key[0] for key in inserted if key is not None]


def _delivery(event: int, message: Message, target: Target, now: float) -> dict[str, Any]:
    chained = target.ordered and message.key is not None
    return {
        "event": event,
        "event_id": message.id,
        "endpoint": target.endpoint,
        "chain": chain(target.endpoint, message.key or "") if chained else None,
        "status": schema.NEW if chained else Status.WAITING.value,
        "at": 0.0 if chained else now,
        "attempts": 0,
        "attempts_ever": 0,
        "created": now,
    }
