"""The tables, and how they come about: made once, however many processes start, and migrated.

One row of ``events`` is one event in one format, with the bytes that are sent; it is written in
one transaction with its deliveries, none of which is added later. That is why no foreign key is
needed, which would cost an index and a look-up for every row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Dialect,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    insert,
    inspect,
    select,
    text,
    update,
)
from sqlalchemy.dialects import mysql, sqlite
from sqlalchemy.types import TypeDecorator, TypeEngine

from cubehook.errors import ConfigError
from cubehook.outbox._failures import LOCKED, OutboxUnavailableError

NEW = "new"
"""The status of a delivery with a key that nobody has put in its place yet: it comes before
waiting and held (see `_leasing`), and is shown as waiting."""

MAX_ID_LENGTH = 128  # of an event
MAX_ENDPOINT_LENGTH = 64
MAX_TEXT_LENGTH = 255  # of a content type or a reason

_MYSQLS = ("mysql", "mariadb")


class _Exact(TypeDecorator[str]):
    """Text that is equal only to itself.

    Every collation of MySQL that all versions have takes ``a`` for ``a`` with a space behind it.
    """

    impl = String
    cache_ok = True

    def __init__(self, length: int) -> None:
        super().__init__(length)
        self.length = length

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name in _MYSQLS:
            return dialect.type_descriptor(mysql.VARBINARY(self.length * 4))  # of UTF-8
        collation = "C" if dialect.name == "postgresql" else None
        return dialect.type_descriptor(String(self.length, collation=collation))

    def process_bind_param(self, value: str | None, dialect: Dialect) -> Any:
        return value.encode() if value is not None and dialect.name in _MYSQLS else value

    def process_result_value(self, value: Any, dialect: Dialect) -> str | None:
        return value.decode() if isinstance(value, bytes) else value


class _Moment(TypeDecorator[float]):
    """Seconds since the Unix epoch, stored as whole microseconds: equal is equal everywhere."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: float | None, dialect: Dialect) -> int | None:
        return None if value is None else round(value * 1e6)

    def process_result_value(self, value: int | None, dialect: Dialect) -> float | None:
        return None if value is None else value / 1e6


_BYTES = LargeBinary().with_variant(mysql.MEDIUMBLOB(), *_MYSQLS)  # a plain BLOB ends at 64 KiB


class _Key(TypeDecorator[str]):
    """A key of any length and any characters: no database's text takes them all."""

    impl = _BYTES
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> bytes | None:
        return None if value is None else key_bytes(value)

    def process_result_value(self, value: bytes | None, dialect: Dialect) -> str | None:
        return None if value is None else value.decode("utf-8", "surrogatepass")


_ID = BigInteger().with_variant(sqlite.INTEGER(), "sqlite")  # only INTEGER counts by itself there
_DIGEST = LargeBinary(16).with_variant(mysql.BINARY(16), *_MYSQLS)

_OPTIONS: dict[str, Any] = {f"{name}_engine": "InnoDB" for name in _MYSQLS}

metadata = MetaData()

events = Table(
    "cubehook_events",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("event_id", _Exact(MAX_ID_LENGTH), nullable=False),
    Column("name", _Exact(MAX_ID_LENGTH), nullable=False),
    Column("key", _Key()),
    Column("content_type", _Exact(MAX_TEXT_LENGTH), nullable=False),
    Column("body", _BYTES, nullable=False),
    **_OPTIONS,
)

deliveries = Table(
    "cubehook_deliveries",
    metadata,
    # Rises with every delivery stored: the order of those with the same key.
    Column("id", _ID, primary_key=True),
    Column("event", BigInteger, nullable=False),  # the row in events
    Column("event_id", _Exact(MAX_ID_LENGTH), nullable=False),
    Column("endpoint", _Exact(MAX_ENDPOINT_LENGTH), nullable=False),
    # What has to go in order has the same digest (of endpoint and key); the rest has NULL.
    Column("chain", _DIGEST),
    Column("status", _Exact(9), nullable=False),
    # waiting: when it is due; leased: when the lease expires; delivered, dead: when it was
    # settled; new, held: 0. One column, so that one index serves all of them.
    Column("at", _Moment, nullable=False),
    Column("attempts", Integer, nullable=False),  # since it was stored or replayed
    Column("attempts_ever", Integer, nullable=False),
    Column("token", _DIGEST),
    Column("owner", _Exact(MAX_ID_LENGTH)),
    Column("reason", _Exact(MAX_TEXT_LENGTH)),
    Column("created", _Moment, nullable=False),
    UniqueConstraint("event_id", "endpoint", name="cubehook_deliveries_once"),
    # Each query has the order of the index it is meant for, "at, id": with "id" alone, PostgreSQL
    # may walk along the primary key, past all that is settled.
    Index("cubehook_deliveries_due", "endpoint", "status", "at", "id"),
    Index("cubehook_deliveries_chain", "chain", "status", "at", "id"),
    **_OPTIONS,
)

