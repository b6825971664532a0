"""The outbox as its users see it: `Outbox`, each method one transaction or a few."""

from __future__ import annotations

import builtins
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TypeVar

from sqlalchemy import Connection

from cubehook.message import Message
from cubehook.outbox import _adding, _leasing, _settling, _upkeep, schema
from cubehook.outbox._engine import Database, Mode, check_server
from cubehook.outbox._failures import OutboxUnavailableError
from cubehook.outbox.values import (
    EVERYTHING,
    DeliveryDetails,
    DeliveryRecord,
    Filter,
    Lease,
    Result,
    Status,
    Target,
)

MAX_CHUNK = 10_000
"""Deliveries that may be replayed or pruned in one transaction: others wait for it."""

_T = TypeVar("_T")


class Outbox:
    """Deliveries in a database, for any number of processes on any number of machines.

    url: SQLAlchemy's, of SQLite (a file), PostgreSQL (psycopg), MySQL or MariaDB (PyMySQL).
    clock: seconds since the Unix epoch. The clocks of all workers have to agree, to within a
    fraction of the lease.
    attempts_kept: how many attempts are remembered of each delivery.

    May be used by several threads, and on in a forked child. It connects when first used. Raises
    `ConfigError` for a URL that cannot be used, here or, when only the database can tell, in every
    method. Those also raise `OutboxUnavailableError` while the database is down, locked or full.
    """

    def __init__(
        self, url: str, *, clock: Callable[[], float] = time.time, attempts_kept: int = 20
    ) -> None:
        self._database = Database(url)
        self._clock = clock
        self._attempts_kept = attempts_kept
        self._prepared = False

    def __repr__(self) -> str:
        return f"<Outbox on {self._database.kind}>"  # a URL holds a password

    def prepare(self) -> None:
        """Make the tables, or bring them to this version; the first use does it otherwise."""
        if self._prepared:
            return
        if not self._database.run(_is_ready, Mode.READ):
            self._database.run(schema.prepare, Mode.DURABLE)
        self._prepared = True

    def close(self) -> None:
        """Close the idle connections."""
        self._database.close()

    # Whoever has events.

    def add(self, batch: Iterable[tuple[Message, Iterable[Target]]]) -> int:
        """Store deliveries in one transaction; how many were new, once it is committed.

        One that is there already, of the same event id and endpoint, stays as it is. Deliveries
        of one key are sent in the order of the batches and in a batch. Raises ValueError for a
        message that could not be stored, such as one over 1 MiB; nothing is stored then.
        """
        given = [(message, tuple(targets)) for message, targets in batch]
        return self._run(
            lambda connection: _adding.insert_all(connection, given, self._clock()), Mode.DURABLE
        )

    # Workers.

    def wanted(self, endpoints: Iterable[str]) -> Mapping[str, float]:
        """When to lease next for each of these endpoints that has anything; 0: at once.

        That is when a delivery is due or another worker's lease expires. It costs one short query
        for each endpoint.
        """
        asked = tuple(endpoints)
        return self._run(lambda connection: _leasing.wanted(connection, asked), Mode.READ)

    def lease(
        self, endpoints: Iterable[str], limit: int, seconds: float, owner: str
    ) -> builtins.list[Lease]:
        """Claim what is due, at most ``limit`` deliveries for each endpoint, for so many seconds.

        In the order of the endpoints, and for each what is due first. Nobody else has them until
        the lease expires. owner: names the worker to whoever looks, at most 128 characters.
        """
        now = self._clock()
        due = [name for name, when in self.wanted(endpoints).items() if when <= now]
        if not due:
            return []
        terms = _leasing.Terms(
            limit=limit,
            now=now,
            expires=now + seconds,
            owner=owner[: schema.MAX_ID_LENGTH],
            token=secrets.token_bytes(16),
        )
        return self._run(lambda connection: _leasing.lease(connection, due, terms), Mode.RELAXED)

    def settle(self, results: Sequence[Result]) -> int:
        """Write outcomes back; how many came too late, their lease lost, and were discarded.

        What is settled lets the next delivery of its key go; what is to be retried does not.
        """
        if not results:
            return 0
        return self._run(
            lambda connection: _settling.settle(
                connection, results, self._clock(), self._attempts_kept
            ),
            Mode.RELAXED,
        )

    def extend(self, leases: Sequence[Lease], seconds: float) -> builtins.list[Lease]:
        """Prolong leases to so many seconds from now; those that are not lost, as they are then."""
        expires = self._clock() + seconds
        return self._run(
            lambda connection: _leasing.extend(connection, leases, expires), Mode.RELAXED
        )

    def release(self, leases: Sequence[Lease]) -> None:
        """Give back what was not attempted, for others to take at once."""
        self._run(lambda connection: _leasing.release(connection, leases), Mode.RELAXED)

    # Operators.

    def counts(self) -> Mapping[str, Mapping[Status, int]]:
        """Deliveries by endpoint and status. It reads an index of all of them."""
        return self._run(_upkeep.counts, Mode.READ)

    def list(
        self, which: Filter = EVERYTHING, limit: int = 100, before: int | None = None
    ) -> builtins.list[DeliveryRecord]:
        """Deliveries, the last one stored first; ``before``: only those with an id below."""
        return self._run(
            lambda connection: _upkeep.records(connection, which, limit, before), Mode.READ
        )

    def show(self, delivery: int) -> DeliveryDetails | None:
        """One delivery with its message and its last attempts; None if there is none."""
        return self._run(lambda connection: _upkeep.details(connection, delivery), Mode.READ)

    def replay(self, which: Filter = EVERYTHING, chunk: int = 500) -> Iterator[int]:
        """Send dead deliveries again, with their ids and bytes, their attempts counted anew.

        A generator: each step commits at most ``chunk`` of them and says how many. With
        ``statuses`` in the filter it may be delivered ones. Raises ValueError for others, and for
        a chunk of more than `MAX_CHUNK`.
        """
        _check_chunk(chunk)
        last: int | None = 0
        while last is not None:
            step = partial(_upkeep.replay, which=which, after=last, now=self._clock(), chunk=chunk)
            count, last = self._run(step, Mode.DURABLE)
            yield count

    def prune(
        self, delivered_before: float, dead_before: float | None = None, chunk: int = 500
    ) -> int:
        """Delete what was settled before these moments, ``chunk`` in a transaction; how many.

        Dead letters stay unless ``dead_before`` says otherwise. An event goes with the last of its
        deliveries.
        """
        _check_chunk(chunk)
        limits = {Status.DELIVERED: delivered_before, Status.DEAD: dead_before}
        pruned = 0
        for endpoint in self._run(_upkeep.endpoints, Mode.READ):
            for status, before in limits.items():
                if before is not None:
                    pruned += self._prune(endpoint, status, before, chunk)
        return pruned

    def _prune(self, endpoint: str, status: Status, before: float, chunk: int) -> int:
        step = partial(_upkeep.prune, endpoint=endpoint, status=status, before=before, chunk=chunk)
        pruned = count = self._run(step, Mode.DURABLE)
        while count == chunk:
            count = self._run(step, Mode.DURABLE)
            pruned += count
        return pruned

    def _run(self, work: Callable[[Connection], _T], mode: Mode) -> _T:
        self.prepare()
        try:
            return self._database.run(work, mode)
        except OutboxUnavailableError:
            self._prepared = False  # when the database is back, it may be another one
            raise


def _check_chunk(chunk: int) -> None:
    if not 1 <= chunk <= MAX_CHUNK:
        raise ValueError(f"chunk must be from 1 to {MAX_CHUNK}")


def _is_ready(connection: Connection) -> bool:
    check_server(connection)
    return schema.is_current(connection)
