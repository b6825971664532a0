"""Outcomes: written back once, by who has the lease; attempts remembered, the last ones only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stored import LOOSE, OK, REFUSED, add, lease, message, retry_at, rows, settle

from cubehook.outbox import Outbox, Result, Status
from cubehook.outcome import Dead


class TestSettle:
    def test_of_nothing(self, outbox: Outbox) -> None:
        assert outbox.settle([]) == 0

    def test_each_outcome(self, outbox: Outbox, clock: Any) -> None:
        add(outbox, "a1", "b1", "c1", "d1")
        a1, b1, c1, d1 = lease(outbox)
        clock.advance(2)
        results = [
            Result(a1, OK, 1001.0),
            Result(b1, retry_at(1500.25), 1001.5),
            Result(c1, REFUSED, 1001.75),
            Result(d1, OK, 1002.0),
        ]
        assert outbox.settle(results) == 0
        shown = [outbox.show(one.id) for one in (a1, b1, c1, d1)]
        records = [one.record for one in shown if one]
        assert [(one.status, one.reason, one.attempts) for one in records] == [
            (Status.DELIVERED, "status 204", 1),
            (Status.WAITING, "status 503", 1),
            (Status.DEAD, "status 404", 1),
            (Status.DELIVERED, "status 204", 1),
        ]
        assert [one.settled for one in records] == [1002.0, None, 1002.0, 1002.0]
        assert [one.due for one in records] == [None, 1500.25, None, None]
        assert [one.owner for one in records] == [None] * 4
        made = [(one.number, one.at, one.outcome) for two in shown if two for one in two.attempts]
        assert made == [
            *((1, 1001.0, "delivered"), (1, 1001.5, "retry")),
            *((1, 1001.75, "dead"), (1, 1002.0, "delivered")),
        ]

    def test_a_result_counts_once(self, outbox: Outbox) -> None:
        add(outbox, "a1", "a2", "a3")
        leased = lease(outbox)
        assert settle(outbox, leased * 2) == 1
        assert settle(outbox, leased, REFUSED) == 1
        assert outbox.show(leased[0].id).record.status is Status.DELIVERED  # type: ignore[union-attr]
        assert len(lease(outbox)) == 1  # a2; a3 was not let go for the sake of a1

    def test_what_is_given_back_cannot_be_settled(self, outbox: Outbox) -> None:
        add(outbox, "a1")
        leased = lease(outbox)
        outbox.release(leased)
        assert settle(outbox, leased) == 1
        assert outbox.counts() == {"ops": {Status.WAITING: 1}}

    def test_what_is_pruned_cannot_be_settled(self, outbox: Outbox) -> None:
        add(outbox, "a1")
        leased = lease(outbox)
        settle(outbox, leased)
        outbox.prune(5000.0)
        assert settle(outbox, leased) == 1

    def test_attempts_are_counted_on(self, outbox: Outbox, clock: Any) -> None:
        add(outbox, "a1")
        for made in range(3):
            [one] = lease(outbox)
            assert one.attempts == made
            settle(outbox, [one], retry_at(clock.now))

    def test_only_the_last_attempts_are_kept(
        self, open_outbox: Callable[..., Outbox], clock: Any
    ) -> None:
        outbox = open_outbox(attempts_kept=3)
        add(outbox, "a1", "b1")
        for _ in range(5):
            leased = lease(outbox)
            settle(outbox, leased, retry_at(clock.now))
        shown = outbox.show(leased[0].id)
        assert shown is not None
        assert [one.number for one in shown.attempts] == [3, 4, 5]
        assert shown.record.attempts == 5
        assert rows(outbox)["attempts"] == 6

    def test_a_long_reason_is_cut(self, outbox: Outbox) -> None:
        add(outbox, "a1")
        settle(outbox, lease(outbox), Dead("é" * 300))
        [record] = outbox.list()
        assert record.reason == "é" * 255

    def test_a_large_batch(self, outbox: Outbox) -> None:
        names = [f"{n}" for n in range(1100)]
        outbox.add([(message(name, name), (LOOSE,)) for name in names])
        assert settle(outbox, lease(outbox, "loose", limit=2000)) == 0
        assert outbox.counts() == {"loose": {Status.DELIVERED: 1100}}
