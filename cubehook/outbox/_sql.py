"""What several statements need, and what each database says in its own way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from sqlalchemy import Column, Connection, Table
from sqlalchemy.dialects import mysql, postgresql, sqlite

from cubehook.errors import ConfigError

CHUNK = 500
"""Rows, or values of an ``IN``, for one statement."""

_T = TypeVar("_T")


def chunks(items: Sequence[_T]) -> Iterator[Sequence[_T]]:
    """``items`` in parts of at most `CHUNK`."""
    for start in range(0, len(items), CHUNK):
        yield items[start : start + CHUNK]


def insert_if_new(connection: Connection, table: Table, *unique: Column[Any]) -> Any:
    """An ``INSERT`` that leaves a row alone that is there already, by these columns.

    Raises `ConfigError` for a database that is not supported.
    """
    name = connection.dialect.name
    if name == "sqlite":
        return sqlite.insert(table).on_conflict_do_nothing(index_elements=unique)
    if name == "postgresql":
        return postgresql.insert(table).on_conflict_do_nothing(index_elements=unique)
    if name in ("mysql", "mariadb"):
        # INSERT IGNORE would make mere warnings of all other errors too.
        key = table.primary_key.columns[0]
        return mysql.insert(table).on_duplicate_key_update({key.name: key})
    raise ConfigError("outbox: needs SQLite, PostgreSQL, MySQL or MariaDB")
