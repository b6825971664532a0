"""What operators do: list, show, count, replay, prune."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from stored import (
    LOOSE,
    OPS,
    REFUSED,
    add,
    engine_of,
    ids,
    lease,
    message,
    retry_at,
    rows,
    settle,
)

from cubehook.outbox import Filter, Outbox, Status, Target, _upkeep


@pytest.fixture
def filled(outbox: Outbox, clock: Any) -> Outbox:
    """One of each status at ``ops``: delivered, dead, waiting, leased, held; all by the minute."""
    for number, name in enumerate(("a1", "b1", "c1", "d1", "d2")):
        clock.now = 1000.0 + 60 * number
        outbox.add([(message(name, name[0], event=f"sandbox.{name}"), (OPS,))])
    a1, b1, c1, _ = lease(outbox, owner="worker-1")
    settle(outbox, [a1])
    settle(outbox, [b1], REFUSED)
    settle(outbox, [c1], retry_at(2000.0))
    return outbox


def names(outbox: Outbox, **conditions: Any) -> list[str]:
    return [one.event_id for one in outbox.list(Filter(**conditions))]


class TestLooking:
    def test_counts(self, filled: Outbox) -> None:
        filled.add([(message("new", "n"), (OPS, LOOSE))])
        assert filled.counts() == {
            "loose": {Status.WAITING: 1},
            "ops": {
                Status.DELIVERED: 1,
                Status.DEAD: 1,
                Status.WAITING: 2,  # what is new with it
                Status.LEASED: 1,
                Status.HELD: 1,
            },
        }

    def test_lists_the_last_one_first(self, filled: Outbox) -> None:
        assert names(filled) == ["d2", "d1", "c1", "b1", "a1"]
        first = filled.list(limit=2)
        assert [one.event_id for one in first] == ["d2", "d1"]
        following = filled.list(limit=2, before=first[-1].id)
        assert [one.event_id for one in following] == ["c1", "b1"]

    def test_tells_what_it_knows(self, filled: Outbox, clock: Any) -> None:
        d2, d1, c1, b1, _ = filled.list()
        assert (d1.status, d1.owner, d1.expires) == (Status.LEASED, "worker-1", clock.now + 30)
        assert (d2.status, d2.due, d2.settled, d2.created) == (Status.HELD, None, None, 1240.0)
        assert (c1.status, c1.due, c1.reason, c1.attempts) == (
            *(Status.WAITING, 2000.0),
            *("status 503", 1),
        )
        assert (b1.status, b1.settled, b1.event) == (Status.DEAD, clock.now, "sandbox.b1")

    @pytest.mark.parametrize(
        ("conditions", "expected"),
        [
            ({"endpoint": "other"}, []),
            ({"endpoint": "ops", "statuses": (Status.DEAD, Status.HELD)}, ["d2", "b1"]),
            ({"statuses": (Status.WAITING,)}, ["c1"]),
            ({"event": "sandbox.c1"}, ["c1"]),
            ({"event": "sandbox.d*"}, ["d2", "d1"]),
            ({"event": "Sandbox.*"}, []),
            ({"event": "sandbox_*"}, []),
            ({"event": "*"}, ["d2", "d1", "c1", "b1", "a1"]),
            ({"event_id": "b1"}, ["b1"]),
            ({"since": 1120.0}, ["d2", "d1", "c1"]),
            ({"until": 1120.0}, ["b1", "a1"]),
            ({"since": 1060.0, "until": 1180.0, "event": "sandbox.*"}, ["c1", "b1"]),
        ],
    )
    def test_filters(self, filled: Outbox, conditions: dict[str, Any], expected: list[str]) -> None:
        assert names(filled, **conditions) == expected

    def test_shows_one(self, filled: Outbox) -> None:
        record = filled.list()[-1]
        shown = filled.show(record.id)
        assert shown is not None
        assert shown.record == record
        assert shown.message == message("a1", "a", event="sandbox.a1")
        assert [(one.number, one.reason) for one in shown.attempts] == [(1, "status 204")]
        assert filled.show(record.id - 1) is None


class TestReplay:
    def test_sends_again_what_is_dead(self, filled: Outbox, clock: Any) -> None:
        assert sum(filled.replay()) == 1
        [again] = lease(filled)
        assert (again.message.id, again.attempts) == ("b1", 0)
        assert again.message == message("b1", "b", event="sandbox.b1")
        settle(filled, [again])
        shown = filled.show(again.id)
        assert shown is not None
        assert [one.number for one in shown.attempts] == [1, 2]
        assert shown.record.attempts == 1

    def test_what_is_chosen(self, filled: Outbox) -> None:
        assert sum(filled.replay(Filter(event="sandbox.a*"))) == 0
        assert sum(filled.replay(Filter(event="sandbox.a*", statuses=(Status.DELIVERED,)))) == 1
        assert ids(lease(filled)) == ["a1"]

    @pytest.mark.parametrize("status", [Status.WAITING, Status.HELD, Status.LEASED])
    def test_not_what_is_under_way(self, filled: Outbox, status: Status) -> None:
        with pytest.raises(ValueError, match="dead or delivered"):
            list(filled.replay(Filter(statuses=(Status.DEAD, status))))

    @pytest.mark.parametrize("chunk", [0, 10_001])
    def test_not_in_chunks_of_any_size(self, outbox: Outbox, chunk: int) -> None:
        with pytest.raises(ValueError, match="chunk must be"):
            next(outbox.replay(chunk=chunk))
        with pytest.raises(ValueError, match="chunk must be"):
            outbox.prune(1e10, chunk=chunk)

    def test_in_chunks(self, outbox: Outbox) -> None:
        add(outbox, *(f"{n}" for n in range(25)), targets=(LOOSE,))
        settle(outbox, lease(outbox, "loose"), REFUSED)
        steps = outbox.replay(chunk=10)
        assert next(steps) == 10
        assert outbox.counts() == {"loose": {Status.DEAD: 15, Status.WAITING: 10}}
        assert list(steps) == [10, 5]
        assert ids(lease(outbox, "loose")) == [f"{n}" for n in range(25)]

    def test_in_the_order_of_its_key(self, outbox: Outbox) -> None:
        add(outbox, "a1", "a2", "a3", "a4")
        settle(outbox, lease(outbox), REFUSED)
        settle(outbox, lease(outbox), REFUSED)
        a3 = lease(outbox)
        assert sum(outbox.replay()) == 2
        assert lease(outbox) == []
        order = []
        while a3:
            order += ids(a3)
            settle(outbox, a3)
            a3 = lease(outbox)
        assert order == ["a3", "a1", "a2", "a4"]


class TestPrune:
    def test_what_is_old_and_delivered(self, filled: Outbox, clock: Any) -> None:
        assert filled.prune(clock.now) == 0  # settled right now
        assert filled.prune(clock.now + 1) == 1
        assert names(filled) == ["d2", "d1", "c1", "b1"]
        assert rows(filled) == {"events": 4, "deliveries": 4, "attempts": 2}

    def test_dead_letters_when_told(self, filled: Outbox, clock: Any) -> None:
        assert filled.prune(0.0, dead_before=clock.now + 1) == 1
        assert names(filled, statuses=(Status.DEAD,)) == []

    def test_nothing_that_is_under_way(self, filled: Outbox) -> None:
        assert filled.prune(1e10, dead_before=1e10) == 2
        assert names(filled) == ["d2", "d1", "c1"]

    def test_an_event_goes_with_its_last_delivery(self, outbox: Outbox) -> None:
        add(outbox, "a1", targets=(OPS, LOOSE))
        settle(outbox, lease(outbox, "ops"))
        outbox.prune(1e10)
        assert rows(outbox)["events"] == 1
        assert lease(outbox, "loose")[0].message == message("a1", "a")

    def test_in_chunks_at_all_endpoints(self, outbox: Outbox) -> None:
        targets = (LOOSE, Target("a", ordered=False), Target("Z", ordered=False))
        add(outbox, *(f"{n}" for n in range(25)), targets=targets)
        settle(outbox, lease(outbox, "loose", "a", "Z"))
        assert outbox.prune(1e10, chunk=10) == 75
        assert rows(outbox) == {"events": 0, "deliveries": 0, "attempts": 0}

    def test_two_at_once_leave_no_event_behind(self, kind: str, outbox: Outbox) -> None:
        if kind == "sqlite":
            pytest.skip("one transaction writes at a time")
        add(outbox, "a1", targets=(OPS, LOOSE))
        settle(outbox, lease(outbox, "ops", "loose"))
        other = threading.Thread(target=outbox.prune, args=(1e10,))
        with engine_of(outbox).begin() as connection:
            assert _upkeep.prune(connection, "ops", Status.DELIVERED, 1e10, 10) == 1
            other.start()
            other.join(0.1)  # PostgreSQL waits for the event, MariaDB passes by the delivery
        other.join()
        outbox.prune(1e10)
        assert rows(outbox) == {"events": 0, "deliveries": 0, "attempts": 0}