attempts = Table(
    "cubehook_attempts",
    metadata,
    Column("delivery", BigInteger, primary_key=True, autoincrement=False),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("at", _Moment, nullable=False),
    Column("outcome", _Exact(9), nullable=False),
    Column("reason", _Exact(MAX_TEXT_LENGTH), nullable=False),
    sqlite_with_rowid=False,
    **_OPTIONS,
)

lanes = Table(
    "cubehook_lanes",
    metadata,
    # A row is locked by whoever changes which delivery of a key is next at this endpoint.
    Column("endpoint", _Exact(MAX_ENDPOINT_LENGTH), primary_key=True),
    **_OPTIONS,
)

endpoints = Table(
    "cubehook_endpoints",
    metadata,
    Column("name", _Exact(MAX_ENDPOINT_LENGTH), primary_key=True),
    Column("settings", _BYTES, nullable=False),  # JSON of what may be shown
    Column("private", _BYTES, nullable=False),  # JSON of what may not, encrypted if sealed
    Column("sealed", Boolean, nullable=False),
    Column("secrets", Integer, nullable=False),  # how many it has: two while one is rotated out
    Column("enabled", Boolean, nullable=False),
    Column("created", _Moment, nullable=False),
    Column("updated", _Moment, nullable=False),
    **_OPTIONS,
)

endpoints_revision = Table(
    "cubehook_endpoints_revision",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),  # always 1
    # Random: a count could come to the same number again after a backup was restored.
    Column("revision", _Exact(32), nullable=False),
    **_OPTIONS,
)

schema_version = Table(
    "cubehook_schema_version",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),  # always 1
    Column("version", Integer, nullable=False),
    **_OPTIONS,
)

Step: TypeAlias = "Callable[[Connection], None]"


def _add_endpoints(connection: Connection) -> None:
    metadata.create_all(connection, tables=[endpoints, endpoints_revision])


STEPS: tuple[Step, ...] = (_add_endpoints,)
"""What brings the tables from version 1 to 2, from 2 to 3, and so on. New tables are made in their
latest form. MariaDB commits after each statement, so a step must bear to be run again."""

_POSTGRES_LOCK = 0x63756265686F6F6B  # "cubehook"
_MYSQL_LOCK = "CONCAT('cubehook.', MD5(DATABASE()))"  # the server has one set for all databases
_LOCK_SECONDS = 30


def key_bytes(key: str) -> bytes:
    """A key in the bytes that are stored and hashed; a lone surrogate is let through."""
    return key.encode("utf-8", "surrogatepass")


def is_current(connection: Connection, steps: Sequence[Step] = STEPS) -> bool:
    """Whether the tables are there in the version that this code needs.

    Raises `ConfigError` if they are newer.
    """
    version = _version(connection)
    if version is not None and version > 1 + len(steps):
        raise ConfigError("outbox: its tables were made by a newer version of cubehook")
    return version == 1 + len(steps)


def prepare(connection: Connection, steps: Sequence[Step] = STEPS) -> None:
    """Make the tables or bring them to the current version, while no one else does.

    Commits. Raises `ConfigError` if the tables are newer, `OutboxUnavailableError` if another
    process has been at it for `_LOCK_SECONDS`.
    """
    _lock(connection)
    try:
        if not is_current(connection, steps):
            _bring_up(connection, steps)
            connection.commit()
    finally:
        if connection.dialect.name in _MYSQLS:  # where the lock outlives the transaction
            connection.rollback()
            connection.execute(text(f"SELECT RELEASE_LOCK({_MYSQL_LOCK})"))


def _bring_up(connection: Connection, steps: Sequence[Step]) -> None:
    version = _version(connection)
    if version is None:
        metadata.create_all(connection)
        connection.execute(insert(schema_version).values(id=1, version=1 + len(steps)))
        return
    for number, step in enumerate(steps[version - 1 :], version + 1):
        step(connection)
        connection.execute(update(schema_version).values(version=number))


def _version(connection: Connection) -> int | None:
    if not inspect(connection).has_table(schema_version.name):
        return None
    return connection.scalar(select(schema_version.c.version))


def _lock(connection: Connection) -> None:
    """SQLite's transaction is exclusive from its beginning."""
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"SELECT pg_advisory_xact_lock({_POSTGRES_LOCK})"))
    elif connection.dialect.name in _MYSQLS:
        got = connection.scalar(text(f"SELECT GET_LOCK({_MYSQL_LOCK}, {_LOCK_SECONDS})"))
        if not got:
            raise OutboxUnavailableError(LOCKED)
