"""Leases: to one worker at a time, in the order of each key, for a limited time."""

from __future__ import annotations

import random
import threading
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from stored import (
    LOOSE,
    OK,
    OPS,
    REFUSED,
    add,
    engine_of,
    ids,
    lease,
    message,
    retry_at,
    rows,
    run_children,
    settle,
)

from cubehook.outbox import Outbox, Result, Status, Target, _lanes


class TestLease:
    def test_nothing_comes_of_nothing(self, outbox: Outbox) -> None:
        assert lease(outbox) == []
        add(outbox, "a1")
        assert lease(outbox, "other") == []

    def test_tells_all_of_a_delivery(self, outbox: Outbox, clock: Any) -> None:
        outbox.add([(message("1", "k"), (OPS, LOOSE))])
        first, second = lease(outbox, "ops", "loose")
        assert (first.endpoint, first.chained, second.endpoint, second.chained) == (
            *("ops", True),
            *("loose", False),
        )
        assert first.message == second.message == message("1", "k")
        assert (first.attempts, first.due, first.expires) == (0, clock.now, clock.now + 30)

    def test_limits_each_endpoint_by_itself(self, outbox: Outbox) -> None:
        add(outbox, *"abcdef", targets=(OPS, LOOSE, Target("third")))
        leased = lease(outbox, "ops", "loose", "third", limit=2)
        assert [one.endpoint for one in leased] == ["ops"] * 2 + ["loose"] * 2 + ["third"] * 2
        assert ids(lease(outbox, limit=2)) == ["c", "d"]
        assert ids(lease(outbox, limit=5)) == ["e", "f"]

    def test_takes_what_is_due_first(self, outbox: Outbox, clock: Any) -> None:
        add(outbox, "a1", "b1", "c1")
        for one, when in zip(lease(outbox), (1030.0, 1010.0, 1020.0), strict=True):
            settle(outbox, [one], retry_at(when))
        assert lease(outbox) == []
        clock.advance(20)
        add(outbox, "d1")
        assert ids(lease(outbox)) == ["b1", "c1", "d1"]

    def test_an_expired_lease_is_taken_over(
        self, open_outbox: Callable[..., Outbox], clock: Any
    ) -> None:
        mine, others = open_outbox(), open_outbox()
        add(mine, "a1", "a2")
        [first] = lease(mine)
        clock.advance(29.9)
        assert lease(others) == []
        clock.advance(0.2)
        [second] = lease(others)
        assert second.message == first.message
        assert settle(mine, [first]) == 1
        assert others.show(first.id).record.status is Status.LEASED  # type: ignore[union-attr]
        assert settle(others, [second]) == 0
        assert ids(lease(mine)) == ["a2"]

    def test_two_at_once_never_get_the_same(self, open_outbox: Callable[..., Outbox]) -> None:
        outbox = open_outbox()
        outbox.add([(message(f"{n}", f"{n}"), (OPS, LOOSE)) for n in range(100)])
        together = threading.Barrier(3)
        leased: list[tuple[str, str]] = []

        def work(outbox: Outbox) -> None:
            together.wait()
            while found := lease(outbox, "ops", "loose", limit=7):
                leased.extend((one.endpoint, one.message.id) for one in found)
                settle(outbox, found)

        threads = [threading.Thread(target=work, args=(open_outbox(),)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # Whoever finds another worker at it may have stopped early.
        leased += [(one.endpoint, one.message.id) for one in drained(outbox)]
        assert sorted(leased) == sorted(
            (endpoint, str(n)) for endpoint in ("ops", "loose") for n in range(100)
        )

    @pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
    def test_nor_do_two_processes(self, outbox: Outbox, tmp_path: Path) -> None:
        outbox.add([(message(f"{n}", f"{n % 20}"), (OPS,)) for n in range(60)])

        def work(file: Path) -> None:
            with file.open("w") as leased:
                while found := lease(outbox, limit=7):
                    leased.writelines(f"{one.message.id}\n" for one in found)
                    settle(outbox, found)

        files = [tmp_path / name for name in ("first", "second")]
        run_children([partial(work, file) for file in files])
        leased = [line for file in files for line in file.read_text().split()]
        leased += [one.message.id for one in drained(outbox)]
        assert sorted(leased) == sorted(str(n) for n in range(60))


def drained(outbox: Outbox) -> list[Any]:
    """Everything that is left, delivered."""
    everything = []
    while found := lease(outbox, "ops", "loose"):
        everything += found
        settle(outbox, found)
    return everything


class TestOrder:
    def test_one_of_a_key_at_a_time(self, outbox: Outbox) -> None:
        add(outbox, "a1", "a2", "b1", "a3")
        first = lease(outbox)
        assert ids(first) == ["a1", "b1"]
        assert lease(outbox) == []
        settle(outbox, first)
        second = lease(outbox)
        assert ids(second) == ["a2"]
        settle(outbox, second)
        assert ids(lease(outbox)) == ["a3"]

    def test_another_endpoint_has_its_own(self, outbox: Outbox) -> None:
        add(outbox, "a1", "a2", targets=(OPS, Target("other")))
        settle(outbox, lease(outbox))
        assert ids(lease(outbox, "ops", "other")) == ["a2", "a1"]

    def test_without_order_or_key_there_is_none(self, outbox: Outbox) -> None:
        add(outbox, "a1", "a2", targets=(LOOSE,))
        outbox.add([(message("x"), (OPS,)), (message("y"), (OPS,))])
        assert ids(lease(outbox, "loose", "ops")) == ["a1", "a2", "x", "y"]

    def test_a_retry_holds_back_its_own_key_only(self, outbox: Outbox, clock: Any) -> None:
        add(outbox, "a1", "a2", "b1", "b2")
        a1, b1 = lease(outbox)
        settle(outbox, [a1], retry_at(clock.now + 60))
        settle(outbox, [b1])
        b2 = lease(outbox)
        assert ids(b2) == ["b2"]
        settle(outbox, b2)
        assert lease(outbox) == []
        clock.advance(60)
        assert ids(lease(outbox)) == ["a1"]

    def test_what_is_dead_lets_the_next_one_go(self, outbox: Outbox) -> None:
        add(outbox, "a1", "a2")
        settle(outbox, lease(outbox), REFUSED)
        assert ids(lease(outbox)) == ["a2"]

    def test_a_key_with_a_long_backlog_does_not_hold_up_the_others(self, outbox: Outbox) -> None:
        add(outbox, *(f"a{n}" for n in range(450)), "b1")
        assert [ids(lease(outbox, limit=10)) for _ in range(3)] == [["a0"], [], ["b1"]]

    def test_more_new_than_a_lease_takes(self, outbox: Outbox) -> None:
        names = [f"{n:03}" for n in range(30)]
        outbox.add([(message(name, name), (OPS,)) for name in names])
        assert [ids(lease(outbox, limit=20)) for _ in range(3)] == [names[:20], names[20:], []]

    def test_what_is_released_is_the_same_workers_turn_again(
        self, outbox: Outbox, clock: Any
    ) -> None:
        add(outbox, "a1", "a2", "b1")
        leased = lease(outbox)
        clock.advance(1)
        add(outbox, "c1")
        outbox.release(leased)
        again = lease(outbox)
        assert ids(again) == ["a1", "b1", "c1"]
        assert [one.attempts for one in again] == [0, 0, 0]
        outbox.release(leased)  # of a lease that is lost: nothing
        assert lease(outbox) == []

    @pytest.mark.parametrize("seed", range(2))
    def test_whatever_happens(
        self, open_outbox: Callable[..., Outbox], clock: Any, seed: int
    ) -> None:
        """Two workers at random, with failures, losses and replays: one of a key at a time."""
        chance = random.Random(seed)
        workers = [open_outbox(), open_outbox()]
        held: list[list[Any]] = [[], []]
        count = 0
        for _ in range(70):
            number = chance.randrange(2)
            outbox, mine = workers[number], held[number]
            move = chance.choice(["add", "lease", "settle", "settle", "wait", "release", "replay"])
            if move == "add":
                count += 5
                add(outbox, *(f"{chance.choice('abc')}{count + n}" for n in range(5)))
            elif move == "lease":
                mine += lease(outbox, limit=chance.randrange(1, 4))
            elif move == "settle":
                outcomes = (OK, OK, REFUSED, retry_at(clock.now + chance.choice([0, 20])))
                outbox.settle([Result(one, chance.choice(outcomes), clock.now) for one in mine])
                mine.clear()
            elif move == "wait":
                clock.advance(chance.choice([1, 31]))
            elif move == "release":
                outbox.release(mine)
                mine.clear()
            else:
                list(outbox.replay())
            valid = [one for each in held for one in each if one.expires > clock.now]
            keys = [one.message.key for one in valid]
            assert len(keys) == len(set(keys))
        clock.advance(31)
        drained(workers[0])
        assert set(workers[0].counts().get("ops", {})) <= {Status.DELIVERED, Status.DEAD}

    def test_two_workers_and_an_adder_at_once(self, open_outbox: Callable[..., Outbox]) -> None:
        done = threading.Event()
        lock = threading.Lock()
        sent: dict[str, list[int]] = defaultdict(list)
        in_flight: set[str] = set()
        problems: list[str] = []

        def work(outbox: Outbox) -> None:
            while True:
                last = done.is_set()
                found = lease(outbox, limit=5)
                if last and not found and not outbox.wanted(["ops"]):
                    return
                with lock:
                    for one in found:
                        if one.message.key in in_flight:
                            problems.append(one.message.id)
                        in_flight.add(str(one.message.key))
                        sent[str(one.message.key)].append(int(one.message.id[1:]))
                with lock:
                    in_flight.difference_update(str(one.message.key) for one in found)
                settle(outbox, found)

        adder = open_outbox()
        adder.prepare()
        threads = [threading.Thread(target=work, args=(open_outbox(),)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for number in range(40):
            add(adder, *(f"{key}{number}" for key in "abcd"))
        done.set()
        for thread in threads:
            thread.join()
        assert problems == []
        assert sent == {key: list(range(40)) for key in "abcd"}


class TestLaneLock:
    """Only servers have one; what is new is put in its place by one worker at a time."""

    @pytest.fixture(autouse=True)
    def _server(self, kind: str) -> None:
        if kind == "sqlite":
            pytest.skip("one transaction writes at a time")

    def test_without_it_what_is_in_its_place_is_claimed(self, outbox: Outbox) -> None:
        add(outbox, "a1", "b1")
        outbox.release(lease(outbox))
        add(outbox, "a2", "c1")
        with engine_of(outbox).begin() as connection:
            _lanes.lock(connection, ["ops"])
            assert ids(lease(outbox)) == ["a1", "b1"]
        assert ids(lease(outbox)) == ["c1"]

    def test_settling_waits_for_it_to_let_the_next_one_go(self, outbox: Outbox) -> None:
        add(outbox, "a1")
        first = lease(outbox)
        add(outbox, "a2")
        settled = threading.Event()

        def work() -> None:
            settle(outbox, first)
            settled.set()

        other = threading.Thread(target=work)
        with engine_of(outbox).begin() as connection:
            _lanes.lock(connection, ["ops"])
            other.start()
            assert not settled.wait(0.1)
        other.join()
        assert ids(lease(outbox)) == ["a2"]

    def test_a_retry_does_not_need_it(self, outbox: Outbox, clock: Any) -> None:
        add(outbox, "a1")
        first = lease(outbox)
        with engine_of(outbox).begin() as connection:
            _lanes.lock(connection, ["ops"])
            assert settle(outbox, first, retry_at(clock.now)) == 0


class TestCost:
    """What a lease and what follows cost must not depend on how much is stored."""

    def test_every_statement_takes_an_index(self, kind: str, outbox: Outbox, clock: Any) -> None:
        if kind != "sqlite":
            pytest.skip("a server's plan depends on how much is stored")
        statements: dict[str, Any] = {}

        def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
            if statement.startswith(("SELECT", "UPDATE", "DELETE")):
                statements.setdefault(statement, parameters)

        add(outbox, "a1", "a2", "b1", "c1", targets=(OPS, LOOSE))
        event.listen(engine_of(outbox), "before_cursor_execute", note)
        leased = lease(outbox, "ops", "loose", limit=2)
        settle(outbox, outbox.extend(leased[:1], 30.0))
        outbox.release(leased[1:2])
        settle(outbox, leased[2:3], retry_at(clock.now))
        event.remove(engine_of(outbox), "before_cursor_execute", note)
        assert len(statements) > 10
        with engine_of(outbox).connect() as connection:
            for statement, parameters in statements.items():
                one = parameters[0] if isinstance(parameters, list) else parameters
                plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", one).all()
                steps = {row.detail for row in plan} - {"SCAN CONSTANT ROW"}
                assert not [step for step in steps if "SCAN" in step or "TEMP" in step], statement


class TestExtend:
    def test_prolongs(self, open_outbox: Callable[..., Outbox], clock: Any) -> None:
        mine, others = open_outbox(), open_outbox()
        add(mine, "a1", "b1")
        leased = lease(mine)
        clock.advance(20)
        longer = mine.extend(leased[:1], 30.0)
        assert [(one.id, one.expires) for one in longer] == [(leased[0].id, clock.now + 30)]
        clock.advance(15)
        assert ids(lease(others)) == ["b1"]
        assert settle(mine, longer) == 0

    def test_not_what_is_lost(self, outbox: Outbox, clock: Any) -> None:
        add(outbox, "a1", "b1")
        a1, b1 = lease(outbox)
        settle(outbox, [a1])
        clock.advance(31)
        assert [one.id for one in outbox.extend([a1, b1], 30.0)] == [b1.id]  # nobody has taken it
        clock.advance(31)
        lease(outbox)
        assert outbox.extend([a1, b1], 30.0) == []


class TestWanted:
    def test_says_when_to_look_next(self, outbox: Outbox, clock: Any) -> None:
        assert outbox.wanted(["ops", "loose"]) == {}
        add(outbox, "a1", "a2", targets=(OPS, LOOSE))
        assert outbox.wanted(["ops", "loose", "other"]) == {"ops": 0.0, "loose": clock.now}
        leased = lease(outbox)
        assert outbox.wanted(["ops"]) == {"ops": clock.now + 30}
        settle(outbox, leased, retry_at(1234.5))
        assert outbox.wanted(["ops"]) == {"ops": 1234.5}

    def test_moments_are_exact_to_the_microsecond(self, outbox: Outbox, clock: Any) -> None:
        clock.now = 1_790_000_000.123457
        add(outbox, "a1")
        settle(outbox, lease(outbox), retry_at(clock.now))
        assert outbox.wanted(["ops"]) == {"ops": 1_790_000_000.123457}
        assert lease(outbox)[0].due == 1_790_000_000.123457

    def test_a_poll_that_finds_nothing_writes_nothing(
        self, outbox: Outbox, monkeypatch: pytest.MonkeyPatch, clock: Any
    ) -> None:
        add(outbox, "a1")
        settle(outbox, lease(outbox), retry_at(clock.now + 1))
        before = rows(outbox)
        monkeypatch.setattr("cubehook.outbox._leasing.lease", None)
        assert lease(outbox) == []
        assert rows(outbox) == before
