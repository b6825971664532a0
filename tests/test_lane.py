"""A lane as the state machine it is: no threads, no clock, every move made by hand."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from cubehook.lane import (
    AHEAD,
    LONGEST_PROBE_PAUSE,
    MOST_AHEAD,
    OPEN_AFTER,
    Batching,
    Delivery,
    Lane,
    LaneSettings,
)
from cubehook.message import Message
from cubehook.outcome import Dead, Delivered, Failure, Outcome, Reply, RetryAt, Split
from cubehook.retry import WebhookRetry

# A busy machine is no failure.
RELAXED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

OK = Delivered(204)
REFUSED = Dead("status 404")
GONE = Dead("status 410", gone=True)


def retry_at(when: float = 1.0, floor: float = 0.0) -> RetryAt:
    return RetryAt(when, floor, "status 503", WebhookRetry(total=3))


def configured(**options: Any) -> LaneSettings:
    """``initial`` and ``highest`` are of the backoff; the others are the settings' own."""

    def send(message: Message, limit: float | None) -> Reply | Failure:
        raise AssertionError("a lane does not send")

    policy = WebhookRetry(
        backoff_factor=options.pop("initial", 1.0), backoff_max=options.pop("highest", 3600.0)
    )
    defaults: dict[str, Any] = {"name": "ops", "capacity": 100, "share": 4}
    return LaneSettings(**(defaults | {"send": send, "policy": policy} | options))


def lane(**options: Any) -> Lane:
    return Lane(configured(**options))


def delivery(message_id: str, key: str | None = None, since: float = 0.0) -> Delivery:
    message = Message(message_id, "sandbox.created", key, "application/json", b"{}")
    return Delivery(message, WebhookRetry(), since=since)


def offer(to: Lane, *ids: str, since: float = 0.0) -> list[Delivery]:
    """Offer deliveries; the first letter of an id is its key."""
    made = [delivery(one, one[0], since) for one in ids]
    for one in made:
        assert to.offer(one)
    return made


def ready(of: Lane) -> list[str]:
    return [one.message.id for one in of.ready]


def join(messages: Sequence[Message]) -> Message:
    body = b",".join(message.body for message in messages)
    return Message("+".join(message.id for message in messages), "cubehook.batch", None, "", body)


def batching(max_events: int = 100, linger: float = 0.0, max_bytes: int = 10_000) -> Batching:
    return Batching(max_events, linger, max_bytes, join)


def taken(of: Lane) -> Delivery:
    """The next one, with its message made."""
    one = of.take(0.0)
    one.prepare()
    return one


def fail(of: Lane, times: int, outcome: Outcome | None = None, now: float = 0.0) -> None:
    """Let so many attempts fail, one after the other, each of a delivery without a key."""
    for _ in range(times):
        of.offer(delivery("failing"))
        of.settle(of.take(0.0), outcome or REFUSED, now)


def balanced(of: Lane) -> bool:
    stats = of.stats()
    ended = stats.delivered + stats.dead + sum(stats.dropped.values()) + stats.stored
    return stats.received == ended + stats.pending and stats.pending == of.pending


@pytest.fixture
def luck(monkeypatch: pytest.MonkeyPatch) -> None:
    """The longest delay each time: the base."""
    monkeypatch.setattr("random.random", lambda: 1.0)


class TestOrder:
    def test_one_of_each_key_is_ready(self) -> None:
        ops = lane()
        offer(ops, "a1", "a2", "b1", "a3", "c1", "b2")
        assert ready(ops) == ["a1", "b1", "c1"]
        assert ops.stats().queued == 6

    def test_the_next_of_a_key_goes_when_the_one_before_has_ended(self) -> None:
        ops = lane()
        offer(ops, "a1", "a2", "a3", "b1")
        first = ops.take(0.0)
        assert ready(ops) == ["b1"]
        assert ops.settle(first, OK, 0.0)
        assert ready(ops) == ["b1", "a2"]  # behind what was ready before
        assert ops.take(0.0).message.id == "b1"
        second = ops.take(0.0)
        assert ready(ops) == []
        assert ops.settle(second, OK, 0.0)
        assert ready(ops) == ["a3"]

    @pytest.mark.parametrize("outcome", [OK, REFUSED], ids=["delivered", "dead"])
    def test_any_end_lets_the_next_go(self, outcome: Outcome) -> None:
        ops = lane()
        offer(ops, "a1", "a2")
        assert ops.settle(ops.take(0.0), outcome, 0.0)
        assert ready(ops) == ["a2"]

    def test_a_waiting_retry_holds_back_its_own_key_alone(self) -> None:
        ops = lane(share=9)
        offer(ops, "a1", "a2", "b1", "c1")
        first = ops.take(0.0)
        assert not ops.settle(first, retry_at(), 0.0)
        assert (ops.waiting, ops.in_flight) == (1, 0)
        assert ready(ops) == ["b1", "c1"]
        offer(ops, "a3", "d1")
        assert ready(ops) == ["b1", "c1", "d1"]
        for _ in range(3):
            ops.settle(ops.take(0.0), OK, 0.0)
        assert ready(ops) == []
        ops.due(first)
        assert (ready(ops), ops.waiting) == (["a1"], 0)
        ops.settle(ops.take(0.0), OK, 1.0)
        ops.settle(ops.take(0.0), OK, 1.0)
        assert ready(ops) == ["a3"]

    def test_a_retry_that_is_due_goes_first(self) -> None:
        ops = lane()
        offer(ops, "a1", "b1", "c1")
        first = ops.take(0.0)
        ops.settle(first, retry_at(), 0.0)
        ops.due(first)
        assert ready(ops) == ["a1", "b1", "c1"]

    def test_a_key_is_forgotten_when_nothing_of_it_is_left(self) -> None:
        ops = lane()
        for number in range(3):
            offer(ops, f"a{number}")
            assert ready(ops) == [f"a{number}"]
            ops.settle(ops.take(0.0), OK, 0.0)
        assert not ops._held

    def test_an_empty_key_is_a_key(self) -> None:
        ops = lane()
        for message_id in ("1", "2"):
            ops.offer(delivery(message_id, key=""))
        assert ready(ops) == ["1"]
        ops.settle(ops.take(0.0), OK, 0.0)
        assert ready(ops) == ["2"]

    def test_without_a_key_nothing_is_held_back(self) -> None:
        ops = lane()
        for message_id in ("1", "2", "3"):
            ops.offer(delivery(message_id))
        assert ready(ops) == ["1", "2", "3"]
        ops.settle(ops.take(0.0), OK, 0.0)
        assert ready(ops) == ["2", "3"]

    def test_unordered_holds_nothing_back(self) -> None:
        ops = lane(ordered=False)
        offer(ops, "a1", "a2", "b1", "a3")
        assert ready(ops) == ["a1", "a2", "b1", "a3"]
        ops.settle(ops.take(0.0), retry_at(), 0.0)
        assert ready(ops) == ["a2", "b1", "a3"]
        ops.settle(ops.take(0.0), OK, 0.0)
        assert ready(ops) == ["b1", "a3"]
        assert balanced(ops)

    def test_an_outcome_goes_with_its_delivery(self) -> None:
        ops = lane()
        (first,) = offer(ops, "a1")
        assert (first.floor, first.generation) == (0.0, 0)
        outcome = retry_at(when=9.0, floor=7.0)
        ops.settle(ops.take(0.0), outcome, 0.0)
        assert first.retry is outcome.retry
        assert first.floor == 7.0


