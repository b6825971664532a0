"""Adding: once each, all or nothing, and exactly what was given."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

import pytest
from sqlalchemy import Connection, create_engine, event
from sqlalchemy.orm import Session
from stored import (
    LOOSE,
    OK,
    OPS,
    add,
    engine_of,
    ids,
    in_child,
    lease,
    message,
    rows,
    settle,
)

from cubehook import ConfigError
from cubehook.outbox import Outbox, OutboxUnavailableError, Status, Target, enqueue

BODIES = {
    "every byte": bytes(range(256)),
    "not UTF-8": b"\xff\xfe\xed\xa0\x80",
    "NUL": b"\0a\0",
    "emoji": "🧊".encode(),
    "looks like SQL": b"'; \\' %s %(a)s :a ? $1 --",
    "1 MiB": os.urandom(1_048_576),
    "empty": b"",
}
KEYS = ["a", "a ", "A", "á", "ä", "a\0", "🧊", "\udcff", "", "k" * 100_000]


class TestAdd:
    def test_says_how_many_are_new(self, outbox: Outbox) -> None:
        batch = [(message("1"), (OPS, LOOSE)), (message("2"), (OPS,))]
        assert outbox.add(batch) == 3
        assert outbox.add(batch) == 0
        assert outbox.add([(message("2"), (OPS, LOOSE))]) == 1
        assert rows(outbox)["deliveries"] == 4

    def test_leaves_what_is_there_as_it_is(self, outbox: Outbox) -> None:
        outbox.add([(message("1", body=b"first"), (OPS,))])
        assert outbox.add([(message("1", body=b"second"), (OPS,))]) == 0
        [one] = lease(outbox)
        assert one.message.body == b"first"
        assert rows(outbox)["events"] == 1

    def test_takes_the_first_of_what_is_twice_in_a_batch(self, outbox: Outbox) -> None:
        batch = [(message("1", body=b"first"), (OPS, OPS)), (message("1"), (OPS,))]
        assert outbox.add(batch) == 1
        assert lease(outbox)[0].message.body == b"first"

    def test_stores_one_event_for_all_its_endpoints(self, outbox: Outbox) -> None:
        outbox.add([(message("1"), [Target(f"e{n}") for n in range(5)])])
        assert rows(outbox) == {"events": 1, "deliveries": 5, "attempts": 0}

    def test_stores_one_event_for_each_format(self, outbox: Outbox) -> None:
        batch = [(message("1", body=b"cube"), (OPS,)), (message("1", body=b"other"), (LOOSE,))]
        assert outbox.add(batch) == 2
        assert [one.message.body for one in lease(outbox, "ops", "loose")] == [b"cube", b"other"]

    def test_an_empty_batch_is_nothing(self, outbox: Outbox) -> None:
        assert outbox.add([]) == 0
        assert outbox.add([(message("1"), ())]) == 0
        assert rows(outbox)["events"] == 0

    def test_keeps_the_order_of_a_large_batch(self, outbox: Outbox) -> None:
        names = [f"k{n}" for n in range(1200)]
        assert add(outbox, *names, targets=(LOOSE,)) == 1200
        assert ids(lease(outbox, "loose", limit=2000)) == names

    @pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
    def test_the_body_is_kept_byte_for_byte(self, outbox: Outbox, body: bytes) -> None:
        outbox.add([(message("1", body=body), (OPS,))])
        assert lease(outbox)[0].message == message("1", body=body)

    def test_many_large_bodies(self, outbox: Outbox) -> None:
        bodies = [bytes([n]) * 1_048_576 for n in range(12)]
        batch = [(message(str(n), body=body), (LOOSE,)) for n, body in enumerate(bodies)]
        assert outbox.add(batch) == 12
        assert [one.message.body for one in lease(outbox, "loose")] == bodies

    def test_keys_are_kept_and_told_apart(self, outbox: Outbox) -> None:
        outbox.add([(message(str(n), key), (OPS,)) for n, key in enumerate(KEYS)])
        assert [one.message.key for one in lease(outbox)] == KEYS

    def test_names_are_told_apart(self, outbox: Outbox) -> None:
        names = ["ops", "ops ", "Ops", "óps", "🧊" * 64]
        assert outbox.add([(message("id"), [Target(name) for name in names])]) == 5
        assert outbox.add([(message("ID"), [Target("ops")])]) == 1
        assert [one.endpoint for one in lease(outbox, *names)] == ["ops", *names]

    @pytest.mark.parametrize(
        "wrong",
        [
            (message("1", body=b"x" * 1_048_577), OPS),
            (message("i" * 129), OPS),
            (message(""), OPS),
            (message("1", event="e" * 129), OPS),
            (message("1\n"), OPS),
            (message("1"), Target("o" * 65)),
        ],
    )
    def test_what_could_not_be_stored_is_refused_with_the_batch(
        self, outbox: Outbox, wrong: tuple[object, Target]
    ) -> None:
        with pytest.raises(ValueError, match="must be"):
            outbox.add([(message("0"), (OPS,)), (wrong[0], (wrong[1],))])  # type: ignore[list-item]
        assert rows(outbox)["events"] == 0

    def test_without_returning_it_is_the_same(self, outbox: Outbox) -> None:
        """As MySQL is, and SQLite before 3.35."""
        outbox.prepare()
        engine_of(outbox).dialect.insert_executemany_returning = False
        assert add(outbox, "a1", "a2", "b1") == 3
        assert add(outbox, "a1", "a2", "b2") == 1
        assert ids(lease(outbox)) == ["a1", "b1"]
        assert rows(outbox)["events"] == 4


class TestAddingAtOnce:
    def test_two_that_add_the_same(self, open_outbox: Callable[..., Outbox]) -> None:
        """In opposite orders: where rows are locked, they get in each other's way."""
        names = [f"{n}" for n in range(300)]
        adders = [(open_outbox(), names), (open_outbox(), names[::-1])]
        adders[0][0].prepare()
        together = threading.Barrier(2)
        counts: list[int] = []

        def work(outbox: Outbox, given: list[str]) -> None:
            together.wait()
            counts.append(outbox.add([(message(one), (OPS, LOOSE)) for one in given]))

        threads = [threading.Thread(target=work, args=adder) for adder in adders]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(counts) == 600
        assert rows(adders[0][0])["events"] == 300

    @pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
    def test_killed_in_the_middle_nothing_is_stored(self, url: str, outbox: Outbox) -> None:
        def die() -> bool:
            def kill(*_: object) -> None:
                os.kill(os.getpid(), signal.SIGKILL)

            other = Outbox(url)
            event.listen(engine_of(other), "commit", kill)
            other.add([(message("1"), (OPS,)), (message("2"), (OPS,))])
            return True

        outbox.prepare()
        assert not in_child(die)
        assert rows(outbox) == {"events": 0, "deliveries": 0, "attempts": 0}
        assert add(outbox, "1", "2") == 2  # no lock of the dead is in the way


