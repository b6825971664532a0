"""The lock of an endpoint's lane: who has it may change which delivery of a key is next there.

It is a row of its own, held to the end of the transaction. SQLite needs none: there a transaction
that writes is alone anyway.
"""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Connection, select

from cubehook.outbox._sql import insert_if_new
from cubehook.outbox.schema import lanes


def lock(connection: Connection, endpoints: Collection[str]) -> None:
    """Wait for the locks of all of them, in one order for everybody."""
    if connection.dialect.name == "sqlite" or not endpoints:
        return
    missing = sorted(set(endpoints) - _locked(connection, endpoints))
    if missing:
        connection.execute(
            insert_if_new(connection, lanes, lanes.c.endpoint),
            [{"endpoint": endpoint} for endpoint in missing],
        )
        _locked(connection, missing)


def try_lock(connection: Connection, endpoint: str) -> bool:
    """Take the lock; False if someone else has it."""
    if connection.dialect.name == "sqlite":
        return True
    mine = select(lanes).where(lanes.c.endpoint == endpoint)
    if connection.execute(mine.with_for_update(skip_locked=True)).first():
        return True
    if connection.execute(mine).first():
        return False
    lock(connection, [endpoint])  # for the first time ever
    return True


def _locked(connection: Connection, endpoints: Collection[str]) -> set[str]:
    rows = select(lanes.c.endpoint).where(lanes.c.endpoint.in_(endpoints))
    return set(connection.scalars(rows.order_by(lanes.c.endpoint).with_for_update()))
