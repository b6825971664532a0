"""The tables: made once by whoever comes first, brought forward step by step."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
from sqlalchemy import Connection, inspect, select, text, update
from stored import OPS, engine_of, in_child, lease, message, run_children

from cubehook import ConfigError
from cubehook.outbox import Outbox, schema
from cubehook.outbox._engine import Mode

PATIENCE = 10.0
NOW = 1 + len(schema.STEPS)
"""The version of the tables that this code makes."""


def version(outbox: Outbox) -> int | None:
    with engine_of(outbox).connect() as connection:
        return connection.scalar(select(schema.schema_version.c.version))


def prepare(outbox: Outbox, steps: Sequence[schema.Step]) -> None:
    """With these steps more."""
    steps = (*schema.STEPS, *steps)
    outbox._database.run(lambda connection: schema.prepare(connection, steps), Mode.DURABLE)


def add_column(connection: Connection) -> None:
    columns = {one["name"] for one in inspect(connection).get_columns("cubehook_lanes")}
    if "remark" not in columns:
        connection.execute(text("ALTER TABLE cubehook_lanes ADD COLUMN remark INTEGER"))


class TestTables:
    def test_are_made_when_first_used(self, bare_url: str) -> None:
        outbox = Outbox(bare_url)
        assert outbox.add([(message("1"), (OPS,))]) == 1
        assert version(outbox) == NOW
        names = inspect(engine_of(outbox)).get_table_names()
        assert {name for name in names if name.startswith("cubehook_")} == {
            *("cubehook_events", "cubehook_deliveries", "cubehook_attempts"),
            *("cubehook_lanes", "cubehook_schema_version"),
            *("cubehook_endpoints", "cubehook_endpoints_revision"),
        }
        outbox.close()

    @pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
    def test_are_made_once_by_many_processes(self, bare_url: str) -> None:
        def use(number: int) -> None:
            assert Outbox(bare_url).add([(message(str(number)), (OPS,))]) == 1

        run_children(partial(use, number) for number in range(4))
        outbox = Outbox(bare_url)
        assert len(lease(outbox)) == 4
        assert version(outbox) == NOW
        outbox.close()

    def test_half_made_ones_are_completed(self, bare_url: str) -> None:
        """MariaDB commits after each statement, so a process can die in between."""
        outbox = Outbox(bare_url)
        schema.events.create(engine_of(outbox))
        schema.schema_version.create(engine_of(outbox))
        assert outbox.add([(message("1"), (OPS,))]) == 1
        outbox.close()

    def test_gone_ones_are_made_again(self, bare_url: str) -> None:
        outbox = Outbox(bare_url)
        outbox.prepare()
        schema.metadata.drop_all(engine_of(outbox))
        with pytest.raises(Exception, match="no outbox tables"):
            lease(outbox)
        assert lease(outbox) == []
        outbox.close()


class TestMigration:
    def test_goes_forward_step_by_step(self, bare_url: str) -> None:
        outbox = Outbox(bare_url)
        outbox.add([(message("1"), (OPS,))])
        taken: list[str] = []
        steps = [add_column, lambda connection: taken.append("second")]
        prepare(outbox, steps[:1])
        assert version(outbox) == NOW + 1
        prepare(outbox, steps)
        prepare(outbox, steps)
        assert version(outbox) == NOW + 2
        assert taken == ["second"]
        with engine_of(outbox).connect() as connection:
            assert connection.execute(text("SELECT remark FROM cubehook_lanes")).all() == []
        outbox.close()

    def test_a_step_that_fails_is_taken_again(self, bare_url: str) -> None:
        outbox = Outbox(bare_url)
        outbox.prepare()

        def fail(connection: Connection) -> None:
            add_column(connection)
            raise RuntimeError("out of luck")

        with pytest.raises(RuntimeError):
            prepare(outbox, [fail])
        assert version(outbox) == NOW
        prepare(outbox, [add_column])
        assert version(outbox) == NOW + 1
        outbox.close()

    def test_new_tables_are_made_in_their_latest_form(self, bare_url: str) -> None:
        outbox = Outbox(bare_url)
        prepare(outbox, [add_column])
        assert version(outbox) == NOW + 1
        outbox.close()

    def test_newer_tables_are_left_alone(self, bare_url: str) -> None:
        outbox = Outbox(bare_url)
        outbox.prepare()
        with engine_of(outbox).begin() as connection:
            connection.execute(update(schema.schema_version).values(version=NOW + 1))
        older = Outbox(bare_url)
        with pytest.raises(ConfigError, match="newer version of cubehook"):
            older.add([(message("1"), (OPS,))])
        older.close()
        outbox.close()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
class TestFork:
    def test_parent_and_child_both_go_on(self, outbox: Outbox) -> None:
        outbox.add([(message("1"), (OPS,)), (message("2"), (OPS,))])
        [first] = lease(outbox, limit=1)

        def child() -> bool:
            second = lease(outbox, limit=1)
            added = outbox.add([(message("3"), (OPS,))])
            outbox.close()
            return [one.message.id for one in second] == ["2"] and added == 1

        assert in_child(child)
        assert [one.message.id for one in lease(outbox)] == ["3"]
        assert outbox.extend([first], 5.0)

    def test_while_a_transaction_is_under_way(self, outbox: Outbox) -> None:
        outbox.prepare()

        def fork_inside(connection: Connection) -> bool:
            return in_child(lambda: outbox.wanted(["ops"]) == {})

        assert outbox._database.run(fork_inside, Mode.DURABLE)
        assert outbox.add([(message("1"), (OPS,))]) == 1

    def test_while_another_thread_makes_the_first_connection(
        self, kind: str, outbox: Outbox
    ) -> None:
        """An engine asks what its server can do once, in a thread that the child does not have."""
        if kind == "sqlite":
            pytest.skip("a fork waits for it")
        asking, may_ask = threading.Event(), threading.Event()
        dialect: Any = engine_of(outbox).dialect
        ask = dialect.initialize

        def ask_late(connection: Connection) -> None:
            asking.set()
            may_ask.wait(PATIENCE)
            ask(connection)

        dialect.initialize = ask_late
        other = threading.Thread(target=outbox.prepare)
        other.start()
        assert asking.wait(PATIENCE)

        def child() -> bool:
            outbox.prepare()
            return engine_of(outbox).dialect.server_version_info is not None

        try:
            assert in_child(child)
        finally:
            may_ask.set()
            other.join(PATIENCE)
        assert outbox.add([(message("1"), (OPS,))]) == 1