class TestEnqueue:
    def test_delivers_if_the_transaction_commits(self, url: str, outbox: Outbox) -> None:
        outbox.prepare()
        engine = create_engine(url)
        with engine.begin() as connection:
            assert enqueue(connection, [(message("1", "k"), (OPS,))]) == 1
            assert enqueue(connection, [(message("1", "k"), (OPS,))]) == 0
        engine.dispose()
        assert ids(lease(outbox)) == ["1"]

    def test_delivers_nothing_if_it_does_not(self, url: str, outbox: Outbox) -> None:
        outbox.prepare()
        engine = create_engine(url)
        with Session(engine) as session:
            enqueue(session.connection(), [(message("1", "k"), (OPS,))])
            session.rollback()
        engine.dispose()
        assert lease(outbox) == []
        assert rows(outbox) == {"events": 0, "deliveries": 0, "attempts": 0}

    def test_needs_the_tables(self, bare_url: str) -> None:
        engine = create_engine(bare_url)
        with engine.connect() as connection, pytest.raises(ConfigError, match="no outbox tables"):
            enqueue(connection, [(message("1"), (OPS,))])
        engine.dispose()

    def test_a_failure_tells_nothing_of_the_payload(self, url: str, outbox: Outbox) -> None:
        outbox.prepare()
        engine = create_engine(url)

        def fail(connection: Connection, *_: object) -> None:
            connection.connection.driver_connection.close()  # type: ignore[union-attr]

        event.listen(engine, "before_cursor_execute", fail)
        with engine.connect() as connection, pytest.raises(OutboxUnavailableError) as caught:
            enqueue(connection, [(message("1", body=b"payload"), (OPS,))])
        assert "payload" not in repr(caught.value)
        assert caught.value.__context__ is None
        engine.dispose()

    def test_an_app_that_takes_its_time_holds_nobody_up(
        self, kind: str, url: str, outbox: Outbox
    ) -> None:
        if kind == "sqlite":
            pytest.skip("one transaction writes at a time")
        add(outbox, "k1")
        engine = create_engine(url)
        with engine.begin() as connection:
            enqueue(connection, [(message("k2", "k"), (OPS,)), (message("j1", "j"), (OPS,))])
            assert add(outbox, "k3") == 1
            first = lease(outbox)
            assert ids(first) == ["k1"]
            settle(outbox, first, OK)
            third = lease(outbox)
            assert ids(third) == ["k3"]  # what is not committed has no place in the order
        engine.dispose()
        assert ids(lease(outbox)) == ["j1"]
        settle(outbox, third, OK)
        assert ids(lease(outbox)) == ["k2"]

    def test_the_same_event_from_an_app_and_from_a_handler(
        self, kind: str, url: str, outbox: Outbox
    ) -> None:
        if kind == "sqlite":
            pytest.skip("one transaction writes at a time")
        outbox.prepare()
        engine = create_engine(url)
        counts: list[int] = []
        other = threading.Thread(target=lambda: counts.append(add(outbox, "k1")))
        with engine.begin() as connection:
            counts.append(enqueue(connection, [(message("k1", "k"), (OPS,))]))
            other.start()  # it has to wait for what becomes of ours
        other.join()
        engine.dispose()
        assert sorted(counts) == [0, 1]
        assert outbox.counts() == {"ops": {Status.WAITING: 1}}