class TestOrderAcrossReconfigure:
    def test_what_was_held_back_stays_so(self) -> None:
        ops = lane()
        offer(ops, "a1", "a2")
        first = ops.take(0.0)
        ops.reconfigure(configured())
        offer(ops, "a3")
        assert ready(ops) == []
        ops.settle(first, OK, 0.0)
        assert ready(ops) == ["a2"]

    def test_ordered_from_now_on(self) -> None:
        ops = lane(ordered=False, share=9)
        offer(ops, "a1")
        first = ops.take(0.0)
        ops.reconfigure(configured(share=9))
        offer(ops, "a2", "a3")
        ops.settle(first, OK, 0.0)
        # a1 was none of the ordered ones: its end is not the turn of a3.
        assert ready(ops) == ["a2"]

    @pytest.mark.parametrize("outcome", [OK, REFUSED], ids=["delivered", "dead"])
    def test_an_attempt_from_before_the_410_frees_nothing(self, outcome: Outcome) -> None:
        ops = lane(share=9)
        offer(ops, "a1", "b1")
        first, other = ops.take(0.0), ops.take(0.0)
        ops.settle(other, GONE, 0.0)
        ops.give_up([])
        ops.reconfigure(configured(share=9))
        offer(ops, "a2", "a3")
        ops.settle(first, outcome, 0.0)
        # a3 comes after a2, whatever became of what was under way before.
        assert ready(ops) == ["a2"]

    def test_an_attempt_from_before_the_410_is_not_overtaken(self) -> None:
        ops = lane(share=9)
        offer(ops, "a1", "b1")
        first, other = ops.take(0.0), ops.take(0.0)
        ops.settle(other, GONE, 0.0)
        ops.give_up([])
        ops.reconfigure(configured(share=9))
        offer(ops, "a2")
        assert ready(ops) == []  # a1 is still under way
        ops.settle(first, OK, 0.0)
        assert ready(ops) == ["a2"]


class TestBacklog:
    def test_limit_counts_all_that_has_not_ended(self) -> None:
        ops = lane(capacity=4, share=9)
        offer(ops, "a1", "a2", "b1", "c1")  # a2 is held back
        waiting = ops.take(0.0)
        ops.settle(waiting, retry_at(), 0.0)
        under_way = ops.take(0.0)
        assert (len(ops.ready), ops.in_flight, ops.waiting, ops.pending) == (1, 1, 1, 4)
        assert not ops.offer(delivery("d1", "d"))
        assert not ops.offer(delivery("a3", "a"))
        assert ops.stats().dropped == {"backlog_full": 2}
        assert ops.stats().received == 6
        ops.settle(under_way, OK, 0.0)
        assert ops.offer(delivery("e1", "e"))
        assert not ops.offer(delivery("f1", "f"))
        assert balanced(ops)

    def test_a_dropped_one_is_not_waited_for(self) -> None:
        ops = lane(capacity=1)
        offer(ops, "a1")
        assert not ops.offer(delivery("a2", "a"))
        ops.settle(ops.take(0.0), OK, 0.0)
        assert (ready(ops), ops.pending) == ([], 0)

    def test_what_could_not_be_made_counts(self) -> None:
        ops = lane()
        ops.drop("too_large")
        ops.drop("too_large")
        ops.drop("format_error")
        stats = ops.stats()
        assert (stats.received, stats.pending) == (3, 0)
        assert stats.dropped == {"too_large": 2, "format_error": 1}


class TestWindow:
    def test_starts_at_one_and_grows_with_each_success(self) -> None:
        ops = lane(share=3)
        offer(ops, *(f"{key}1" for key in "abcdefghijkl"))
        for width in (1, 2, 3, 3, 3):
            taken = []
            while ops.may_send(0.0):
                taken.append(ops.take(0.0))
            assert len(taken) == width
            ops.settle(taken.pop(), OK, 0.0)
            for one in taken:
                # Put back as if it had not been begun, to grow by one a round.
                ops.in_flight -= 1
                ops.ready.appendleft(one)

    def test_never_exceeds_the_share(self) -> None:
        ops = lane(share=1)
        offer(ops, "a1", "b1", "c1")
        ops.settle(ops.take(0.0), OK, 0.0)
        assert ops.may_send(0.0)
        ops.take(0.0)
        assert not ops.may_send(0.0)

    @pytest.mark.parametrize("outcome", [REFUSED, retry_at()], ids=["dead", "retry"])
    def test_collapses_with_a_failure(self, outcome: Outcome) -> None:
        ops = lane(share=9)
        offer(ops, *(f"{key}1" for key in "abcdefgh"))
        for _ in range(3):
            ops.settle(ops.take(0.0), OK, 0.0)
        ops.settle(ops.take(0.0), outcome, 0.0)
        assert ops.may_send(0.0)
        ops.take(0.0)
        assert not ops.may_send(0.0)

    def test_reconfigure_starts_it_anew(self) -> None:
        ops = lane(share=9)
        offer(ops, *(f"{key}1" for key in "abcdefgh"))
        for _ in range(3):
            ops.settle(ops.take(0.0), OK, 0.0)
        ops.reconfigure(configured(share=9))
        ops.take(0.0)
        assert not ops.may_send(0.0)


