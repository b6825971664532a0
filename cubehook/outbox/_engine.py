"""From a URL to transactions: the engine with each database's settings, and `Database.run`."""

from __future__ import annotations

import enum
import logging
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, Pool, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from cubehook import forks
from cubehook.errors import ConfigError
from cubehook.outbox import _failures
from cubehook.outbox._failures import OutboxUnavailableError

LOCK_SECONDS = 5.0
"""The longest that a transaction waits for another one's lock."""

_CONNECT_SECONDS = 5
_STUCK_SECONDS = 60  # a transaction takes milliseconds; PostgreSQL ends one that stands still
_POOL_SIZE = 5
_TRIES = 5
_PAUSE = 0.005  # seconds between two looks at a lock that SQLite does not wait for by itself

_LOG_NAME = "cubehook"
# At DEBUG, SQLAlchemy logs every row it reads: what goes wrong is told in fixed phrases only.
for _parent in ("engine.Engine", "pool.impl.QueuePool"):
    logging.getLogger(f"sqlalchemy.{_parent}.{_LOG_NAME}").setLevel(logging.CRITICAL + 1)

_DRIVERS = {
    "sqlite": ("pysqlite", ""),
    "postgresql": ("psycopg", "postgres"),
    "mysql": ("pymysql", "mysql"),
    "mariadb": ("pymysql", "mysql"),
}
"""For each database the one driver that is supported, and the extra that brings it."""

_OLDEST = {True: (10, 6), False: (8, 0, 1)}
"""The first MariaDB (True) and MySQL (False) that have SKIP LOCKED."""

_T = TypeVar("_T")


class Mode(enum.Enum):
    """What a transaction is for.

    RELAXED: it may be lost if the machine fails right after the commit, the last ones first. A
    lost lease or a lost outcome only means that something is sent again. SQLite and PostgreSQL
    then commit without waiting for the disk.
    """

    READ = "read"
    RELAXED = "relaxed"
    DURABLE = "durable"


_databases: weakref.WeakSet[Any] = weakref.WeakSet()
_inherited: list[Pool] = []
_FORK_SECONDS = 1.0
"""The longest that a fork waits for transactions; a step takes milliseconds."""


class _Forking(threading.local):
    """What a thread that forks has taken."""

    turns: tuple[threading.Lock, ...] = ()


_forking = _Forking()


def _before_fork() -> None:
    # SQLite has locks that the interpreter knows nothing of: a child that is forked while another
    # thread is inside has them held for ever. And it notes for the whole process which files are
    # locked: a child with the notes of its parent, but without the locks, would not take any, and
    # whoever comes and goes would take the log of what is committed with it.
    ends = time.monotonic() + _FORK_SECONDS
    taken = []
    for database in list(_databases):
        if database.kind == "sqlite" and database.turn.acquire(
            timeout=max(ends - time.monotonic(), 0.0)
        ):
            taken.append(database.turn)
            database.close()
    _forking.turns = tuple(taken)


def _after_in_parent() -> None:
    turns, _forking.turns = _forking.turns, ()
    for turn in turns:
        turn.release()


def _after_in_child() -> None:
    _forking.turns = ()
    for database in list(_databases):
        database.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_after_in_child
    )


class Database:
    """An engine whose connections are this process's own, also after a fork.

    url: see `Outbox`. Raises `ConfigError` for one that cannot be used; nothing is connected to.
    """

    def __init__(self, url: str) -> None:
        self._url = _checked(url)
        self._engine = _engine(self._url)
        self.kind = self._engine.dialect.name
        self._driver_error: Any = self._engine.dialect.loaded_dbapi.Error
        # SQLite lets one write at a time, and who waits for it only looks again now and then:
        # threads of one process can do better.
        self.turn = threading.Lock()
        _databases.add(self)

    def run(self, work: Callable[[Connection], _T], mode: Mode) -> _T:
        """What ``work`` returns, once its transaction is committed.

        Work that has to give way to another transaction is done again from the start. Raises
        `OutboxUnavailableError`, with a fixed phrase.
        """
        for tries_left in reversed(range(_TRIES)):
            try:
                return self._once(work, mode)
            except (SQLAlchemyError, self._driver_error, OSError) as error:
                if tries_left and _failures.is_collision(error):
                    continue
                failure = _failures.phrase(error)
            break
        # Raised out here, it does not even have the database's error as its context.
        if self.kind == "sqlite" and failure in _OF_FILE:
            raise ConfigError(f"outbox: {_OF_FILE[failure]}; it was left as it is")
        raise OutboxUnavailableError(failure)

    def close(self) -> None:
        """Close the idle connections."""
        self._engine.dispose()

    def renew(self) -> None:
        """Start afresh in a forked child."""
        # It must not even close what its parent has opened (sqlite.org/howtocorrupt.html §2.6), so
        # the pool is left as it is, and kept, whatever becomes of this database. Nor is the engine
        # of any use: a thread that was not forked may have been asking what the server can do, and
        # an engine asks only once.
        _inherited.append(self._engine.pool)
        self._engine = _engine(self._url)
        self.turn = threading.Lock()

    def _once(self, work: Callable[[Connection], _T], mode: Mode) -> _T:
        pool = self._engine.pool
        try:
            with (
                self.turn if self.kind == "sqlite" else nullcontext(),
                self._engine.connect().execution_options(cubehook_mode=mode) as connection,
            ):
                result = work(connection)
                connection.commit()
                return result
        finally:
            if self._engine.pool is not pool:  # closed meanwhile: this one came late
                pool.dispose()


def check_server(connection: Connection) -> None:
    """Raises `ConfigError` if the server is too old."""
    dialect: Any = connection.dialect
    if dialect.name in ("mysql", "mariadb"):
        oldest = _OLDEST[dialect.is_mariadb]
        if dialect.server_version_info < oldest:
            raise ConfigError("outbox: needs MariaDB 10.6 or MySQL 8.0.1, or newer")


