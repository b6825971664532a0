"""Databases to measure an outbox on: SQLite always, the servers where the environment says so.

``CUBEHOOK_TEST_POSTGRES`` and ``CUBEHOOK_TEST_MYSQL`` hold the URL of a database in which others
may be created, as for the tests; each measurement has its own, and drops it.
"""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, create_engine, make_url, text

from cubehook.outbox import Outbox

SQLITE, POSTGRES, MARIADB = "SQLite", "PostgreSQL", "MariaDB"

_SERVERS = {POSTGRES: "CUBEHOOK_TEST_POSTGRES", MARIADB: "CUBEHOOK_TEST_MYSQL"}
_numbers = itertools.count()

_BODY = """'{"event":"sandbox.created","sandbox_id":"sandbox-12","template_id":"template-456"}'"""

KEYS = 200
"""Of the waiting deliveries with keys. As many are leaders, the rest is held behind them."""

PLAIN, KEYED = "plain", "keyed"
"""Endpoints: of deliveries without keys, and with."""

_SERIES = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT {low} UNION ALL SELECT i + 1 FROM n WHERE i < {high})"
    " SELECT i FROM n",
    "postgresql": "SELECT generate_series({low}, {high}) AS i",
    "mysql": "SELECT seq AS i FROM seq_{low}_to_{high}",
}
_RANDOM = {
    "sqlite": "lower(hex(randomblob(16)))",
    "postgresql": "gen_random_uuid()::text",
    "mysql": "uuid()",
}
_DIGEST = {
    "sqlite": "CAST(printf('%016d', {n}) AS BLOB)",
    "postgresql": "convert_to(lpad(({n})::text, 16, '0'), 'UTF8')",
    "mysql": "lpad({n}, 16, '0')",
}


def there() -> list[str]:
    """The kinds that can be measured here."""
    return [SQLITE, *(kind for kind, name in _SERVERS.items() if name in os.environ)]


def version(url: str) -> str:
    """What answers there."""
    engine = create_engine(url)
    with engine.connect() as connection:
        numbers = connection.dialect.server_version_info or ()
    engine.dispose()
    return ".".join(map(str, numbers))


@contextmanager
def database(kind: str) -> Iterator[str]:
    """The URL of a new one, with empty tables, for as long as it is wanted."""
    if kind == SQLITE:
        with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
            yield _prepared(f"sqlite:///{Path(folder, 'outbox.db')}")
        return
    server = make_url(os.environ[_SERVERS[kind]])
    name = f"cubehook_benchmark_{os.getpid()}_{next(_numbers)}"
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    try:
        yield _prepared(server.set(database=name).render_as_string(hide_password=False))
    finally:
        force = " WITH (FORCE)" if kind == POSTGRES else ""
        with engine.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name}{force}"))
        engine.dispose()


def fill(url: str, endpoint: str, count: int) -> None:
    """So many deliveries that are due, as if they had been stored over the last hour.

    By the database itself: to add a million takes minutes. Those of `KEYED` have been put in their
    places, as by many leases before.
    """
    engine = create_engine(url)
    kind = engine.dialect.name
    with engine.begin() as connection:
        low = (connection.scalar(text("SELECT max(id) FROM cubehook_events")) or 0) + 1
        series = _SERIES[kind].format(low=low, high=low + count - 1)
        key = f"(i - {low}) % {KEYS}" if endpoint == KEYED else "NULL"
        chain = _DIGEST[kind].format(n=key) if endpoint == KEYED else "NULL"
        status = "'waiting'"
        at = f"1700000000000000 + i * {3_600_000_000 // count}"
        if endpoint == KEYED:
            status = f"CASE WHEN i < {low + KEYS} THEN 'waiting' ELSE 'held' END"
            at = f"CASE WHEN i < {low + KEYS} THEN 1700000000000000 + i ELSE 0 END"
        body = f"CAST({_BODY} AS BLOB)" if kind == "sqlite" else _BODY
        connection.execute(text(_EVENTS.format(id=_RANDOM[kind], body=body, series=series)))
        columns = {"chain": chain, "status": status, "at": at}
        connection.execute(text(_deliveries(kind, endpoint, low, columns)))
    # PostgreSQL does so by itself within a minute.
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        _settle_down(connection, kind)
    engine.dispose()


_EVENTS = """
INSERT INTO cubehook_events (id, event_id, name, content_type, body)
SELECT i, {id}, 'sandbox.created', 'application/json', {body}
FROM ({series}) AS numbers
"""


def _deliveries(kind: str, endpoint: str, low: int, columns: dict[str, str]) -> str:
    at = "`at`" if kind == "mysql" else "at"
    chain, status, moment = columns["chain"], columns["status"], columns["at"]
    return (
        f"INSERT INTO cubehook_deliveries (id, event, event_id, endpoint, chain, status, {at},"
        f" attempts, attempts_ever, created)"
        f" SELECT i, i, event_id, '{endpoint}', {chain}, {status}, {moment}, 0, 0, 1700000000000000"
        f" FROM (SELECT id AS i, event_id FROM cubehook_events WHERE id >= {low}) AS numbers"
    )


def _settle_down(connection: Connection, kind: str) -> None:
    if kind == "postgresql":
        for table in ("events", "deliveries"):
            # The series has counted, the sequence has not.
            connection.execute(
                text(
                    f"SELECT setval(pg_get_serial_sequence('cubehook_{table}', 'id'), max(id))"
                    f" FROM cubehook_{table}"
                )
            )
        connection.execute(text("VACUUM ANALYZE"))
        connection.execute(text("CHECKPOINT"))
    elif kind == "sqlite":
        connection.execute(text("PRAGMA wal_checkpoint(TRUNCATE)"))


def _prepared(url: str) -> str:
    outbox = Outbox(url)
    outbox.prepare()
    outbox.close()
    return url
