"""URLs that cannot be used, databases that fail: clear words, and nothing that is secret."""

from __future__ import annotations

import builtins
import logging
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pymysql
import pytest
from sqlalchemy import event, exc
from stored import OPS, add, engine_of, lease, message

from cubehook import ConfigError, forks
from cubehook.outbox import Outbox, OutboxUnavailableError, _engine, _failures
from cubehook.outbox._engine import Mode

PASSWORD = "hunter2"


def sqlite_url(path: Path) -> str:
    return f"sqlite:///{path}"


def lines_of(error: BaseException) -> str:
    assert error.__context__ is None
    return repr(error)


class TestUrl:
    @pytest.mark.parametrize(
        ("url", "words"),
        [
            (f"not a url {PASSWORD}", "is not a database URL"),
            ("", "is not a database URL"),
            (f"postgresql://u:{PASSWORD}@host:port/db", "is not a database URL"),
            (f"oracle://u:{PASSWORD}@host/db", "must begin with one of"),
            (f"postgresql+asyncpg://u:{PASSWORD}@host/db", "must begin with one of"),
            ("sqlite://", "needs the path of a file"),
            ("sqlite:///:memory:", "needs the path of a file"),
            ("sqlite:///file:x?mode=memory&uri=true", "needs the path of a file"),
            ("sqlite:////no/such/directory/outbox.db", "directory of the SQLite file does not"),
            ("sqlite:////tmp", "is that of a directory"),
            ("sqlite:////tmp/x.db?timeout=hunter2", "a parameter that cannot be used"),
        ],
    )
    def test_that_cannot_be_used(self, url: str, words: str) -> None:
        with pytest.raises(ConfigError, match=words) as caught:
            Outbox(url)
        text = lines_of(caught.value)
        assert text.startswith("ConfigError('outbox: ")
        assert PASSWORD not in text
        assert "host" not in text
        assert "/no/such" not in text

    @pytest.mark.parametrize(
        ("url", "extra"), [("postgresql://h/d", "postgres"), ("mysql+pymysql://h/d", "mysql")]
    )
    def test_without_its_driver(
        self, url: str, extra: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = builtins.__import__

        def without(name: str, *rest: Any, **more: Any) -> Any:
            if name.partition(".")[0] in ("psycopg", "pymysql"):
                raise ModuleNotFoundError(f"No module named {name!r}")
            return real(name, *rest, **more)

        monkeypatch.setattr(builtins, "__import__", without)
        with pytest.raises(ConfigError, match=rf"pip install 'cubehook\[{extra}\]'") as caught:
            Outbox(url)
        lines_of(caught.value)

    def test_is_in_no_repr(self) -> None:
        outbox = Outbox(f"postgresql://user:{PASSWORD}@192.0.2.1/db")
        assert repr(outbox) == "<Outbox on postgresql>"
        outbox.close()

    def test_what_it_says_of_the_connection_counts(self, tmp_path: Path) -> None:
        outbox = Outbox(sqlite_url(tmp_path / "x.db") + "?timeout=1.5")
        with engine_of(outbox).connect() as connection:
            assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 1500
        outbox.close()


class TestLogging:
    def test_sqlalchemy_logs_nothing_of_ours(
        self, outbox: Outbox, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        caplog.set_level(logging.DEBUG, "sqlalchemy")
        verbose = Outbox(engine_of(outbox).url.render_as_string(hide_password=False))
        verbose.add([(message("1", body=b"payload"), (OPS,))])
        assert lease(verbose)[0].message.body == b"payload"
        verbose.close()
        assert [one for one in caplog.records if one.name.startswith("sqlalchemy")] == []


class TestDamaged:
    def test_a_file_of_another_kind_is_left_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "outbox.db"
        path.write_bytes(b"important notes\n" * 100)
        with pytest.raises(ConfigError, match="is no SQLite database; it was left as it is"):
            Outbox(sqlite_url(path))
        assert path.read_bytes() == b"important notes\n" * 100
        assert [one.name for one in tmp_path.iterdir()] == ["outbox.db"]

    def test_a_damaged_file_is_left_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "outbox.db"
        outbox = Outbox(sqlite_url(path))
        add(outbox, "a1")
        outbox.close()
        sound = path.read_bytes()
        path.write_bytes(sound[:100] + b"\xff" * (len(sound) - 100))
        damaged = path.read_bytes()
        for use in (lambda: add(outbox, "a2"), lambda: lease(outbox), outbox.counts):
            with pytest.raises(ConfigError, match="damaged; it was left as it is") as caught:
                use()
            lines_of(caught.value)
        outbox.close()
        assert path.read_bytes() == damaged

    def test_an_empty_file_is_a_new_database(self, tmp_path: Path) -> None:
        path = tmp_path / "outbox.db"
        path.touch()
        outbox = Outbox(sqlite_url(path))
        assert add(outbox, "a1") == 1
        outbox.close()


class TestUnavailable:
    @pytest.mark.parametrize("scheme", ["postgresql", "mysql"])
    def test_a_server_that_is_down(self, scheme: str, dead_url: str) -> None:
        port = dead_url.split(":")[2].split("/", maxsplit=1)[0]
        outbox = Outbox(f"{scheme}://user:{PASSWORD}@127.0.0.1:{port}/db")
        with pytest.raises(OutboxUnavailableError) as caught:
            add(outbox, "a1")
        text = lines_of(caught.value)
        assert text == "OutboxUnavailableError('the database cannot be reached')"
        outbox.close()

    def test_is_used_again_when_it_is_back(self, outbox: Outbox) -> None:
        add(outbox, "a1")

        def broken(*_: object) -> None:
            raise exc.OperationalError("SELECT secret", {}, Exception(PASSWORD))

        event.listen(engine_of(outbox), "before_cursor_execute", broken)
        with pytest.raises(OutboxUnavailableError) as caught:
            lease(outbox)
        assert lines_of(caught.value) == "OutboxUnavailableError('the database failed')"
        event.remove(engine_of(outbox), "before_cursor_execute", broken)
        assert len(lease(outbox)) == 1

    def test_a_lost_connection_is_made_again(
        self, kind: str, outbox: Outbox, open_outbox: Callable[..., Outbox]
    ) -> None:
        if kind == "sqlite":
            pytest.skip("there is no server")
        outbox.prepare()
        ask = {"postgresql": "SELECT pg_backend_pid()", "mysql": "SELECT CONNECTION_ID()"}[kind]
        kill = {"postgresql": "SELECT pg_terminate_backend({})", "mysql": "KILL {}"}[kind]
        with engine_of(outbox).connect() as connection:
            session = connection.exec_driver_sql(ask).scalar()
        with engine_of(open_outbox()).connect() as connection:
            connection.exec_driver_sql(kill.format(session))
        assert add(outbox, "a1") == 1

    def test_a_lock_is_waited_for_and_not_for_ever(
        self, open_outbox: Callable[..., Outbox], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        add(open_outbox(), "a1")
        leased = lease(open_outbox())
        monkeypatch.setattr(_engine, "LOCK_SECONDS", 0.05)
        hasty = open_outbox()
        hasty.prepare()
        done = []

        def while_locked(connection: Any) -> None:
            with pytest.raises(OutboxUnavailableError, match="the database is locked") as caught:
                hasty.extend(leased, 10.0)
            done.append(lines_of(caught.value))

        def lock(connection: Any) -> None:
            connection.exec_driver_sql("UPDATE cubehook_deliveries SET attempts = 0")
            while_locked(connection)

        open_outbox()._database.run(lock, Mode.DURABLE)
        assert done

    def test_a_full_disk(self, tmp_path: Path) -> None:
        outbox = Outbox(sqlite_url(tmp_path / "outbox.db"))
        outbox.prepare()
        engine_of(outbox).dispose()

        @event.listens_for(engine_of(outbox), "connect")
        def limit(connection: Any, _record: object) -> None:
            connection.execute("PRAGMA max_page_count = 20")

        with pytest.raises(OutboxUnavailableError, match="the database is full"):
            outbox.add([(message("1", body=b"x" * 500_000), (OPS,))])
        assert outbox.counts() == {}
        outbox.close()


class CodedError(Exception):
    """Like psycopg's, which has its code as an attribute."""

    __module__ = "psycopg.errors"

    def __init__(self, sqlstate: str | None) -> None:
        self.sqlstate = sqlstate


class TestPhrases:
    @pytest.mark.parametrize(
        ("error", "phrase"),
        [
            (sqlite3.OperationalError("database is locked"), _failures.LOCKED),
            (sqlite3.OperationalError("database or disk is full"), _failures.FULL),
            (sqlite3.DatabaseError("database disk image is malformed"), _failures.DAMAGED),
            (sqlite3.DatabaseError("file is not a database"), _failures.NO_DATABASE),
            (sqlite3.OperationalError("unable to open database file"), _failures.UNREACHABLE),
            (sqlite3.OperationalError("something new"), _failures.FAILED),
            (pymysql.OperationalError(1205, "x"), _failures.LOCKED),
            (pymysql.OperationalError(1114, "x"), _failures.FULL),
            (pymysql.OperationalError(2003, "x"), _failures.UNREACHABLE),
            (pymysql.ProgrammingError(1146, "x"), _failures.NO_TABLES),
            (pymysql.InterfaceError(0, ""), _failures.UNREACHABLE),
            (pymysql.Error(), _failures.UNREACHABLE),
            (CodedError(None), _failures.UNREACHABLE),
            (CodedError("55P03"), _failures.LOCKED),
            (CodedError("53100"), _failures.FULL),
            (CodedError("57P01"), _failures.UNREACHABLE),
            (CodedError("42P01"), _failures.NO_TABLES),
            (CodedError("25006"), _failures.READ_ONLY),
            (CodedError("22001"), _failures.FAILED),
            (ConnectionResetError(), _failures.UNREACHABLE),
            (exc.InvalidRequestError("SQLAlchemy's own"), _failures.FAILED),
            (exc.OperationalError("SQL", {}, CodedError("40P01")), _failures.LOCKED),
        ],
    )
    def test_what_is_said(self, error: Exception, phrase: str) -> None:
        assert _failures.phrase(error) == phrase

    @pytest.mark.parametrize(
        ("error", "collision"),
        [
            (exc.OperationalError("", {}, CodedError("40P01")), True),
            (exc.OperationalError("", {}, pymysql.OperationalError(1213, "x")), True),
            (exc.OperationalError("", {}, CodedError("55P03")), False),
            (exc.OperationalError("", {}, pymysql.OperationalError(1205, "x")), False),
            (OSError(1213), False),
        ],
    )
    def test_what_is_tried_again(self, error: Exception, collision: bool) -> None:
        assert _failures.is_collision(error) is collision


class TestSqlite:
    def test_commits_reach_the_disk_before_an_event_is_accepted(self, tmp_path: Path) -> None:
        outbox = Outbox(sqlite_url(tmp_path / "outbox.db"))
        outbox.prepare()
        levels = {
            mode: outbox._database.run(
                lambda connection: connection.exec_driver_sql("PRAGMA synchronous").scalar(), mode
            )
            for mode in (Mode.DURABLE, Mode.RELAXED)
        }
        assert levels == {Mode.DURABLE: 2, Mode.RELAXED: 1}
        with engine_of(outbox).connect() as connection:
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        outbox.close()

    def test_threads_take_turns(self, tmp_path: Path) -> None:
        outbox = Outbox(sqlite_url(tmp_path / "outbox.db") + "?timeout=0")
        outbox.prepare()
        threads = [
            threading.Thread(target=lambda n=n: [add(outbox, f"{n}{i}") for i in range(10)])  # type: ignore[misc]
            for n in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(outbox.list()) == 40
        outbox.close()


class TestPostgres:
    def test_what_may_be_lost_does_not_wait_for_the_disk(self, kind: str, outbox: Outbox) -> None:
        if kind != "postgresql":
            pytest.skip("it is PostgreSQL's setting")
        levels = [
            outbox._database.run(
                lambda connection: connection.exec_driver_sql("SHOW synchronous_commit").scalar(),
                mode,
            )
            for mode in (Mode.DURABLE, Mode.RELAXED, Mode.DURABLE)
        ]
        assert levels == ["on", "off", "on"]


class TestMysql:
    def test_a_fork_waits_while_tls_is_prepared_and_not_for_the_network(
        self, kind: str, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """OpenSSL has locks that a child would find held for ever: PyMySQL makes a TLS context."""
        if kind != "mysql":
            pytest.skip("it is PyMySQL's way")
        steps = []

        def watch(step: str) -> None:
            original = getattr(pymysql.connections.Connection, step)

            def watched(*args: Any, **options: Any) -> Any:
                steps.append((step, forks.kept_out._is_owned()))  # type: ignore[attr-defined]
                return original(*args, **options)

            monkeypatch.setattr(pymysql.connections.Connection, step, watched)

        watch("__init__")
        watch("connect")
        outbox.prepare()
        assert steps == [("__init__", True), ("connect", False)]