class TestCircuit:
    def test_opens_after_five_failures_in_a_row(self) -> None:
        assert OPEN_AFTER == 5
        ops = lane()
        for failures in range(1, 5):
            fail(ops, 1)
            assert not ops.open
            assert ops.stats().state == "closed"
            assert ops.stats().failures_in_row == failures
            assert ops.may_send(0.0)
        fail(ops, 1)
        assert ops.open
        assert ops.stats().state == "open"

    def test_a_success_starts_the_count_anew(self) -> None:
        ops = lane()
        fail(ops, 4)
        offer(ops, "a1")
        ops.settle(ops.take(0.0), OK, 0.0)
        assert ops.stats().failures_in_row == 0
        fail(ops, 4)
        assert not ops.open

    @pytest.mark.usefixtures("luck")
    def test_admits_one_probe_when_the_time_has_come(self) -> None:
        ops = lane(share=9)
        fail(ops, 5, retry_at(), now=100.0)
        offer(ops, "a1", "b1")
        assert ops.probe_at == 101.0
        assert not ops.may_send(100.0)
        assert not ops.may_send(100.999)
        assert ops.may_send(101.0)
        ops.take(0.0)
        assert not ops.may_send(101.0)  # one at a time, however long ago
        assert not ops.may_send(1e9)

    @pytest.mark.usefixtures("luck")
    def test_a_failed_probe_keeps_it_open_and_waits_anew(self) -> None:
        ops = lane()
        fail(ops, 5, retry_at(), now=100.0)
        fail(ops, 1, retry_at(), now=101.0)
        assert ops.open
        assert (ops.probe_at, ops.may_send(102.9), ops.may_send(103.0)) == (103.0, False, True)

    def test_a_success_closes_it(self) -> None:
        ops = lane(share=9)
        fail(ops, 7, retry_at(), now=100.0)
        offer(ops, "a1", "b1", "c1")
        ops.settle(ops.take(0.0), OK, 200.0)
        assert (ops.open, ops.stats().state, ops.failures) == (False, "closed", 0)
        assert ops.may_send(0.0)
        ops.take(0.0)
        assert ops.may_send(0.0)  # and the window has begun to grow
        ops.take(0.0)
        assert not ops.may_send(0.0)

    @pytest.mark.usefixtures("luck")
    def test_the_pause_grows_up_to_a_minute(self) -> None:
        assert LONGEST_PROBE_PAUSE == 60.0
        ops = lane()
        fail(ops, 4, retry_at())
        pauses = []
        for _ in range(9):
            fail(ops, 1, retry_at(), now=1_000.0)
            pauses.append(ops.probe_at - 1_000.0)
        assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]

    def test_the_pause_has_jitter(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("random.random", lambda: 0.0)
        ops = lane(initial=8.0)
        fail(ops, 5, retry_at(), now=100.0)
        assert ops.probe_at == 104.0

    @pytest.mark.usefixtures("luck")
    def test_the_pause_is_not_above_backoff_max(self) -> None:
        ops = lane(initial=2.0, highest=5.0)
        fail(ops, 4, retry_at())
        pauses = []
        for _ in range(3):
            fail(ops, 1, retry_at(), now=1_000.0)
            pauses.append(ops.probe_at - 1_000.0)
        assert pauses == [2, 4, 5]

    @pytest.mark.usefixtures("luck")
    def test_before_it_opens_there_is_no_pause(self) -> None:
        ops = lane()
        for now in (100.0, 200.0, 300.0, 400.0):
            fail(ops, 1, retry_at(), now=now)
            assert ops.probe_at == now

    def test_a_refusal_for_good_opens_it_without_a_pause(self) -> None:
        ops = lane(share=9)
        fail(ops, 6, REFUSED, now=100.0)
        offer(ops, "a1", "b1")
        assert ops.open
        assert ops.stats().failures_in_row == 6
        assert ops.may_send(100.0)
        ops.take(0.0)
        assert not ops.may_send(100.0)

    @pytest.mark.usefixtures("luck")
    def test_a_refusal_for_good_ends_the_pause(self) -> None:
        # 404 comes from an endpoint that answers.
        ops = lane()
        fail(ops, 9, retry_at(), now=100.0)
        assert ops.probe_at > 110.0
        fail(ops, 1, REFUSED, now=110.0)
        assert ops.open
        assert ops.may_send(110.0)

    def test_reconfigure_closes_it(self) -> None:
        ops = lane()
        fail(ops, 9, retry_at(), now=100.0)
        ops.reconfigure(configured())
        assert (ops.failures, ops.probe_at, ops.open) == (0, 0.0, False)
        assert ops.may_send(100.0)


class TestGone:
    def gone(self) -> tuple[Lane, list[Delivery], Delivery]:
        """A lane switched off by 410; what it had left; one that was under way meanwhile."""
        ops = lane(share=9)
        waiting, _, _, _, under_way, last = offer(ops, "a1", "a2", "b1", "b2", "c1", "d1")
        waiting = ops.take(0.0)
        ops.settle(waiting, retry_at(), 0.0)
        ops.ready.rotate(-1)
        under_way, last = ops.take(0.0), ops.take(0.0)
        assert (under_way.message.id, last.message.id) == ("c1", "d1")
        assert ops.settle(last, GONE, 0.0)
        return ops, [waiting], under_way

    def test_switches_the_lane_off(self) -> None:
        ops, _, _ = self.gone()
        assert ops.off
        assert ops.stats().state == "off"
        assert not ops.may_send(1e9)

    def test_gives_up_all_that_is_left(self) -> None:
        ops, waiting, _ = self.gone()
        ended = ops.give_up(waiting)
        assert sorted(one.message.id for one in ended) == ["a1", "a2", "b1", "b2"]
        stats = ops.stats()
        assert (stats.dead, stats.queued, stats.waiting, stats.in_flight) == (5, 0, 0, 1)
        assert stats.dropped == {}
        assert balanced(ops)

    def test_offers_are_dropped(self) -> None:
        ops, waiting, _ = self.gone()
        ops.give_up(waiting)
        assert not ops.offer(delivery("e1", "e"))
        assert ops.stats().dropped == {"switched_off": 1}
        assert balanced(ops)

    @pytest.mark.parametrize(
        ("outcome", "delivered", "dead"),
        [(OK, 1, 5), (REFUSED, 0, 6), (retry_at(), 0, 6), (GONE, 0, 6)],
        ids=["delivered", "dead", "retry", "gone"],
    )
    def test_what_was_under_way_ends_with_its_attempt(
        self, outcome: Outcome, delivered: int, dead: int
    ) -> None:
        ops, waiting, under_way = self.gone()
        ops.give_up(waiting)
        assert ops.settle(under_way, outcome, 0.0)
        stats = ops.stats()
        assert (stats.delivered, stats.dead, stats.pending) == (delivered, dead, 0)
        assert stats.state == "off"
        assert balanced(ops)

    def test_reconfigure_switches_it_on_again(self) -> None:
        ops, waiting, _ = self.gone()
        ops.give_up(waiting)
        ops.reconfigure(configured())
        assert ops.stats().state == "closed"
        assert ops.offer(delivery("e1", "e"))
        assert ready(ops) == ["e1"]
        assert ops.stats().dead == 5  # what was counted stays

    def test_a_removed_endpoint_drops_what_is_left(self) -> None:
        ops = lane()
        offer(ops, "a1", "a2", "b1")
        ended = ops.give_up([], "endpoint_removed")
        assert [one.message.id for one in ended] == ["a1", "b1", "a2"]
        stats = ops.stats()
        assert (stats.dropped, stats.dead, stats.pending) == ({"endpoint_removed": 3}, 0, 0)
        assert balanced(ops)


class TestBatches:
    def test_what_is_ready_goes_together(self) -> None:
        ops = lane(batching=batching())
        offer(ops, "a1", "a2", "b1")
        one = taken(ops)
        assert (one.message.id, one.size, one.message.key) == ("a1+a2+b1", 3, None)
        stats = ops.stats()
        assert (stats.queued, stats.in_flight, ops.in_flight) == (0, 3, 1)
        assert ops.settle(one, OK, 0.0)
        assert (ops.stats().delivered, ops.pending) == (3, 0)

    def test_one_alone_is_a_batch_as_well(self) -> None:
        ops = lane(batching=batching())
        offer(ops, "a1")
        one = taken(ops)
        assert (one.message.event, one.size, len(one.parts)) == ("cubehook.batch", 1, 1)

    def test_no_more_than_max_events(self) -> None:
        ops = lane(batching=batching(2))
        offer(ops, "a1", "a2", "a3")
        assert taken(ops).message.id == "a1+a2"
        assert ready(ops) == ["a3"]

    @pytest.mark.parametrize(("max_bytes", "together"), [(7, 2), (8, 3), (10, 3), (11, 4)])
    def test_no_more_than_max_bytes_commas_included(self, max_bytes: int, together: int) -> None:
        ops = lane(batching=batching(max_bytes=max_bytes))
        offer(ops, "a1", "a2", "a3", "a4", "a5")  # of two bytes each
        one = taken(ops)
        assert one.size == together
        assert len(one.message.body) <= max_bytes

    def test_one_that_is_too_long_goes_nevertheless(self) -> None:
        ops = lane(batching=batching(max_bytes=1))  # there may be less room than when it was made
        offer(ops, "a1", "a2")
        assert taken(ops).message.id == "a1"

    def test_the_message_is_made_once(self) -> None:
        ops = lane(batching=batching())
        offer(ops, "a1")
        one = taken(ops)
        message = one.message
        one.prepare()
        assert one.message is message

    def test_in_order_one_at_a_time(self) -> None:
        ops = lane(share=9, batching=batching(2))
        offer(ops, "a1", "b1", "c1", "d1")
        ops._window = 9
        first = taken(ops)
        assert not ops.may_send(0.0)
        ops.settle(first, OK, 0.0)
        assert ops.may_send(0.0)

    def test_in_order_a_waiting_retry_holds_back_all_that_follows(self) -> None:
        ops = lane(share=9, batching=batching(2))
        offer(ops, "a1", "b1", "c1", "d1")
        first = taken(ops)
        assert not ops.settle(first, retry_at(), 0.0)
        assert (ops.stats().waiting, ops.waiting, ops.stats().retried) == (2, 1, 1)
        assert not ops.may_send(1e9)
        assert ops.wakes_at(0.0) is None, "the retry wakes it"
        ops.due(first)
        assert ops.may_send(0.0)
        assert taken(ops) is first
        ops.settle(first, OK, 0.0)
        assert taken(ops).message.id == "c1+d1"

    def test_unordered_several_at_once_beside_a_retry(self) -> None:
        ops = lane(share=9, ordered=False, batching=batching(2))
        offer(ops, "a1", "a2", "a3", "a4", "a5", "a6", "a7")
        ops.settle(taken(ops), OK, 0.0)
        assert not ops.settle(taken(ops), retry_at(), 0.0)
        assert ops.may_send(0.0)
        ops.settle(taken(ops), OK, 0.0)
        assert ops.may_send(0.0)
        taken(ops)
        assert ops.stats().waiting == 2
        assert balanced(ops)

    def test_a_retry_takes_nothing_in(self) -> None:
        ops = lane(batching=batching())
        offer(ops, "a1")
        first = taken(ops)
        ops.settle(first, retry_at(), 0.0)
        offer(ops, "a2")
        ops.due(first)
        assert taken(ops) is first
        assert (first.size, first.message.id) == (1, "a1")

    def test_a_dead_one_counts_its_events(self) -> None:
        ops = lane(batching=batching())
        offer(ops, "a1", "a2")
        assert ops.settle(taken(ops), REFUSED, 0.0)
        assert (ops.stats().dead, ops.failures) == (2, 1)

    def test_a_waiting_one_is_given_up_with_its_events(self) -> None:
        ops = lane(batching=batching(2))
        offer(ops, "a1", "a2", "a3")
        first = taken(ops)
        ops.settle(first, retry_at(), 0.0)
        assert len(ops.give_up([first], "endpoint_removed")) == 2
        assert ops.stats().dropped == {"endpoint_removed": 3}
        assert balanced(ops)

    def test_an_open_circuit_probes_with_one(self) -> None:
        ops = lane(share=9, ordered=False, batching=batching(2))
        for _ in range(OPEN_AFTER):
            offer(ops, "a1", "a2")
            ops.settle(taken(ops), REFUSED, 0.0)
        offer(ops, "a1", "a2", "a3")
        assert ops.open
        probe = taken(ops)
        assert probe.size == 2
        assert not ops.may_send(1e9)
        ops.settle(probe, OK, 0.0)
        assert not ops.open


class TestLinger:
    def test_counts_from_the_first(self) -> None:
        ops = lane(batching=batching(linger=5.0))
        offer(ops, "a1", since=100.0)
        offer(ops, "a2", since=104.0)
        assert (ops.may_send(104.9), ops.wakes_at(104.9)) == (False, 105.0)
        assert (ops.may_send(105.0), ops.wakes_at(105.0)) == (True, None)
        assert taken(ops).message.id == "a1+a2"

    def test_a_full_batch_does_not_wait(self) -> None:
        ops = lane(batching=batching(2, linger=5.0))
        offer(ops, "a1", "a2", "a3", since=100.0)
        assert ops.may_send(100.0)
        ops.settle(taken(ops), OK, 100.0)
        assert (ops.may_send(100.0), ops.wakes_at(100.0)) == (False, 105.0)

    def test_a_full_backlog_does_not_wait(self) -> None:
        # Else it would drop what comes although it could send.
        ops = lane(capacity=2, batching=batching(100, linger=5.0))
        offer(ops, "a1", since=100.0)
        assert not ops.may_send(100.0)
        offer(ops, "a2", since=100.0)
        assert ops.may_send(100.0)

    def test_who_flushes_does_not_wait(self) -> None:
        ops = lane(batching=batching(linger=5.0))
        offer(ops, "a1", since=100.0)
        ops.seal(100.0)
        offer(ops, "a2", since=101.0)
        assert ops.may_send(101.0)
        ops.settle(taken(ops), OK, 101.0)
        offer(ops, "a3", since=102.0)
        assert not ops.may_send(102.0), "what comes later gathers again"

    def test_who_flushes_does_not_wait_after_an_update(self) -> None:
        ops = lane(batching=batching(linger=5.0))
        offer(ops, "a1", since=100.0)
        ops.seal(100.0)
        ops.reconfigure(configured(batching=batching(linger=3600.0)))
        assert ops.may_send(100.0)

    def test_a_retry_does_not_linger(self) -> None:
        ops = lane(batching=batching(linger=5.0))
        offer(ops, "a1", since=100.0)
        first = taken(ops)
        ops.settle(first, retry_at(), 105.0)
        ops.due(first)
        assert ops.may_send(105.0)

    def test_wakes_for_the_later_of_probe_and_batch(self) -> None:
        ops = lane(initial=10.0, batching=batching(linger=5.0))
        for _ in range(OPEN_AFTER):
            offer(ops, "a1", since=0.0)
            ops.settle(taken(ops), Dead("timeout", exhausted=True), 100.0)
        assert 105.0 <= ops.probe_at <= 110.0
        offer(ops, "a1", since=100.0)
        assert ops.wakes_at(100.0) == ops.probe_at
        ops.reconfigure(configured(batching=batching(linger=50.0)))
        assert ops.wakes_at(100.0) == 150.0


class TestSplit:
    """The application's format cannot put the events together."""

    def split(self, **options: Any) -> Lane:
        ops = lane(share=9, batching=batching(3, linger=5.0), **options)
        offer(ops, "a1", "a2", "a3", "b1")
        assert not ops.settle(ops.take(0.0), Split(), 0.0)
        return ops

    def test_they_go_one_by_one_as_they_were(self) -> None:
        ops = self.split()
        assert ready(ops) == ["a1", "a2", "a3", "b1"]
        for expected in ("a1", "a2", "a3"):
            assert ops.may_send(0.0), "they have waited already"
            one = taken(ops)
            assert (one.message.id, one.message.event) == (expected, "sandbox.created")
            assert not ops.may_send(0.0), "in order, one at a time"
            ops.settle(one, OK, 0.0)
        assert not ops.may_send(0.0), "the next one gathers again"
        assert taken(ops).message.event == "cubehook.batch"
        assert balanced(ops)

    def test_it_is_no_failure(self) -> None:
        ops = self.split()
        stats = ops.stats()
        assert (stats.queued, stats.in_flight, stats.retried, stats.dead) == (4, 0, 0, 0)
        assert ops.failures == 0

    def test_one_that_waits_holds_back_the_others(self) -> None:
        ops = self.split()
        first = taken(ops)
        ops.settle(first, retry_at(), 0.0)
        assert not ops.may_send(1e9)
        ops.due(first)
        assert taken(ops) is first

    def test_unordered_they_go_at_once(self) -> None:
        ops = self.split(ordered=False)
        ops.settle(taken(ops), OK, 0.0)
        taken(ops)
        assert ops.may_send(0.0)

    def test_when_batches_are_off_meanwhile_they_are_in_order(self) -> None:
        ops = lane(share=9, batching=batching())
        offer(ops, "a1", "b1", "a2")
        one = ops.take(0.0)
        ops.reconfigure(configured(share=9))
        offer(ops, "a3", since=1.0)
        assert not ops.may_send(0.0), "a3 waits for the batch"
        ops.settle(one, Split(), 0.0)
        assert ready(ops) == ["a1", "b1"]
        ops.settle(taken(ops), OK, 0.0)
        assert ready(ops) == ["b1", "a2"]


class TestBatchesTurnedOnAndOff:
    def test_on_what_was_held_back_goes_along(self) -> None:
        ops = lane()
        offer(ops, "a1", "a2", "b1", since=1.0)
        ops.reconfigure(configured(batching=batching()))
        offer(ops, "a3", since=2.0)
        one = taken(ops)
        assert sorted(one.message.id.split("+")) == ["a1", "a2", "a3", "b1"]
        assert one.message.id.replace("+b1", "") == "a1+a2+a3"
        ops.settle(one, OK, 0.0)
        assert (ops.pending, ops._held) == (0, {})

    @pytest.mark.parametrize("waits", [False, True])
    def test_on_what_was_under_way_goes_first_and_alone(self, waits: bool) -> None:
        ops = lane()
        offer(ops, "a1", "a2", since=1.0)
        first = taken(ops)
        ops.reconfigure(configured(batching=batching()))
        offer(ops, "a3", since=2.0)
        assert not ops.may_send(9.0)
        if waits:
            ops.settle(first, retry_at(), 9.0)
            assert not ops.may_send(9.0)
            ops.due(first)
            assert taken(ops) is first
            assert first.parts == ()
        ops.settle(first, OK, 9.0)
        assert taken(ops).message.id == "a2+a3"
        assert ops._held == {}

    def test_off_keys_are_in_order_again(self) -> None:
        ops = lane(share=9, batching=batching(linger=5.0))
        offer(ops, "a1", "a2", "b1", since=1.0)
        ops.reconfigure(configured(share=9))
        assert ready(ops) == ["a1", "b1"]
        offer(ops, "a3", since=2.0)
        for expected in ("a1", "b1", "a2", "a3"):
            one = taken(ops)
            assert one.message.id == expected
            ops.settle(one, OK, 2.0)
        assert (ops.pending, ops._held) == (0, {})

    @pytest.mark.parametrize("waits", [False, True])
    def test_off_a_batch_that_is_left_goes_before_all(self, waits: bool) -> None:
        ops = lane(share=9, batching=batching(2))
        offer(ops, "a1", "b1", "a2", "c1", since=1.0)
        left = taken(ops)
        ops.reconfigure(configured(share=9))
        assert not ops.may_send(9.0)
        assert ops.wakes_at(9.0) is None
        if waits:
            ops.settle(left, retry_at(), 9.0)
            assert not ops.may_send(9.0)
            ops.due(left)
            assert taken(ops) is left
        ops.settle(left, OK, 9.0)
        assert ops.may_send(9.0)
        assert ready(ops) == ["a2", "c1"]

    def test_off_and_given_up_with_a_batch_that_waits(self) -> None:
        ops = lane(batching=batching(2))
        offer(ops, "a1", "a2", "a3")
        left = taken(ops)
        ops.settle(left, retry_at(), 0.0)
        ops.reconfigure(configured())
        ops.give_up([left], "endpoint_removed")
        offer(ops, "a4")
        assert ops.may_send(0.0)

    def test_in_order_from_now_on(self) -> None:
        # Batches that were not in order may wait together; none may wait for the others.
        ops = lane(ordered=False, share=9, batching=batching(1))
        offer(ops, "a1", "a2")
        one, other = taken(ops), taken(ops)
        ops.reconfigure(configured(batching=batching(1), initial=4.0))
        for left in (one, other):
            ops.settle(left, retry_at(), 0.0)
        ops.failures, ops.probe_at = OPEN_AFTER, 110.0
        ops.due(one)
        assert ops.wakes_at(100.0) == 110.0
        assert ops.may_send(110.0)


class TestStats:
    def test_counts(self) -> None:
        ops = lane(share=9)
        offer(ops, "a1", "a2", "b1", "c1", "d1", "e1")
        ops.drop("too_large")
        ops.settle(ops.take(0.0), retry_at(), 0.0)
        ops.settle(ops.take(0.0), REFUSED, 0.0)
        ops.settle(ops.take(0.0), OK, 0.0)
        ops.take(0.0)
        stats = ops.stats()
        assert (stats.received, stats.delivered, stats.retried, stats.dead) == (7, 1, 1, 1)
        assert (stats.queued, stats.in_flight, stats.waiting, stats.pending) == (2, 1, 1, 4)
        assert (stats.dropped, stats.failures_in_row, stats.state) == (
            {"too_large": 1},
            0,
            "closed",
        )
        assert balanced(ops)

    def test_do_not_change_later(self) -> None:
        ops = lane()
        before = ops.stats()
        ops.drop("too_large")
        offer(ops, "a1")
        assert (before.received, before.dropped, before.queued) == (0, {}, 0)

    def test_a_retry_counts_once_for_each_attempt(self) -> None:
        ops = lane()
        offer(ops, "a1")
        for _ in range(3):
            one = ops.take(0.0)
            ops.settle(one, retry_at(), 0.0)
            ops.due(one)
        ops.settle(ops.take(0.0), OK, 0.0)
        stats = ops.stats()
        assert (stats.received, stats.retried, stats.delivered, stats.pending) == (1, 3, 1, 0)


def parts(one: Delivery) -> Sequence[Delivery]:
    """The events of a delivery."""
    return one.parts or (one,)


class LaneMachine(RuleBasedStateMachine):
    """Drives a lane as the dispatcher does, beside a model of what must be so."""

    @initialize(
        ordered=st.booleans(),
        capacity=st.integers(1, 12),
        share=st.integers(1, 4),
        retries=st.integers(0, 3),
    )
    def start(self, ordered: bool, capacity: int, share: int, retries: int) -> None:
        self._start(ordered, capacity, share, retries)

    def _start(self, ordered: bool, capacity: int, share: int, retries: int) -> None:
        self._start_with(retries, ordered=ordered, capacity=capacity, share=share)

    def _start_with(self, retries: int, **options: Any) -> None:
        self.options = options
        self.lane = lane(**self.options)
        self.retries = retries
        self.now = 0.0
        self.number = 0
        self.in_flight: list[Delivery] = []
        self.waiting: list[tuple[float, Delivery]] = []
        self.unfinished: list[Delivery] = []  # in the order they were taken
        self.counts: Counter[str] = Counter()
        self.failures = 0
        self.broken = False  # the format that puts events together

    @rule(keys=st.lists(st.sampled_from(["a", "b", "", None]), min_size=1, max_size=4))
    def offer(self, keys: list[str | None]) -> None:
        for key in keys:
            message = Message(str(self.number), "a.b", key, "application/json", b"{}")
            one = Delivery(message, WebhookRetry(total=self.retries), since=self.now)
            self.number += 1
            self.counts["received"] += 1
            room = not self.lane.off and len(self.unfinished) < self.options["capacity"]
            assert self.lane.offer(one) is room
            if room:
                self.unfinished.append(one)
            else:
                self.counts["dropped"] += 1

    @rule()
    def drop(self) -> None:
        self.lane.drop("too_large")
        self.counts += Counter(received=1, dropped=1)

    @precondition(lambda self: self.lane.ready and self.lane.may_send(self.now))
    @rule(most=st.integers(1, 4))
    def begin(self, most: int) -> None:
        for _ in range(most):
            if self.lane.ready and self.lane.may_send(self.now):
                self._begin()

    def _begin(self) -> None:
        if self.lane.open:
            assert not self.in_flight
            assert self.now >= self.lane.probe_at
        one = self.lane.take(0.0)
        self.in_flight.append(one)
        assert self.in_flight.count(one) == 1
        assert one not in [other for _, other in self.waiting]
        events = parts(one)
        assert len({*map(id, events)} & {*map(id, self.unfinished)}) == len(events)
        if self.options["ordered"]:
            # Nothing of the same key is overtaken.
            for key in {event.message.key for event in events} - {None}:
                mine = [event for event in events if event.message.key == key]
                first = [event for event in self.unfinished if event.message.key == key]
                assert mine == first[: len(mine)]
        assert len(self.in_flight) <= self.options["share"]

    @precondition(lambda self: self.in_flight)
    @rule(which=st.integers(0, 9), result=st.sampled_from([204, 204, 204, 503, 404, "timeout"]))
    def settle(self, which: int, result: int | str) -> None:
        self._settle(which, Failure(result) if isinstance(result, str) else Reply(result))

    @precondition(lambda self: self.in_flight and self.number > 20)
    @rule(which=st.integers(0, 9))
    def settle_gone(self, which: int) -> None:
        self.broken = False
        self._settle(which, Reply(410))
        assert self.lane.off

    @rule(seconds=st.sampled_from([0.1, 1.0, 10.0, 100.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        for when, one in sorted(self.waiting, key=lambda due: due[0]):
            if when <= self.now:
                self.waiting.remove((when, one))
                self.lane.due(one)

    def _settle(self, which: int, result: Reply | Failure) -> None:
        one = self.in_flight.pop(which % len(self.in_flight))
        if one.join is not None and self.broken:
            assert not self.lane.settle(one, Split(), self.now)
            if self.lane.off:
                self._give_up(None)
            return
        one.prepare()
        outcome = one.retry.decide(result, self.now)
        was_off = self.lane.off
        ended = self.lane.settle(one, outcome, self.now)
        assert ended is (was_off or not isinstance(outcome, RetryAt))
        self.failures = 0 if isinstance(outcome, Delivered) else self.failures + 1
        if ended:
            for event in parts(one):
                self.unfinished.remove(event)
            self.counts["delivered" if isinstance(outcome, Delivered) else "dead"] += one.size
        else:
            assert isinstance(outcome, RetryAt)
            assert one.retry is outcome.retry
            self.counts["retried"] += 1
            self.waiting.append((outcome.when, one))
        if self.lane.off:
            self._give_up(None)

    def _give_up(self, reason: str | None) -> None:
        ended = self.lane.give_up([one for _, one in self.waiting], reason)
        given_up = [event for one in ended for event in parts(one)]
        self.waiting.clear()
        under_way = [event for one in self.in_flight for event in parts(one)]
        left = [event for event in self.unfinished if event not in under_way]
        assert sorted(map(id, given_up)) == sorted(map(id, left))
        self.unfinished = [event for event in self.unfinished if event in under_way]
        self.counts["dead" if reason is None else "dropped"] += len(given_up)

    @invariant()
    def the_books_balance(self) -> None:
        stats = self.lane.stats()
        assert balanced(self.lane)
        assert stats.pending == len(self.unfinished)
        assert stats.in_flight == sum(one.size for one in self.in_flight)
        assert stats.waiting == sum(one.size for _, one in self.waiting)
        assert self.lane.in_flight == len(self.in_flight)
        assert stats.failures_in_row == self.failures
        for name in ("received", "delivered", "dead", "retried"):
            assert getattr(stats, name) == self.counts[name]
        assert sum(stats.dropped.values()) == self.counts["dropped"]

    @invariant()
    def something_can_go_on(self) -> None:
        # Whatever is held back is behind another one that is ready, under way or waiting.
        lane_ = self.lane
        if lane_.pending and not lane_.off:
            assert lane_.ready or lane_.in_flight or lane_.waiting
        if lane_.ready and not lane_.off and not lane_.in_flight:
            moment = lane_.wakes_at(self.now)
            if moment is None:
                assert lane_.may_send(self.now) or lane_.waiting
            else:
                assert moment > self.now
                assert not lane_.may_send(self.now)
                assert lane_.may_send(moment)
            if "batching" not in self.options:
                assert lane_.may_send(max(self.now, lane_.probe_at))

    def teardown(self) -> None:
        if not hasattr(self, "lane") or sys.exc_info()[0] is not None:
            return
        # Everything comes to its end: nothing is held back for ever.
        for _ in range(2 * len(self.unfinished) + 1):  # a batch that cannot be made takes a turn
            while self.in_flight:
                self._settle(0, Reply(204))
            self.wait(10_000.0)
            while self.lane.ready and self.lane.may_send(self.now):
                self._begin()
        assert self.lane.pending == 0
        self.the_books_balance()


class ReconfiguredLaneMachine(LaneMachine):
    """The same in order, with endpoints that are updated, removed and come back."""

    @initialize(share=st.integers(2, 4), retries=st.integers(0, 3))
    def start(self, share: int, retries: int) -> None:
        self._start(True, 12, share, retries)

    @rule(capacity=st.integers(1, 12), share=st.integers(4, 6))
    def reconfigure(self, capacity: int, share: int) -> None:
        self.options |= {"capacity": capacity, "share": share}
        self.lane.reconfigure(configured(**self.options))
        self.failures = 0

    @precondition(lambda self: self.in_flight)
    @rule(removed=st.booleans(), slow=st.integers(0, 9))
    def off_and_on_again(self, removed: bool, slow: int) -> None:
        """What goes off with an attempt under way comes back, with more of the same keys."""
        keys = [one.message.key for one in self.in_flight]
        if removed:
            self.lane.off = True
            self._give_up("endpoint_removed")
        else:
            self._settle(slow + 1, Reply(410))
        self.reconfigure(**{key: self.options[key] for key in ("capacity", "share")})
        while len(self.in_flight) > 1:
            self._settle(slow + 1, Reply(204))
        self.offer(keys * 2)


BATCHINGS = st.builds(
    batching,
    max_events=st.integers(1, 5),
    linger=st.sampled_from([0.0, 1.0, 30.0]),
    max_bytes=st.sampled_from([5, 10_000]),
)


class BatchingLaneMachine(LaneMachine):
    """The same with several events in one delivery."""

    @initialize(
        batching=BATCHINGS,
        ordered=st.booleans(),
        capacity=st.integers(1, 12),
        share=st.integers(1, 4),
        retries=st.integers(0, 3),
    )
    def start(self, retries: int, **options: Any) -> None:  # type: ignore[override]
        self._start_with(retries, **options)
        self.sent: dict[Delivery, Message] = {}
        self.sealed = -1.0

    @rule()
    def seal(self) -> None:
        self.sealed = self.now
        self.lane.seal(self.now)

    @rule(broken=st.booleans())
    def fail_to_join(self, broken: bool) -> None:
        self.broken = broken

    def _begin(self) -> None:
        before = list(self.lane.ready)
        held_back = bool(self.in_flight or self.waiting)
        pending = self.lane.pending
        super()._begin()
        one = self.in_flight[-1]
        told: Batching = self.options["batching"]
        assert one.size <= told.max_events
        if one in self.sent:
            assert one.message is self.sent[one], "the same bytes, the same id"
            return
        if one.parts:
            full = len(before) >= told.max_events or pending >= self.options["capacity"]
            since = one.parts[0].since
            assert full or since <= self.sealed or self.now >= since + told.linger
            bodies = sum(len(event.message.body) + 1 for event in one.parts) - 1
            assert bodies <= told.max_bytes or one.size == 1
        if self.options["ordered"]:
            assert not held_back
            assert list(parts(one)) == self.unfinished[: one.size]

    def _settle(self, which: int, result: Reply | Failure) -> None:
        one = self.in_flight[which % len(self.in_flight)]
        super()._settle(which, result)
        if one.join is None:
            self.sent[one] = one.message


class SwitchedLaneMachine(ReconfiguredLaneMachine):
    """In order, with batches turned on and off in the middle of it all."""

    @rule(batching=BATCHINGS | st.none())
    def switch(self, batching: Batching | None) -> None:
        self.options["batching"] = batching
        self.reconfigure(**{key: self.options[key] for key in ("capacity", "share")})

    @rule(broken=st.booleans())
    def fail_to_join(self, broken: bool) -> None:
        self.broken = broken


TestLaneMachine = LaneMachine.TestCase
TestLaneMachine.settings = settings(RELAXED, max_examples=50, stateful_step_count=30)
TestBatchingLaneMachine = BatchingLaneMachine.TestCase
TestBatchingLaneMachine.settings = settings(RELAXED, max_examples=120, stateful_step_count=30)
TestSwitchedLaneMachine = SwitchedLaneMachine.TestCase
TestSwitchedLaneMachine.settings = settings(RELAXED, max_examples=120, stateful_step_count=30)
TestReconfiguredLaneMachine = ReconfiguredLaneMachine.TestCase
TestReconfiguredLaneMachine.settings = settings(RELAXED, max_examples=120, stateful_step_count=30)


# --- What is leased from the outbox ---


def lent(
    to: Lane, *ids: str, until: float = 1000.0, retry: WebhookRetry | None = None
) -> list[Delivery]:
    made = [delivery(one) for one in ids]
    for one in made:
        one.lease, one.until = f"lease of {one.message.id}", until
        one.retry = retry or one.retry
        assert to.lend(one)
    return made


class TestLent:
    def test_counts_as_received_and_ends_as_delivered(self) -> None:
        ops = lane()
        lent(ops, "1")
        assert ops.settle(taken(ops), OK, 0.0)
        assert (ops.stats().received, ops.stats().delivered, ops.pending) == (1, 1, 0)
        assert balanced(ops)

    def test_the_backlog_does_not_limit_it(self) -> None:
        ops = lane(capacity=1)
        lent(ops, "1", "2", "3")
        assert ops.pending == 3

    def test_the_outbox_keeps_the_time_of_a_retry(self) -> None:
        ops = lane()
        lent(ops, "1")
        assert ops.settle(taken(ops), retry_at(), 0.0)
        stats = ops.stats()
        assert (stats.retried, stats.stored, stats.waiting, stats.pending) == (1, 1, 0, 0)
        assert balanced(ops)

    def test_an_endpoint_that_is_gone_takes_none_and_kills_none(self) -> None:
        ops = lane(share=4)
        lent(ops, "1", "2", "3")
        ops.settle(taken(ops), GONE, 0.0)
        assert len(ops.give_up([])) == 2
        assert (ops.stats().dead, ops.stats().stored) == (1, 2)
        assert not ops.lend(delivery("4"))
        assert ops.appetite(0.0) == 0
        assert balanced(ops)

    def test_a_removed_endpoint_drops_none(self) -> None:
        ops = lane()
        lent(ops, "1", "2")
        ops.give_up([], "endpoint_removed")
        assert (ops.stats().dropped, ops.stats().stored) == ({}, 2)

    def test_what_is_in_flight_is_not_taken_out(self) -> None:
        ops = lane()
        first, second = lent(ops, "1", "2")
        assert taken(ops) is first
        assert ops.unlend() == [second]
        assert (ops.stats().in_flight, ops.stats().queued, ops.stats().stored) == (1, 0, 1)
        assert balanced(ops)

    def test_only_what_is_lost_is_taken_out(self) -> None:
        ops = lane()
        (old,) = lent(ops, "1", until=10.0)
        lent(ops, "2", until=20.0)
        assert ops.unlend(9.9) == []
        assert ops.unlend(10.0) == [old]
        assert ready(ops) == ["2"]
        assert balanced(ops)


class TestAppetite:
    def test_is_small_until_something_was_delivered(self) -> None:
        ops = lane(share=8)
        assert ops.appetite(0.0) == AHEAD
        lent(ops, "1")
        assert ops.appetite(0.0) == AHEAD - 1
        ops.settle(taken(ops), OK, 0.0)
        assert ops.appetite(0.0) == 2 * AHEAD

    def test_has_a_limit(self) -> None:
        ops = lane(share=100)
        for _ in range(100):
            lent(ops, "1")
            ops.settle(taken(ops), OK, 0.0)
        assert ops.appetite(0.0) == MOST_AHEAD
        lent(ops, *map(str, range(MOST_AHEAD + 3)))
        assert ops.appetite(0.0) == 0

    def test_an_open_circuit_wants_one_probe_when_it_is_time(self) -> None:
        ops = lane(initial=8.0)
        for _ in range(OPEN_AFTER):
            lent(ops, "1")
            ops.settle(taken(ops), retry_at(), 0.0)
        assert ops.open
        assert ops.appetite(ops.probe_at - 0.1) == 0
        assert ops.appetite(ops.probe_at) == 1
        lent(ops, "2")
        assert ops.appetite(ops.probe_at) == 0

    def test_after_an_outage_it_begins_anew(self) -> None:
        ops = lane(share=100)
        for result in [OK] * 20 + [retry_at()] * OPEN_AFTER + [OK]:
            lent(ops, "1")
            ops.settle(taken(ops), result, 0.0)
        assert ops.appetite(0.0) == 2 * AHEAD


class LendingLaneMachine(LaneMachine):
    """Some of the deliveries are leased: they come back after one attempt, or without any."""

    def _start(self, ordered: bool, capacity: int, share: int, retries: int) -> None:
        super()._start(ordered, capacity, share, retries)
        self.leased: list[Delivery] = []  # and not in flight
        self.flying: list[Delivery] = []

    @rule(seconds=st.sampled_from([0.5, 50.0]))
    def lend(self, seconds: float) -> None:
        one = delivery(f"leased-{self.number}")
        one.lease, one.until = self.number, self.now + seconds
        self.number += 1
        if self.lane.lend(one):
            self.counts["received"] += 1
            self.leased.append(one)
        else:
            assert self.lane.off

    @rule(lost=st.booleans())
    def unlend(self, lost: bool) -> None:
        ended = self.lane.unlend(self.now) if lost else self.lane.unlend()
        assert ended == [one for one in self.leased if not lost or one.until <= self.now]
        self.leased = [one for one in self.leased if one not in ended]
        self.counts["stored"] += len(ended)

    def _begin(self) -> None:
        if self.lane.ready[0].lease is None:
            super()._begin()
            return
        one = self.lane.take(0.0)
        assert one.size == 1
        self.leased.remove(one)
        self.flying.append(one)
        self.in_flight.append(one)
        self.unfinished.append(one)

    def _settle(self, which: int, result: Reply | Failure) -> None:
        one = self.in_flight[which % len(self.in_flight)]
        if one.lease is None:
            super()._settle(which, result)
            return
        self.in_flight.remove(one)
        self.flying.remove(one)
        self.unfinished.remove(one)
        outcome = one.retry.decide(result, self.now)
        assert self.lane.settle(one, outcome, self.now)
        self.failures = 0 if isinstance(outcome, Delivered) else self.failures + 1
        if isinstance(outcome, RetryAt):
            self.counts["retried"] += 1
            self.counts["stored"] += 1
        else:
            self.counts["delivered" if isinstance(outcome, Delivered) else "dead"] += 1
        if self.lane.off:
            self._give_up(None)

    def _give_up(self, reason: str | None) -> None:
        under_way = len(self.unfinished) - len([o for o in self.unfinished if o.lease is None])
        assert under_way == len(self.flying)
        ended = self.lane.give_up([one for _, one in self.waiting], reason)
        back = [one for one in ended if one.lease is not None]
        assert sorted(map(id, back)) == sorted(map(id, self.leased))
        self.leased.clear()
        self.waiting.clear()
        self.counts["stored"] += len(back)
        self.counts["dead" if reason is None else "dropped"] += len(ended) - len(back)
        self.unfinished = [one for one in self.unfinished if one in self.in_flight]

    @invariant()
    def the_books_balance(self) -> None:
        if not hasattr(self, "lane"):
            return
        stats = self.lane.stats()
        assert balanced(self.lane)
        assert stats.stored == self.counts["stored"]
        assert stats.pending == len(self.unfinished) + len(self.leased)
        for name in ("received", "delivered", "dead", "retried"):
            assert getattr(stats, name) == self.counts[name]

    def teardown(self) -> None:
        if hasattr(self, "lane") and sys.exc_info()[0] is None:
            self.unlend(False)
        super().teardown()

    # The room in the backlog is another one here: what is leased counts, too.
    @rule(keys=st.lists(st.sampled_from(["a", "b", "", None]), min_size=1, max_size=4))
    def offer(self, keys: list[str | None]) -> None:
        for key in keys:
            message = Message(str(self.number), "a.b", key, "application/json", b"{}")
            one = Delivery(message, WebhookRetry(total=self.retries), since=self.now)
            self.number += 1
            self.counts["received"] += 1
            room = not self.lane.off and self.lane.pending < self.options["capacity"]
            assert self.lane.offer(one) is room
            if room:
                self.unfinished.append(one)
            else:
                self.counts["dropped"] += 1


LendingLaneMachine.TestCase.settings = LaneMachine.TestCase.settings
TestLendingLaneMachine = LendingLaneMachine.TestCase