def _checked(text: str) -> URL:
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        url = None
    if url is None:  # out here: the error has the URL in its text
        raise ConfigError("outbox: is not a database URL")
    name, _, driver = url.drivername.partition("+")
    if name not in _DRIVERS or driver not in ("", _DRIVERS[name][0]):
        known = ", ".join(f"{known}+{driver}" for known, (driver, _) in _DRIVERS.items())
        raise ConfigError(f"outbox: its URL must begin with one of: {known}")
    if name == "sqlite":
        _check_file(url.database)
    return url.set(drivername=f"{name}+{_DRIVERS[name][0]}")


def _check_file(database: str | None) -> None:
    """Find what is wrong with SQLite's file before it is opened, and so never write to it."""
    if not database or database == ":memory:" or database.startswith("file:"):
        raise ConfigError("outbox: needs the path of a file, as in sqlite:////var/lib/app.db")
    path = Path(database)
    if not path.parent.is_dir():
        raise ConfigError("outbox: the directory of the SQLite file does not exist")
    if path.is_dir():
        raise ConfigError("outbox: the path of the SQLite file is that of a directory")
    failure = _failure_of(path) if path.exists() else ""
    if failure in _OF_FILE:
        raise ConfigError(f"outbox: {_OF_FILE[failure]}; it was left as it is")


_OF_FILE = {
    _failures.DAMAGED: "the SQLite file is damaged",
    _failures.NO_DATABASE: "the file is no SQLite database",
}


def _failure_of(path: Path) -> str:
    """What keeps SQLite, which only reads, from making sense of the file; or nothing.

    The file is opened by nobody but SQLite: with any other file object that is closed, this
    process loses all its locks on it (sqlite.org/howtocorrupt.html §2.2).
    """
    try:
        address = f"file:{quote(str(path.absolute()))}?mode=ro"
        with closing(sqlite3.connect(address, timeout=0.0, uri=True)) as connection:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.Error as error:
        return _failures.phrase(error)
    return ""


def _engine(url: URL) -> Engine:
    name = url.drivername.partition("+")[0]
    options: dict[str, Any] = {
        "pool_size": _POOL_SIZE,
        "max_overflow": -1,
        "hide_parameters": True,
        "logging_name": _LOG_NAME,
        "pool_logging_name": _LOG_NAME,
    }
    given: dict[str, float] = {"connect_timeout": _CONNECT_SECONDS}
    if name == "sqlite":
        given = {"timeout": LOCK_SECONDS}
    else:
        options |= {"isolation_level": "READ COMMITTED", "pool_pre_ping": True}
    # What the URL says itself comes first.
    given = {key: value for key, value in given.items() if key not in url.query}
    engine = None
    problem = "its URL has a parameter that cannot be used"
    try:
        engine = create_engine(url, connect_args=given, **options)
    except (ImportError, NoSuchModuleError):
        problem = f"its driver is not installed (pip install 'cubehook[{_DRIVERS[name][1]}]')"
    except (SQLAlchemyError, TypeError, ValueError):
        pass
    if engine is None:
        raise ConfigError(f"outbox: {problem}")
    if name in ("mysql", "mariadb"):
        event.listen(engine, "do_connect", _connect_mysql)
    event.listen(engine, "connect", _SET_UP[name])
    event.listen(engine, "begin", _BEGIN[name])
    return engine


# --- what each database is told ---


def _set_up_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # sqlite3 begins no transaction by itself: see _begin_sqlite
    ends = time.monotonic() + LOCK_SECONDS
    while connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except connection.OperationalError:
            # While another connection does the same, SQLite gives up at once.
            if time.monotonic() > ends:
                raise
            time.sleep(_PAUSE)


def _begin_sqlite(connection: Connection) -> None:
    mode = connection.get_execution_options().get("cubehook_mode", Mode.READ)
    if mode is Mode.READ:
        connection.exec_driver_sql("BEGIN")
        return
    level = "FULL" if mode is Mode.DURABLE else "NORMAL"
    connection.exec_driver_sql(f"PRAGMA synchronous = {level}")
    # A transaction that begins with reading and writes later can fail for no fault of its own.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _set_up_postgres(connection: Any, _record: object) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"SET lock_timeout = {LOCK_SECONDS * 1000:.0f}")
        cursor.execute(f"SET idle_in_transaction_session_timeout = {_STUCK_SECONDS * 1000}")
    connection.commit()


def _begin_postgres(connection: Connection) -> None:
    if connection.get_execution_options().get("cubehook_mode") is Mode.RELAXED:
        connection.exec_driver_sql("SET LOCAL synchronous_commit = off")


def _connect_mysql(dialect: Any, _record: object, args: Any, options: dict[str, Any]) -> Any:
    # A TLS context is made for each connection, used or not, with all the authorities there are.
    with forks.kept_out:
        connection = dialect.loaded_dbapi.connect(*args, **{**options, "defer_connect": True})
    connection.connect()
    return connection


def _set_up_mysql(connection: Any, _record: object) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"SET SESSION innodb_lock_wait_timeout = {LOCK_SECONDS:.0f}")


def _begin_mysql(_connection: Connection) -> None:
    """Nothing: how soon a commit is on disk is set for the whole server."""


_SET_UP = {
    "sqlite": _set_up_sqlite,
    "postgresql": _set_up_postgres,
    "mysql": _set_up_mysql,
    "mariadb": _set_up_mysql,
}
_BEGIN = {
    "sqlite": _begin_sqlite,
    "postgresql": _begin_postgres,
    "mysql": _begin_mysql,
    "mariadb": _begin_mysql,
}
