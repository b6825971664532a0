"""The dispatcher: its schedule by hand, without a thread; its threads with a fake ``send``."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from loopback import Clock

import cubehook.threads
from cubehook.dispatcher import Dispatcher
from cubehook.lane import LONGEST_PROBE_PAUSE, OPEN_AFTER, Batching, Delivery, LaneSettings
from cubehook.message import Message
from cubehook.outcome import Dead, Delivered, Failure, Reply, RetryAt
from cubehook.pace import Effort
from cubehook.rate import Rate
from cubehook.retry import WebhookRetry
from cubehook.schedule import Formatted, Job, Schedule
from cubehook.stats import EndpointStats

PATIENCE = 10.0

OK = Reply(204)
BUSY = Reply(503)
MISSING = Reply(404)
GONE = Reply(410)

Send = Callable[[Message, float | None], Reply | Failure]


def never(message: Message, limit: float | None) -> Reply:
    raise AssertionError("a schedule sends nothing")


def lane(
    name: str,
    send: Send = never,
    *,
    capacity: int = 100_000,
    share: int = 8,
    ordered: bool = True,
    retries: int = 10,
    initial: float = 8.0,
    batching: Batching | None = None,
    rate: Rate | None = None,
) -> LaneSettings:
    policy = WebhookRetry(total=retries, backoff_factor=initial, backoff_max=3600.0)
    return LaneSettings(name, send, policy, capacity, share, ordered, batching, rate)


def joined(messages: Sequence[Message]) -> Message:
    body = b"+".join(message.body for message in messages)
    return Message(body.decode(), "cubehook.batch", None, "text/plain", body)


def unjoinable(messages: Sequence[Message]) -> Message:
    raise ValueError("from a format of the application's")


def batches(
    max_events: int = 100,
    linger: float = 0.0,
    join: Callable[[Sequence[Message]], Message] = joined,
) -> Batching:
    return Batching(max_events, linger, 100_000, join)


def message(text: str, key: str | None = None) -> Message:
    return Message(text, "a.b", key, "text/plain", text.encode())


def balances(stats: EndpointStats) -> bool:
    ended = stats.delivered + stats.dead + sum(stats.dropped.values()) + stats.stored
    return stats.received == ended + stats.pending


# --- By hand: the test is the worker, and the clock stands still ---


class Bench:
    """A schedule, with the test as the worker that takes jobs and settles them."""

    def __init__(self, clock: Callable[[], float], *lanes: LaneSettings, most: int = 8) -> None:
        self.schedule = Schedule(most)
        self.clock = clock
        self.update(*lanes)

    def update(self, *lanes: LaneSettings) -> None:
        self.schedule.set_lanes(lanes, self.clock())

    def log(self, name: str, *texts: str, key: str | None = None) -> None:
        for text in texts:
            self.offer((name, message(text, key)))

    def offer(self, *batch: tuple[str, Message | str]) -> bool:
        return self.schedule.fan_out(Formatted(batch), self.clock())

    def hurry(self) -> None:
        self.schedule.hurry(self.clock())

    def take(self) -> Job | None:
        job = self.schedule.next(self.clock())
        if job is not None:
            job.delivery.prepare()
        return job

    def take_all(self) -> list[Job]:
        return list(iter(self.take, None))

    def settle(
        self, job: Job | None, result: Reply | Failure = OK, effort: Effort | None = None
    ) -> str:
        """Hand in what the attempt brought; returns which message it was."""
        assert job is not None
        outcome = job.delivery.retry.decide(result, self.clock())
        self.schedule.settle(job, outcome, self.clock(), effort)
        return job.delivery.message.id

    def run(self, result: Reply | Failure = OK) -> list[str]:
        """Attempt whatever may be attempted now, one after the other."""
        return [self.settle(job, result) for job in iter(self.take, None)]

    def stats(self, name: str) -> EndpointStats:
        return self.schedule.census().endpoints[name]


def names(jobs: list[Job]) -> list[str]:
    return [job.lane.name for job in jobs]


@pytest.fixture
def bench(clock: Clock) -> Callable[..., Bench]:
    def make(*lanes: LaneSettings, most: int = 8) -> Bench:
        return Bench(clock, *lanes, most=most)

    return make


def test_due_time_a_retry_comes_neither_early_nor_late(
    bench: Callable[..., Bench], clock: Clock
) -> None:
    one = bench(lane("a", initial=8.0))
    one.log("a", "first")
    one.run(BUSY)
    clock.advance(3.99)  # the first backoff is 4 to 8 seconds
    assert one.take() is None
    assert one.stats("a").waiting == 1
    clock.advance(4.02)
    assert one.run() == ["first"]
    assert one.stats("a").delivered == 1


def test_due_time_a_retry_goes_before_what_came_after_it(
    bench: Callable[..., Bench], clock: Clock
) -> None:
    one = bench(lane("a"))
    one.log("a", "first")
    one.run(BUSY)
    clock.advance(8.1)
    one.log("a", "second", "third")
    assert one.run() == ["first", "second", "third"]


def test_due_times_the_heap_is_ordered_by_moment(bench: Callable[..., Bench], clock: Clock) -> None:
    one = bench(
        *(lane(name, initial=initial) for name, initial in zip("abc", (64, 4, 16), strict=True))
    )
    for name in "abc":
        one.log(name, name)
    one.run(BUSY)
    order = []
    for _ in range(80):
        clock.advance(1)
        order += one.run()
    assert order == ["b", "c", "a"]


def test_retry_after_is_a_floor(bench: Callable[..., Bench], clock: Clock) -> None:
    one = bench(lane("a", initial=0.1))
    one.log("a", "first")
    one.run(Reply(503, retry_after="30"))
    clock.advance(29.9)
    assert one.run() == []
    clock.advance(0.2)
    assert one.run() == ["first"]


def test_retries_end(bench: Callable[..., Bench], clock: Clock) -> None:
    one = bench(lane("a", retries=2, initial=0.1))
    one.log("a", "first")
    attempts = 0
    for _ in range(10):
        attempts += len(one.run(BUSY))
        clock.advance(100)
    assert attempts == 3
    assert (one.stats("a").dead, one.stats("a").retried) == (1, 2)
    assert one.schedule.pending == 0


def test_rate_limit_so_many_in_any_such_time(bench: Callable[..., Bench], clock: Clock) -> None:
    one = bench(lane("a", rate=Rate(2, 60.0)), lane("b"))
    one.log("a", "1", "2", "3", "4", "5")
    one.log("b", "free")
    assert sorted(one.run()) == ["1", "2", "free"]
    clock.advance(59.9)
    assert one.run() == []
    clock.advance(0.2)
    assert one.run() == ["3", "4"]
    clock.advance(60.1)
    assert one.run() == ["5"]


def test_rate_limit_wakes_who_watches_the_time(bench: Callable[..., Bench], clock: Clock) -> None:
    one = bench(lane("a", rate=Rate(1, 60.0)))
    one.log("a", "1", "2")
    one.run()
    assert one.schedule.next_due == clock() + 60.0


def test_rate_limit_counts_retries_and_outlasts_the_last_chance(
    bench: Callable[..., Bench], clock: Clock
) -> None:
    one = bench(lane("a", initial=0.1, rate=Rate(2, 60.0)))
    one.log("a", "1", "2")
    assert one.settle(one.take(), BUSY) == "1"
    assert one.run() == ["2"]
    clock.advance(1.0)
    one.hurry()
    assert one.run() == []
    clock.advance(59.1)
    assert one.run() == ["1"]


def test_rate_limit_is_remembered_when_the_endpoints_are_updated(
    bench: Callable[..., Bench], clock: Clock
) -> None:
    one = bench(lane("a", rate=Rate(1, 60.0)))
    one.log("a", "1", "2", "3")
    assert one.run() == ["1"]
    one.update(lane("a", rate=Rate(1, 60.0)))
    assert one.run() == []
    one.update(lane("a", rate=Rate(1, 30.0)))
    assert one.run() == ["2"], "another limit counts from now on"
    one.update(lane("a"))
    assert one.run() == ["3"]


def test_rate_limit_leases_no_more_than_may_be_sent(
    bench: Callable[..., Bench], clock: Clock
) -> None:
    one = bench(lane("a", rate=Rate(3, 60.0)))
    assert one.schedule.appetites(clock()) == {"a": 3}
    one.log("a", "1", "2")
    assert one.schedule.appetites(clock()) == {"a": 1}
    one.run()
    assert one.schedule.appetites(clock()) == {"a": 1}
    clock.advance(60.1)
    assert one.schedule.appetites(clock()) == {"a": 3}


def test_rate_limit_leases_more_while_attempts_are_under_way(
    bench: Callable[..., Bench], clock: Clock
) -> None:
    """An answer may take longer than the time of the limit: it holds nothing up."""
    one = bench(lane("a", share=4, rate=Rate(2, 1.0)))
    one.log("a", "1", "2")
    one.run()
    clock.advance(1.1)
    one.log("a", "3", "4", "5")
    assert len(one.take_all()) == 2, "and one waits"
    assert one.schedule.appetites(clock()) == {"a": 0}
    clock.advance(1.1)
    assert one.schedule.appetites(clock()) == {"a": 1}


@given(
    limit=st.builds(Rate, st.integers(1, 3), st.sampled_from([0.5, 7.0, 60.0])),
    linger=st.sampled_from([None, 0.0, 10.0]),
    steps=st.lists(
        st.sampled_from(["log", "log", "succeed", "fail", "later", "due", "hurry", "flush"]),
        max_size=60,
    ),
)
@settings(deadline=None)
def test_rate_limit_nobody_spins_and_nobody_oversleeps(
    limit: Rate, linger: float | None, steps: list[str]
) -> None:
    """With retries, an open circuit and batches: there is an alarm for all that waits for a time,
    it is never for now, and in the end nothing is left."""
    clock = Clock()
    batching = None if linger is None else batches(3, linger)
    one = Bench(clock, lane("a", rate=limit, share=2, retries=2, batching=batching))
    jobs: list[Job] = []
    begun: list[float] = []

    def work() -> None:
        jobs.extend(new := one.take_all())
        begun.extend(clock() for _ in new)
        assert sum(clock() < moment + limit.seconds for moment in begun) <= limit.most
        due = one.schedule.next_due
        assert due is None or due > clock(), "the thread with the timer would spin"
        assert jobs or due is not None or not one.schedule.pending, "nobody would wake up"

    def wait() -> None:
        clock.advance(max((one.schedule.next_due or clock()) - clock(), 0.0))

    numbers = itertools.count()
    actions: dict[str, Callable[[], object]] = {
        "log": lambda: one.log("a", str(number := next(numbers)), key=str(number % 2)),
        "succeed": lambda: jobs and one.settle(jobs.pop(0)),
        "fail": lambda: jobs and one.settle(jobs.pop(0), BUSY),
        "later": lambda: clock.advance(0.4),
        "due": wait,
        "hurry": one.hurry,
        "flush": lambda: one.schedule.new_generation(clock()),
    }
    for step in steps:
        actions[step]()
        work()
    for _ in range(4 * len(steps) + 4):
        while jobs:
            one.settle(jobs.pop())
        work()
        if not jobs:
            wait()
    assert one.schedule.pending == 0
    assert balances(one.stats("a"))


def test_a_failure_may_say_how_long_to_wait(bench: Callable[..., Bench], clock: Clock) -> None:
    one = bench(lane("a", initial=0.1))
    one.log("a", "1")
    one.run(Failure("too fast", wait=30.0))
    clock.advance(29.9)
    assert one.run() == []
    clock.advance(0.2)
    assert one.run() == ["1"]


def test_order_by_key_a_retry_holds_back_its_own_key_only(
    bench: Callable[..., Bench], clock: Clock
) -> None:
    one = bench(lane("a", initial=8.0))
    one.log("a", "x1", "x2", "x3", key="x")
    one.log("a", "y1", "y2", key="y")
    one.log("a", "free")
    assert one.settle(one.take(), BUSY) == "x1"
    assert one.run() == ["y1", "free", "y2"]
    assert one.stats("a").queued == 2
    clock.advance(8.1)
    assert one.run() == ["x1", "x2", "x3"]


def test_order_by_key_one_attempt_at_a_time_for_each_key(bench: Callable[..., Bench]) -> None:
    one = bench(lane("a", share=8))
    one.log("a", "warm", "up")
    one.run()
    one.log("a", "x1", "x2", "x3", key="x")
    (job,) = one.take_all()
    assert job.delivery.message.id == "x1"
    one.settle(job)
    assert one.run() == ["x2", "x3"]


def test_order_by_key_a_dead_delivery_lets_the_next_go(bench: Callable[..., Bench]) -> None:
    one = bench(lane("a"))
    one.log("a", "x1", "x2", key="x")
    assert one.settle(one.take(), MISSING) == "x1"
    assert one.run() == ["x2"]
    assert (one.stats("a").dead, one.stats("a").delivered) == (1, 1)


def test_unordered_a_key_holds_nothing_back(bench: Callable[..., Bench], clock: Clock) -> None:
    one = bench(lane("a", ordered=False))
    one.log("a", "x1", "x2", key="x")
    assert one.settle(one.take(), BUSY) == "x1"
    assert one.run() == ["x2"]


def test_order_by_key_survives_a_lane_that_goes_and_comes_back(
    bench: Callable[..., Bench],
) -> None:
    one = bench(lane("a"))
    one.log("a", "old", key="x")
    old = one.take()
    one.update()
    one.update(lane("a"))
    one.log("a", "x1", "x2", key="x")
    one.settle(old)  # it must not be taken for x1
    assert [job.delivery.message.id for job in one.take_all()] == ["x1"]


def test_order_by_key_survives_a_lane_that_becomes_ordered(bench: Callable[..., Bench]) -> None:
    one = bench(lane("a", ordered=False))
    one.log("a", "x1", key="x")
    first = one.take()
    one.update(lane("a", ordered=True))
    one.log("a", "x2", "x3", key="x")
    one.settle(first)
    assert [job.delivery.message.id for job in one.take_all()] == ["x2"]


def test_a_dead_lane_costs_the_others_nothing(bench: Callable[..., Bench]) -> None:
    one = bench(lane("dead"), lane("alive"), most=2)
    one.log("dead", *(f"d{number}" for number in range(50)))
    one.log("alive", *(f"a{number}" for number in range(50)))
    stuck: list[Job] = []
    delivered = []
    while job := one.take():
        if job.lane.name == "dead":
            stuck.append(job)
        else:
            delivered.append(one.settle(job))
    assert delivered == [f"a{number}" for number in range(50)]
    assert len(stuck) == 1


def test_turns_are_fair(bench: Callable[..., Bench]) -> None:
    one = bench(*(lane(name) for name in "abc"), most=1)
    for name in "abc":
        one.log(name, *(f"{name}{number}" for number in range(4)))
    order = [text[0] for text in one.run()]
    assert order == list("abc" * 4)


def test_share_bounds_the_attempts_at_once(bench: Callable[..., Bench]) -> None:
    one = bench(lane("a", share=3, ordered=False), most=16)
    one.log("a", *map(str, range(20)))
    most = 0
    for _ in range(20):
        jobs = one.take_all()
        most = max(most, one.stats("a").in_flight)
        for job in jobs:
            one.settle(job)
    assert most == 3
    assert one.stats("a").delivered == 20


def test_a_lane_that_never_succeeded_has_one_attempt_at_once(bench: Callable[..., Bench]) -> None:
    one = bench(lane("a", ordered=False), most=16)
    one.log("a", *map(str, range(20)))
    assert len(one.take_all()) == 1


@pytest.mark.parametrize(
    ("seconds", "useful"), [(0.001, 1), (0.0025, 4), (0.1, 8)], ids=["quick", "middling", "slow"]
)
def test_a_lane_has_as_many_attempts_at_once_as_are_of_use(
    bench: Callable[..., Bench], seconds: float, useful: int
) -> None:
    """An attempt computes for a millisecond: one suffices where the answer takes no longer."""
    one = bench(lane("a", share=8, ordered=False), most=16)
    one.log("a", *map(str, range(300)))
    for _ in range(10):
        jobs = one.take_all()
        for job in jobs:
            one.settle(job, OK, Effort(seconds, computing=0.001))
    assert len(one.take_all()) == useful


def test_a_failure_takes_the_threads_back(bench: Callable[..., Bench]) -> None:
    one = bench(lane("a", ordered=False), most=16)
    one.log("a", *map(str, range(40)))
    for _ in range(2):
        for job in one.take_all():
            one.settle(job)
    jobs = one.take_all()
    assert len(jobs) > 1
    for job in jobs:
        one.settle(job, BUSY)
    assert len(one.take_all()) == 1


def test_suspects_get_half_of_the_threads_at_most(
    bench: Callable[..., Bench], clock: Clock
) -> None:
    failing = [f"f{number}" for number in range(10)]
    one = bench(*(lane(name) for name in [*failing, "good"]), most=6)
    for name in failing:
        one.log(name, "1", "2", "3")
    one.run(BUSY)
    clock.advance(100)
    one.log("good", *map(str, range(5)))
    jobs = one.take_all()
    assert sum(job.suspect for job in jobs) == 3
    assert "good" in names(jobs)
    assert len(jobs) == 4


def test_suspects_are_not_starved(bench: Callable[..., Bench], clock: Clock) -> None:
    one = bench(lane("failing"), lane("good"), most=1)
    one.log("failing", "late")
    one.run(BUSY)
    one.log("good", *map(str, range(10)))
    clock.advance(100)
    assert "late" in one.run()[:2]


def test_the_circuit_opens_and_probes_one_at_a_time(
    bench: Callable[..., Bench], clock: Clock
) -> None:
    one = bench(lane("a", ordered=False, initial=0.5, retries=1000))
    one.log("a", *map(str, range(20)))
    failed = 0
    while one.stats("a").state == "closed":
        failed += len(one.run(BUSY))
        clock.advance(0.1)
    assert one.stats("a").failures_in_row == failed == OPEN_AFTER
    assert one.take() is None, "an open circuit pauses before it probes"
    clock.advance(LONGEST_PROBE_PAUSE)
    (probe,) = one.take_all()
    one.settle(probe, BUSY)
    assert one.stats("a").state == "open"
    clock.advance(LONGEST_PROBE_PAUSE)
    one.settle(one.take())
    assert (one.stats("a").state, one.stats("a").failures_in_row) == ("closed", 0)
    assert one.take() is not None


def test_a_lane_is_probed_again_and_again(bench: Callable[..., Bench], clock: Clock) -> None:
    one = bench(lane("a", initial=1.0, retries=1000))
    one.log("a", *map(str, range(20)))
    probes = 0
    for _ in range(3600):
        probes += len(one.run(BUSY))
        clock.advance(1)
    assert 3600 / LONGEST_PROBE_PAUSE / 2 <= probes <= 3600 / LONGEST_PROBE_PAUSE * 2 + 20
    assert one.stats("a").pending == 20


def test_410_switches_the_lane_off_until_the_update(bench: Callable[..., Bench]) -> None:
    one = bench(lane("a"), lane("b"))
    one.log("a", "1", "2", "3")
    one.log("b", "1")
    gone = one.take()
    assert gone is not None
    assert gone.lane.name == "a"
    one.settle(gone, GONE)
    stats = one.stats("a")
    assert (stats.state, stats.dead, stats.pending) == ("off", 3, 0)
    one.log("a", "4")
    assert one.stats("a").dropped == {"switched_off": 1}
    assert one.run() == ["1"], "the other lane goes on"
    one.update(lane("a"), lane("b"))
    assert one.stats("a").state == "closed"
    one.log("a", "5")
    assert one.run() == ["5"]
    assert balances(one.stats("a"))


def test_410_ends_what_waits_for_a_retry(bench: Callable[..., Bench], clock: Clock) -> None:
    one = bench(lane("a"))
    one.log("a", "1", "2")
    one.settle(one.take(), BUSY)
    one.settle(one.take(), GONE)
    assert (one.stats("a").dead, one.stats("a").pending) == (2, 0)
    clock.advance(100)
    assert one.take() is None


def test_update_keeps_the_backlog_by_name(bench: Callable[..., Bench], clock: Clock) -> None:
    one = bench(lane("a"), lane("b"))
    one.log("a", "x1", "x2", "x3", key="x")
    one.settle(one.take(), BUSY)
    one.update(lane("a"), lane("c"))
    assert one.stats("a").pending == 3
    clock.advance(8.1)
    assert one.run() == ["x1", "x2", "x3"]


def test_update_drops_what_a_removed_lane_had_waiting(
    bench: Callable[..., Bench], clock: Clock
) -> None:
    one = bench(lane("a"), lane("b"))
    one.log("a", "retried", "under way", "held", key="x")
    one.log("a", "ready", "ready too")
    one.settle(one.take(), BUSY)
    under_way = one.take()
    assert under_way is not None
    one.update(lane("b"))
    census = one.schedule.census()
    assert "a" not in census.endpoints
    removed = census.removed
    assert removed.dropped == {"endpoint_removed": 4}
    assert removed.in_flight == 1
    assert balances(removed)
    one.settle(under_way)
    removed = one.schedule.census().removed
    assert (removed.delivered, removed.pending) == (1, 0)
    assert one.schedule.pending == 0
    clock.advance(100)
    assert one.take() is None


def test_lanes_that_come_and_go_leave_nothing_behind(bench: Callable[..., Bench]) -> None:
    one = bench()
    for number in range(2000):
        one.update(lane(f"tenant-{number}"))
        one.log(f"tenant-{number}", "1")
        one.run()
    census = one.schedule.census()
    assert sum(stats.delivered for stats in [*census.endpoints.values(), census.removed]) == 2000
    assert len(one.schedule._retired) < 1000, "endpoints long gone still cost memory"


def test_the_backlog_is_bounded_for_each_lane(bench: Callable[..., Bench]) -> None:
    one = bench(lane("a", capacity=3), lane("b", capacity=100))
    for number in range(5):
        one.offer(("a", message(str(number))), ("b", message(str(number))))
    assert one.stats("a").dropped == {"backlog_full": 2}
    assert (one.stats("a").pending, one.stats("b").pending) == (3, 5)
    assert [text for text in one.run() if one.stats("a")].count("4") == 1


def test_submit_says_whether_something_was_dropped(bench: Callable[..., Bench]) -> None:
    one = bench(lane("a", capacity=1))
    assert one.offer(("a", message("1"))) is False
    assert one.offer(("a", message("2"))) is True
    assert one.offer(("a", "too_large")) is True
    assert one.stats("a").dropped == {"backlog_full": 1, "too_large": 1}
    assert one.offer(("no such lane", message("3"))) is False
    assert one.schedule.census().fanned_out == 4


def test_hurry_makes_retries_due_but_not_before_their_retry_after(
    bench: Callable[..., Bench], clock: Clock
) -> None:
    one = bench(lane("a", initial=600.0), lane("b", initial=600.0))
    one.log("a", "soon")
    one.log("b", "not before")
    one.settle(one.take(), BUSY)
    one.settle(one.take(), Reply(429, retry_after="60"))
    assert one.take() is None
    one.hurry()
    assert one.run() == ["soon"]
    clock.advance(60.1)
    assert one.run() == ["not before"], "hurry lets it go at the earliest moment allowed"


def test_hurry_probes_an_open_circuit(bench: Callable[..., Bench], clock: Clock) -> None:
    one = bench(lane("a", initial=600.0))
    one.log("a", *map(str, range(10)))
    one.run(BUSY)
    assert one.stats("a").state == "open"
    assert one.take() is None
    one.hurry()
    (probe,) = one.take_all()
    one.settle(probe)
    assert len(one.run()) == 9


def test_hurry_a_probe_that_fails_is_followed_by_an_earlier_one(
    bench: Callable[..., Bench], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pause before a probe has jitter: the next one may be due before the last would have."""
    one = bench(lane("a", initial=600.0))
    one.log("a", *map(str, range(10)))
    monkeypatch.setattr(random, "random", lambda: 1.0)
    one.run(BUSY)
    one.hurry()
    monkeypatch.setattr(random, "random", lambda: 0.0)
    one.settle(one.take(), BUSY)
    assert one.take() is None
    clock.advance(LONGEST_PROBE_PAUSE / 2)
    assert one.take() is not None


def test_batch_its_alarm_comes_neither_early_nor_late(
    bench: Callable[..., Bench], clock: Clock
) -> None:
    one = bench(lane("a", batching=batches(linger=5.0)))
    one.log("a", "1")
    clock.advance(4.9)
    one.log("a", "2")
    assert one.take() is None
    assert one.schedule.next_due == clock.now + 5.0 - 4.9
    clock.advance(0.1)
    assert one.run() == ["1+2"]
    assert one.schedule.next_due is None
    assert balances(one.stats("a"))


def test_batch_alarms_do_not_pile_up(bench: Callable[..., Bench], clock: Clock) -> None:
    """Each batch is full long before the time of its alarm."""
    one = bench(lane("a", batching=batches(2, linger=3600.0)))
    for _ in range(1000):
        one.log("a", "1", "2")
        assert one.run() == ["1+2"]
        clock.advance(1.0)
    assert len(one.schedule._heap) <= 1
    one.log("a", "1")
    clock.advance(3599.9)
    assert one.run() == []
    clock.advance(0.1)
    assert one.run() == ["1"], "an alarm that came too early has set the right one"


def test_batch_an_update_to_a_shorter_linger_counts(
    bench: Callable[..., Bench], clock: Clock
) -> None:
    one = bench(lane("a", batching=batches(linger=3600.0)))
    one.log("a", "1")
    one.update(lane("a", batching=batches(linger=5.0)))
    clock.advance(5.0)
    assert one.run() == ["1"]


def test_batch_an_update_to_a_longer_linger_is_not_forgotten(
    bench: Callable[..., Bench], clock: Clock
) -> None:
    """The lane stands in line already, and has to be woken once more."""
    one = bench(lane("a", batching=batches()))
    one.log("a", "1")
    one.update(lane("a", batching=batches(linger=5.0)))
    assert one.run() == []
    clock.advance(5.0)
    assert one.run() == ["1"]


def test_batch_a_generation_ends_with_all_its_events(bench: Callable[..., Bench]) -> None:
    one = bench(lane("a", batching=batches(2, linger=60.0)))
    one.log("a", "1")
    last = one.schedule.new_generation(one.clock())
    one.log("a", "2", "3")
    mixed = one.take()
    assert one.take() is None
    assert one.schedule.pending_of(last)
    one.settle(mixed)
    assert not one.schedule.pending_of(last)
    assert (one.schedule.pending, one.stats("a").delivered) == (1, 2)


def test_batch_a_generation_may_be_spread_over_several(bench: Callable[..., Bench]) -> None:
    one = bench(lane("a", batching=batches(2)))
    one.log("a", "1", "2", "3")
    last = one.schedule.new_generation(one.clock())
    one.settle(one.take())
    assert one.schedule.pending_of(last)
    one.settle(one.take(), MISSING)
    assert not one.schedule.pending_of(last)


def test_batch_who_flushes_wakes_what_lingers(bench: Callable[..., Bench]) -> None:
    one = bench(lane("a", batching=batches(linger=3600.0)))
    one.log("a", "1", "2")
    assert one.schedule.idle
    one.schedule.new_generation(one.clock())
    assert one.run() == ["1+2"]


def test_batch_hurry_lets_it_gather_and_forgets_no_alarm(
    bench: Callable[..., Bench], clock: Clock
) -> None:
    one = bench(lane("a", batching=batches(linger=60.0)))
    one.log("a", "1")
    one.hurry()
    assert one.run() == []
    clock.advance(60.0)
    assert one.run() == ["1"]


def test_batch_hurry_and_retry_after(bench: Callable[..., Bench], clock: Clock) -> None:
    one = bench(lane("a", batching=batches(2)))
    one.log("a", "1", "2", "3")
    assert one.settle(one.take(), Reply(503, retry_after="60")) == "1+2"
    one.hurry()
    assert one.run() == [], "3 comes after them"
    clock.advance(60.1)
    assert one.run() == ["1+2", "3"]


def test_batch_410_ends_every_event(bench: Callable[..., Bench]) -> None:
    one = bench(lane("a", ordered=False, batching=batches(2)))
    one.log("a", "1", "2")
    one.run()
    one.log("a", *"345678")
    waiting, under_way = one.take_all()
    one.settle(waiting, BUSY)
    one.settle(under_way, GONE)
    stats = one.stats("a")
    assert (stats.state, stats.delivered, stats.dead, stats.pending) == ("off", 2, 6, 0)
    assert one.schedule.pending == 0
    assert balances(stats)


def test_batch_a_removed_lane_drops_every_event(bench: Callable[..., Bench]) -> None:
    one = bench(lane("a", ordered=False, batching=batches(2)))
    one.log("a", "1", "2")
    one.run()
    one.log("a", *"34567")
    waiting, under_way = one.take_all()
    one.settle(waiting, BUSY)
    one.update()
    removed = one.schedule.census().removed
    assert (removed.dropped, removed.in_flight) == ({"endpoint_removed": 3}, 2)
    one.settle(under_way)
    assert one.schedule.pending == 0
    assert balances(one.schedule.census().removed)


def test_batch_an_open_circuit_is_probed_and_closed(
    bench: Callable[..., Bench], clock: Clock
) -> None:
    one = bench(lane("a", ordered=False, batching=batches(2), initial=600.0))
    one.log("a", *map(str, range(20)))
    one.run(BUSY)
    assert (one.stats("a").state, one.stats("a").retried) == ("open", OPEN_AFTER)
    assert one.stats("a").waiting == 2 * OPEN_AFTER
    clock.advance(LONGEST_PROBE_PAUSE)
    (probe,) = one.take_all()
    assert probe.delivery.size == 2
    one.settle(probe)
    assert len(one.run()) == 4
    assert balances(one.stats("a"))


def test_batch_off_with_one_that_waits(bench: Callable[..., Bench], clock: Clock) -> None:
    one = bench(lane("a", batching=batches(2)))
    one.log("a", "1", "2", "3", "4", key="x")
    one.settle(one.take(), BUSY)
    one.update(lane("a"))
    one.log("a", "5", key="x")
    assert one.run() == []
    clock.advance(8.1)
    assert one.run() == ["1+2", "3", "4", "5"]
    assert one.schedule.pending == 0


def test_batch_one_that_was_retried_counts_once_when_batches_are_turned_off(
    bench: Callable[..., Bench], clock: Clock
) -> None:
    one = bench(lane("a", initial=0.1, batching=batches()))
    one.log("a", "1", "2")
    one.run(BUSY)
    clock.advance(1.0)
    assert one.run() == ["1+2"]
    one.update(lane("a"))
    one.log("a", "warm", "up")
    one.run()
    one.log("a", "x", key="x")
    one.log("a", "y", key="y")
    assert len(one.take_all()) == 2, "nothing is in a batch any more: other keys need not wait"


def test_batch_on_with_one_that_waits(bench: Callable[..., Bench], clock: Clock) -> None:
    one = bench(lane("a"))
    one.log("a", "1", "2", key="x")
    one.settle(one.take(), BUSY)
    one.update(lane("a", batching=batches()))
    one.log("a", "3", key="x")
    clock.advance(8.1)
    assert one.run() == ["1", "2+3"]
    assert one.schedule.pending == 0


# --- By hand and at random ---


class AnyOrder(RuleBasedStateMachine):
    """Whatever happens in whatever order: the counts balance, order holds, nothing is stuck."""

    LANES = ("a", "b", "c")

    @initialize(most=st.integers(1, 6), share=st.integers(1, 4))
    def begin(self, most: int, share: int) -> None:
        self.now = 0.0
        self.share = share
        self.batching: dict[str, Batching | None] = {}
        self.bench = Bench(lambda: self.now, *self.lanes(self.LANES), most=most)
        self.jobs: list[Job] = []
        self.number = 0
        self.done: dict[tuple[str, str], int] = {}

    def lanes(self, wanted: tuple[str, ...]) -> list[LaneSettings]:
        return [
            lane(
                name,
                share=self.share,
                capacity=12,
                initial=4.0,
                batching=self.batching.get(name),
            )
            for name in wanted
        ]

    @rule(name=st.sampled_from(LANES), key=st.sampled_from(["x", "y", None]))
    def log(self, name: str, key: str | None) -> None:
        self.number += 1
        self.bench.log(name, str(self.number), key=key)

    @rule()
    def take(self) -> None:
        job = self.bench.take()
        if job is not None:
            under_way = {place for one in self.jobs for place, _ in self.places(one)}
            assert under_way.isdisjoint(place for place, _ in self.places(job))
            self.jobs.append(job)

    @precondition(lambda self: self.jobs)
    @rule(which=st.integers(0), result=st.sampled_from([OK, OK, BUSY, BUSY, MISSING, GONE]))
    def settle(self, which: int, result: Reply) -> None:
        job = self.jobs.pop(which % len(self.jobs))
        self.bench.settle(job, result)
        self.check_order(job)

    def check_order(self, job: Job) -> None:
        for place, number in self.places(job):
            assert self.done.get(place, 0) <= number
            self.done[place] = number

    def places(self, job: Job) -> list[tuple[tuple[str, str], int]]:
        """Lane and key, and the number, of each event that has a key."""
        messages = [one.message for one in job.delivery.parts or (job.delivery,)]
        return [((job.lane.name, one.key), int(one.id)) for one in messages if one.key is not None]

    @rule(seconds=st.floats(0.1, 100))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def hurry(self) -> None:
        self.bench.hurry()

    # A lane with an attempt under way is not removed here: see the test of that name.
    @rule(keep=st.sets(st.sampled_from(LANES)))
    def update(self, keep: set[str]) -> None:
        keep |= {job.lane.name for job in self.jobs}
        self.bench.update(*self.lanes(tuple(keep)))
        self.bench.update(*self.lanes(self.LANES))

    @invariant()
    def counts_balance(self) -> None:
        if not hasattr(self, "bench"):
            return
        census = self.bench.schedule.census()
        every = [*census.endpoints.values(), census.removed]
        assert all(map(balances, every))
        assert sum(stats.pending for stats in every) == self.bench.schedule.pending
        assert sum(stats.in_flight for stats in every) == sum(
            job.delivery.size for job in self.jobs
        )
        assert all(count <= self.share for count in Counter(names(self.jobs)).values())
        assert all(stats.pending <= 12 for stats in every)

    @invariant()
    def no_lane_is_forgotten(self) -> None:
        if not hasattr(self, "bench"):
            return
        schedule = self.bench.schedule
        for each in schedule._lanes.values():
            alarms = [
                due.when for due in schedule._heap if (due.lane, due.delivery) == (each, None)
            ]
            if each.listed or not each.ready:
                continue
            if each.may_send(self.now):
                assert any(when <= self.now for when in alarms)
            elif (moment := each.wakes_at(self.now)) is not None:
                assert any(when <= moment for when in alarms)

    def teardown(self) -> None:
        if not hasattr(self, "bench"):
            return
        for job in self.jobs:
            self.bench.settle(job)
        for _ in range(200):
            self.bench.run()
            self.now += 100
        assert self.bench.schedule.pending == 0, "something is stuck"


AnyOrder.TestCase.settings = settings(
    max_examples=60, stateful_step_count=60, deadline=None, derandomize=True, database=None
)
TestAnyOrder = AnyOrder.TestCase


class AnyOrderOfBatches(AnyOrder):
    """The same, with batches that are turned on and off, and flushes."""

    @rule(
        name=st.sampled_from(AnyOrder.LANES),
        batching=st.none()
        | st.builds(batches, st.integers(1, 5), st.sampled_from([0.0, 1.0, 50.0, 3600.0])),
    )
    def switch(self, name: str, batching: Batching | None) -> None:
        self.batching[name] = batching
        self.bench.update(*self.lanes(self.LANES))

    @rule()
    def flush(self) -> None:
        self.bench.schedule.new_generation(self.now)


AnyOrderOfBatches.TestCase.settings = AnyOrder.TestCase.settings
TestAnyOrderOfBatches = AnyOrderOfBatches.TestCase


# --- Deliveries that are leased from the outbox ---


def leased(text: str, until: float = 1e9, retries: int = 10) -> Delivery:
    made = Delivery(message(text), WebhookRetry(total=retries, backoff_factor=8.0))
    made.lease, made.until = text, until
    return made


def test_leased_comes_back_after_one_attempt(bench: Callable[..., Bench], clock: Clock) -> None:
    one = bench(lane("a"))
    for text in ("1", "2"):
        assert one.schedule.lend("a", leased(text), clock())
    assert one.settle(one.take(), OK) == "1"
    assert one.settle(one.take(), BUSY) == "2"
    assert one.take() is None
    (first, ok), (second, later) = one.schedule.returned()
    assert (first, second) == ("1", "2")
    assert isinstance(ok, Delivered)
    assert isinstance(later, RetryAt)
    assert one.schedule.returned() == []
    assert one.schedule.pending == 0
    assert one.schedule.next_due is None


def test_leased_for_a_lane_that_is_not_there_is_refused(
    bench: Callable[..., Bench], clock: Clock
) -> None:
    one = bench(lane("a"))
    assert not one.schedule.lend("b", leased("1"), clock())
    assert one.schedule.pending == 0


def test_leased_is_not_attempted_once_the_lease_has_ended(
    bench: Callable[..., Bench], clock: Clock
) -> None:
    """Another worker may have it, and the next one of its key, too."""
    one = bench(lane("a"))
    for text, seconds in (("1", 30), ("2", 30), ("3", 60)):
        one.schedule.lend("a", leased(text, clock() + seconds), clock())
    clock.advance(30)
    assert one.run() == ["3"]
    assert sorted(back for back, outcome in one.schedule.returned() if outcome is None) == [
        "1",
        "2",
    ]
    assert one.schedule.pending == 0
    assert balances(one.stats("a"))


def test_leased_is_given_back_when_the_circuit_opens(
    bench: Callable[..., Bench], clock: Clock
) -> None:
    one = bench(lane("a"))
    for number in range(OPEN_AFTER + 3):
        one.schedule.lend("a", leased(str(number)), clock())
    assert len(one.run(BUSY)) == OPEN_AFTER
    assert one.stats("a").state == "open"
    assert one.schedule.pending == 0
    back = one.schedule.returned()
    assert [outcome for _, outcome in back[OPEN_AFTER:]] == [None] * 3


def test_leased_is_given_back_by_one_that_is_removed_or_gone(
    bench: Callable[..., Bench], clock: Clock
) -> None:
    one = bench(lane("a"), lane("b"))
    for name in ("a", "b"):
        for text in ("1", "2"):
            one.schedule.lend(name, leased(name + text), clock())
    one.settle(one.take(), GONE)
    one.update(lane("a"))
    back = dict(one.schedule.returned())
    assert isinstance(back.pop("a1"), Dead)
    assert back == {"a2": None, "b1": None, "b2": None}
    assert one.schedule.census().removed.stored == 2


def test_leased_of_a_removed_lane_under_way_comes_back_with_its_outcome(
    bench: Callable[..., Bench], clock: Clock
) -> None:
    one = bench(lane("a"))
    one.schedule.lend("a", leased("1"), clock())
    job = one.take()
    one.update()
    one.settle(job, BUSY)
    ((back, outcome),) = one.schedule.returned()
    assert back == "1"
    assert isinstance(outcome, RetryAt)
    assert one.schedule.pending == 0


class AnyOrderWithLeases(AnyOrder):
    """The same, with deliveries that are leased: each comes back once."""

    @initialize(most=st.integers(1, 6), share=st.integers(1, 4))
    def begin(self, most: int, share: int) -> None:
        super().begin(most, share)
        self.lent: set[object] = set()

    @rule(name=st.sampled_from(AnyOrder.LANES), seconds=st.sampled_from([1.0, 60.0, 1e9]))
    def lend(self, name: str, seconds: float) -> None:
        self.number += 1
        one = leased(str(self.number), self.now + seconds, retries=1)
        if self.bench.schedule.lend(name, one, self.now):
            self.lent.add(one.lease)

    @rule()
    def take_back(self) -> None:
        for lease, _ in self.bench.schedule.returned():
            self.lent.remove(lease)

    @rule()
    def give_back(self) -> None:
        self.bench.schedule.give_back()

    @invariant()
    def counts_balance(self) -> None:
        if not hasattr(self, "lent"):
            return
        census = self.bench.schedule.census()
        every = [*census.endpoints.values(), census.removed]
        assert all(map(balances, every))
        assert sum(stats.pending for stats in every) == self.bench.schedule.pending

    def teardown(self) -> None:
        if not hasattr(self, "lent"):
            return
        super().teardown()
        self.take_back()
        assert not self.lent


AnyOrderWithLeases.TestCase.settings = AnyOrder.TestCase.settings
TestAnyOrderWithLeases = AnyOrderWithLeases.TestCase


# --- With threads and a fake send ---


class Sends:
    """A fake ``send``: records, counts what runs at once, blocks or answers as told."""

    def __init__(self, *answers: Reply | Failure, default: Reply | Failure = OK) -> None:
        self.answers = list(answers)
        self.default = default
        self.sent: list[str] = []
        self.limits: list[float | None] = []
        self.most = 0
        self.quick = 0  # so many attempts do not wait for ``open``
        self.open = threading.Event()
        self.open.set()
        self.news = threading.Condition()
        self._running = 0

    def __call__(self, message: Message, limit: float | None) -> Reply | Failure:
        with self.news:
            self._running += 1
            self.most = max(self.most, self._running)
            self.sent.append(message.id)
            self.limits.append(limit)
            answer = self.answers.pop(0) if self.answers else self.default
            waits = len(self.sent) > self.quick
            self.news.notify_all()
        if waits:
            self.open.wait(PATIENCE)
        with self.news:
            self._running -= 1
        return answer

    def wait_for(self, count: int) -> None:
        with self.news:
            assert self.news.wait_for(lambda: len(self.sent) >= count, PATIENCE)


def hanging(*answers: Reply | Failure) -> Sends:
    sends = Sends(*answers)
    sends.open.clear()
    return sends


class Pool:
    """A dispatcher with real threads, which are known by name and can be waited for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.threads: list[threading.Thread] = []
        self.allowed = 1_000
        self._start = cubehook.threads.start
        self._made: list[Dispatcher] = []
        monkeypatch.setattr(cubehook.threads, "start", self.start)

    def start(self, name: str, target: Callable[[], None]) -> threading.Thread:
        if len(self.threads) >= self.allowed:
            raise RuntimeError("can't start new thread")
        thread = self._start(name, target)
        self.threads.append(thread)
        return thread

    def dispatcher(self, *lanes: LaneSettings, most: int = 8) -> Dispatcher:
        made = Dispatcher(most)
        made.set_lanes(lanes)
        self._made.append(made)
        return made

    def join(self) -> None:
        ends = time.monotonic() + PATIENCE
        for thread in self.threads:
            thread.join(max(ends - time.monotonic(), 0))
            assert not thread.is_alive(), f"{thread.name} is still there"

    def close(self) -> None:
        for made in self._made:
            made.stop()


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pool]:
    made = Pool(monkeypatch)
    yield made
    made.close()


def fill(dispatcher: Dispatcher, name: str, count: int, key: str | None = None) -> list[str]:
    texts = [f"{name}-{number}" for number in range(count)]
    for text in texts:
        dispatcher.submit([Formatted([(name, message(text, key))])])
    return texts


def test_everything_is_sent_once_and_wait_knows_when(pool: Pool) -> None:
    send = Sends()
    dispatcher = pool.dispatcher(lane("a", send))
    texts = fill(dispatcher, "a", 200)
    assert dispatcher.wait(PATIENCE) is True
    assert Counter(send.sent) == Counter(texts)
    assert send.limits == [None] * 200
    assert dispatcher.stats().endpoints["a"].delivered == 200


def test_nine_lanes_hang_and_the_tenth_gets_everything_in_order(pool: Pool) -> None:
    stuck = [hanging() for _ in range(9)]
    good = Sends()
    lanes = [lane(f"stuck-{number}", send) for number, send in enumerate(stuck)]
    dispatcher = pool.dispatcher(*lanes, lane("good", good), most=32)
    for number in range(9):
        fill(dispatcher, f"stuck-{number}", 20)
    texts = fill(dispatcher, "good", 100, key="x")
    good.wait_for(100)
    assert good.sent == texts
    assert [send.most for send in stuck] == [1] * 9, "a lane that hangs has one thread"
    for send in stuck:
        send.open.set()


def test_hanging_lanes_after_a_failure_leave_half_of_the_threads(
    pool: Pool, eventually: Callable[..., None]
) -> None:
    sends = [hanging(BUSY) for _ in range(8)]
    for send in sends:
        send.quick = 1  # the first attempt fails at once, the second one hangs
    good = Sends()
    lanes = [lane(f"f{number}", send, initial=0.01) for number, send in enumerate(sends)]
    dispatcher = pool.dispatcher(*lanes, lane("good", good), most=4)
    for number in range(8):
        fill(dispatcher, f"f{number}", 1)

    def attempts() -> int:
        return sum(len(send.sent) for send in sends)

    eventually(lambda: attempts() == 8 + 2)
    fill(dispatcher, "good", 50)
    good.wait_for(50)
    assert attempts() == 8 + 2
    for send in sends:
        send.open.set()


def test_attempts_at_once_never_exceed_the_share(pool: Pool) -> None:
    send = Sends()
    dispatcher = pool.dispatcher(lane("a", send, share=3, ordered=False), most=16)
    fill(dispatcher, "a", 300)
    assert dispatcher.wait(PATIENCE)
    assert 1 <= send.most <= 3


def test_a_lane_earns_as_many_threads_as_are_of_use(pool: Pool) -> None:
    send = Sends()
    dispatcher = pool.dispatcher(lane("a", send, share=9, ordered=False), most=16)
    fill(dispatcher, "a", 100)
    assert dispatcher.wait(PATIENCE)
    send.open.clear()
    fill(dispatcher, "a", 100)
    send.wait_for(101)
    assert send.most <= 3  # they answer at once: there is no waiting to be used
    send.open.set()


def test_a_thousand_lanes_need_no_more_than_the_threads_allowed(pool: Pool) -> None:
    sends = {f"lane-{number}": Sends() for number in range(1000)}
    dispatcher = pool.dispatcher(*(lane(name, send) for name, send in sends.items()), most=32)
    for number in range(3):
        dispatcher.submit([Formatted([(name, message(f"{name}-{number}", "x")) for name in sends])])
    assert dispatcher.wait(PATIENCE)
    assert len(pool.threads) <= 32
    for name, send in sends.items():
        assert send.sent == [f"{name}-{number}" for number in range(3)]


def test_threads_never_exceed_max_concurrency(pool: Pool) -> None:
    send = hanging()
    lanes = [lane(f"lane-{number}", send) for number in range(20)]
    dispatcher = pool.dispatcher(*lanes, most=5)
    for number in range(20):
        fill(dispatcher, f"lane-{number}", 3)
    send.wait_for(5)
    assert len(pool.threads) == 5
    send.open.set()
    assert dispatcher.wait(PATIENCE)
    assert send.most == 5
    assert len(pool.threads) == 5


def test_wait_returns_although_events_keep_coming(pool: Pool) -> None:
    """Each delivery brings forth the next one: there is never a moment without any."""
    dispatcher = pool.dispatcher()
    numbers = iter(range(1_000_000))

    def send(message_: Message, limit: float | None) -> Reply:
        dispatcher.submit([Formatted([("a", message(str(next(numbers))))])])
        return OK

    dispatcher.set_lanes([lane("a", send)])
    fill(dispatcher, "a", 5)
    started = time.monotonic()
    assert dispatcher.wait(PATIENCE) is True
    assert time.monotonic() - started < PATIENCE / 2
    assert dispatcher.pending > 0


def test_wait_gives_up_at_once_when_all_that_is_left_is_due_later(pool: Pool) -> None:
    dispatcher = pool.dispatcher(lane("a", Sends(default=BUSY), initial=600.0))
    fill(dispatcher, "a", 1)
    started = time.monotonic()
    assert dispatcher.wait(2.0) is False
    assert time.monotonic() - started < 1.0


def test_wait_waits_for_a_retry_that_is_due_in_time(pool: Pool) -> None:
    send = Sends(BUSY, BUSY)
    dispatcher = pool.dispatcher(lane("a", send, initial=0.05))
    fill(dispatcher, "a", 1)
    assert dispatcher.wait(PATIENCE) is True
    assert len(send.sent) == 3


def test_wait_is_bounded(pool: Pool) -> None:
    send = hanging()
    dispatcher = pool.dispatcher(lane("a", send))
    fill(dispatcher, "a", 1)
    started = time.monotonic()
    assert dispatcher.wait(0.2) is False
    assert 0.2 <= time.monotonic() - started < PATIENCE / 2
    send.open.set()
    assert dispatcher.wait(PATIENCE) is True


def test_wait_with_nothing_to_wait_for(pool: Pool) -> None:
    dispatcher = pool.dispatcher(lane("a", Sends()))
    assert dispatcher.wait(PATIENCE) is True
    assert pool.threads == []


def test_hurry_wakes_the_thread_that_waits_for_the_time(pool: Pool) -> None:
    send = Sends(BUSY)
    dispatcher = pool.dispatcher(lane("a", send, initial=600.0))
    fill(dispatcher, "a", 1)
    assert dispatcher.wait(PATIENCE) is False
    dispatcher.hurry()
    assert dispatcher.wait(PATIENCE) is True


def test_an_earlier_due_time_is_noticed_by_the_waiting_thread(pool: Pool) -> None:
    slow, quick = Sends(BUSY), Sends(BUSY)
    dispatcher = pool.dispatcher(
        lane("slow", slow, initial=600.0), lane("quick", quick, initial=0.1)
    )
    fill(dispatcher, "slow", 1)
    assert dispatcher.wait(PATIENCE) is False
    fill(dispatcher, "quick", 1)
    quick.wait_for(2)
    assert len(slow.sent) == 1


def test_a_retry_is_noticed_while_another_thread_keeps_the_time(pool: Pool) -> None:
    """Two idle threads: one keeps the time, the other makes the attempt that fails."""
    sends = [hanging(), hanging()]
    lanes = [lane(name, send, initial=0.02) for name, send in zip("ab", sends, strict=True)]
    dispatcher = pool.dispatcher(*lanes)
    for name, send in zip("ab", sends, strict=True):
        fill(dispatcher, name, 1)
        send.wait_for(1)
    for send in sends:
        send.open.set()
    assert dispatcher.wait(PATIENCE) is True
    assert len(pool.threads) == 2
    sends[0].answers = [BUSY]
    fill(dispatcher, "a", 1)
    assert dispatcher.wait(2.0) is True
    assert len(sends[0].sent) == 3


def test_drain_lets_the_threads_end_and_says_so(pool: Pool) -> None:
    send = hanging()
    drained = threading.Event()
    dispatcher = pool.dispatcher(lane("a", send))
    fill(dispatcher, "a", 10)
    send.wait_for(1)
    dispatcher.drain(drained.set)
    assert not drained.is_set()
    send.open.set()
    assert drained.wait(PATIENCE)
    pool.join()
    assert len(send.sent) == 10


def test_drain_keeps_retrying(pool: Pool) -> None:
    send = Sends(BUSY, BUSY)
    drained = threading.Event()
    dispatcher = pool.dispatcher(lane("a", send, initial=0.05))
    fill(dispatcher, "a", 1)
    dispatcher.drain(drained.set)
    assert drained.wait(PATIENCE)
    assert len(send.sent) == 3
    pool.join()


def test_drain_of_an_idle_dispatcher(pool: Pool) -> None:
    dispatcher = pool.dispatcher(lane("a", Sends()))
    fill(dispatcher, "a", 5)
    assert dispatcher.wait(PATIENCE)
    drained = threading.Event()
    dispatcher.drain(drained.set)
    assert drained.is_set()
    pool.join()


def test_stop_lets_the_threads_end_and_counts_what_is_left(pool: Pool) -> None:
    send = hanging()
    dispatcher = pool.dispatcher(lane("a", send))
    fill(dispatcher, "a", 10)
    send.wait_for(1)
    dispatcher.stop()
    assert dispatcher.pending == 10
    send.open.set()
    pool.join()
    assert len(send.sent) == 1
    assert dispatcher.pending == 9


def test_stop_ends_threads_that_wait_for_a_due_time(pool: Pool) -> None:
    dispatcher = pool.dispatcher(lane("a", Sends(default=BUSY), initial=600.0))
    fill(dispatcher, "a", 1)
    assert dispatcher.wait(PATIENCE) is False
    dispatcher.stop()
    pool.join()


def test_a_send_that_raises_is_a_failed_attempt(pool: Pool) -> None:
    calls: list[str] = []

    def send(message: Message, limit: float | None) -> Reply:
        calls.append(message.id)
        if len(calls) == 1:
            raise ValueError("from a scheme of the application's")
        return OK

    dispatcher = pool.dispatcher(lane("a", send, initial=0.01))
    fill(dispatcher, "a", 1)
    assert dispatcher.wait(PATIENCE) is True
    assert calls == ["a-0", "a-0"]


@contextmanager
def sampled(dispatcher: Dispatcher, wrong: list[EndpointStats]) -> Iterator[Iterator[int]]:
    """Look at the counts all the time; what does not balance is put into ``wrong``."""
    over, samples = threading.Event(), itertools.count()

    def sample() -> None:
        while not over.wait(0.0005):
            census = dispatcher.stats()
            wrong.extend(one for one in census.endpoints.values() if not balances(one))
            next(samples)

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        yield samples
    finally:
        over.set()
        sampler.join()


def test_the_counts_balance_at_any_moment_of_a_random_run(pool: Pool) -> None:
    dice = random.Random(20260701)
    rolls = [dice.choices([OK, BUSY, MISSING], [8, 3, 1])[0] for _ in range(997)]
    attempts: dict[str, list[tuple[str, int]]] = defaultdict(list)

    def sender(name: str) -> Send:
        answers = iter(rolls * 50)

        def send(message: Message, limit: float | None) -> Reply:
            attempts[name].append((message.key or "", int(message.id)))
            return next(answers)

        return send

    lanes = [
        lane(name, sender(name), capacity=200, share=4, initial=0.001, retries=2) for name in "abc"
    ]
    dispatcher = pool.dispatcher(*lanes, most=6)
    wrong: list[EndpointStats] = []
    with sampled(dispatcher, wrong) as samples:
        for number in range(1500):
            dispatcher.submit(
                [Formatted([(name, message(str(number), f"key-{number % 7}")) for name in "abc"])]
            )
        assert dispatcher.wait(PATIENCE)
    assert next(samples) > 1
    assert wrong == []
    for name, stats in dispatcher.stats().endpoints.items():
        assert (stats.received, stats.pending) == (1500, 0)
        by_key: dict[str, list[int]] = defaultdict(list)
        for key, number in attempts[name]:
            by_key[key].append(number)
        assert all(numbers == sorted(numbers) for numbers in by_key.values())


def test_batch_wait_does_not_linger(pool: Pool) -> None:
    send = Sends()
    dispatcher = pool.dispatcher(lane("a", send, batching=batches(linger=3600.0)))
    texts = fill(dispatcher, "a", 20)
    started = time.monotonic()
    assert dispatcher.wait(PATIENCE) is True
    assert time.monotonic() - started < PATIENCE / 2
    assert "+".join(send.sent) == "+".join(texts)


def test_batch_a_lane_that_lingers_wakes_by_itself(pool: Pool) -> None:
    send = Sends()
    dispatcher = pool.dispatcher(lane("a", send, batching=batches(linger=0.02)))
    fill(dispatcher, "a", 3)
    send.wait_for(1)
    assert dispatcher.wait(PATIENCE) is True


def test_batch_drain_does_not_linger(pool: Pool) -> None:
    send = Sends()
    dispatcher = pool.dispatcher(lane("a", send, batching=batches(linger=3600.0)))
    fill(dispatcher, "a", 3)
    drained = threading.Event()
    dispatcher.drain(drained.set)
    assert drained.wait(PATIENCE)
    assert send.sent == ["a-0+a-1+a-2"]
    pool.join()


@pytest.mark.parametrize("allowed", [1_000, 0], ids=["threads", "helper"])
def test_batch_what_cannot_be_joined_goes_one_by_one(pool: Pool, allowed: int) -> None:
    pool.allowed = allowed
    send = Sends(BUSY)
    settings_ = lane("a", send, initial=0.01, batching=batches(2, 3600.0, join=unjoinable))
    dispatcher = pool.dispatcher(settings_)
    texts = fill(dispatcher, "a", 5)
    assert dispatcher.wait(PATIENCE) is True
    assert send.sent == [texts[0], *texts]
    stats = dispatcher.stats().endpoints["a"]
    assert (stats.delivered, stats.retried, stats.failures_in_row) == (5, 1, 0)


def test_batch_it_is_joined_without_the_lock(pool: Pool) -> None:
    """A format of the application's may ask for the counts, or log, and wait for a lock itself."""

    def join(messages: Sequence[Message]) -> Message:
        seen.append(dispatcher.stats().endpoints["a"].in_flight)
        return joined(messages)

    seen: list[int] = []
    dispatcher = pool.dispatcher(lane("a", Sends(), batching=batches(join=join)))
    fill(dispatcher, "a", 1)
    assert dispatcher.wait(PATIENCE) is True
    assert seen == [1]


def test_batch_a_dead_one_names_each_event(pool: Pool, caplog: pytest.LogCaptureFixture) -> None:
    sends = Sends(BUSY, MISSING)
    dispatcher = pool.dispatcher(lane("a", sends, initial=0.01, batching=batches(2, 3600.0)))
    fill(dispatcher, "a", 2)
    assert dispatcher.wait(PATIENCE) is True
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [
        "endpoint 'a': cubehook.batch a-0+a-1: attempt 1 failed: status 503",
        "endpoint 'a': a.b a-0 is dead after attempt 2: status 404",
        "endpoint 'a': a.b a-1 is dead after attempt 2: status 404",
    ]


@pytest.mark.parametrize("ordered", [True, False])
def test_batch_the_counts_balance_at_any_moment_of_a_random_run(pool: Pool, ordered: bool) -> None:
    dice = random.Random(20260702)
    answers = iter(dice.choices([OK, BUSY, MISSING], [8, 3, 1], k=10_000))
    attempts: list[str] = []

    def send(message: Message, limit: float | None) -> Reply:
        answer = next(answers)
        attempts.append(message.id)
        return answer

    dispatcher = pool.dispatcher(
        lane(
            *("a", send),
            ordered=ordered,
            initial=0.001,
            retries=2,
            batching=batches(7, linger=0.002),
        )
    )
    wrong: list[EndpointStats] = []
    with sampled(dispatcher, wrong) as samples:
        texts = fill(dispatcher, "a", 1500)
        assert dispatcher.wait(PATIENCE)
    assert next(samples) > 1
    assert wrong == []
    stats = dispatcher.stats().endpoints["a"]
    assert (stats.received, stats.pending) == (1500, 0)
    sent = [text for batch in dict.fromkeys(attempts) for text in batch.split("+")]
    assert Counter(sent) == Counter(texts), "an event is in one batch only, whatever became of it"
    if ordered:
        assert sent == texts
        repeats = [batch for batch, _ in itertools.groupby(attempts)]
        assert len(repeats) == len(set(attempts)), "a retry comes before all that follows"


# --- Where no thread can be started, who waits does the work ---


def test_helper_who_waits_does_the_work(pool: Pool) -> None:
    pool.allowed = 0
    send = Sends()
    dispatcher = pool.dispatcher(lane("a", send))
    texts = fill(dispatcher, "a", 20)
    assert send.sent == []
    assert dispatcher.wait(PATIENCE) is True
    assert send.sent == texts
    assert all(limit is not None and 0 < limit <= PATIENCE for limit in send.limits)


def test_helper_waits_for_retries_that_are_due_in_time(pool: Pool) -> None:
    pool.allowed = 0
    send = Sends(BUSY, BUSY)
    dispatcher = pool.dispatcher(lane("a", send, initial=0.05))
    fill(dispatcher, "a", 1)
    assert dispatcher.wait(PATIENCE) is True
    assert len(send.sent) == 3


def test_helper_gives_up_at_once_when_all_that_is_left_is_due_later(pool: Pool) -> None:
    pool.allowed = 0
    dispatcher = pool.dispatcher(lane("a", Sends(default=BUSY), initial=600.0))
    fill(dispatcher, "a", 1)
    started = time.monotonic()
    assert dispatcher.wait(2.0) is False
    assert time.monotonic() - started < 1.0


def test_helper_works_as_an_own_thread(pool: Pool) -> None:
    pool.allowed = 0
    seen: list[bool] = []

    def send(message: Message, limit: float | None) -> Reply:
        seen.append(cubehook.threads.is_own())
        return OK

    dispatcher = pool.dispatcher(lane("a", send))
    fill(dispatcher, "a", 1)
    assert dispatcher.wait(PATIENCE)
    assert seen == [True]
    assert not cubehook.threads.is_own()


def test_helper_gives_a_hanging_lane_no_more_than_its_part_of_the_time(
    clock: Clock, pool: Pool
) -> None:
    """One endpoint hangs, the other is up: interpreter exit must not lose the other's events."""
    pool.allowed = 0
    good = Sends()

    def hang(message: Message, limit: float | None) -> Failure:
        clock.advance(60.0 if limit is None else limit)
        return Failure("timeout")

    dispatcher = Dispatcher(8, clock)
    dispatcher.set_lanes([lane("stuck", hang), lane("good", good)])
    dispatcher.submit([Formatted([("stuck", message("1")), ("good", message("2"))])])
    dispatcher.wait(1.0)
    assert clock.now <= 1001.1
    assert good.sent == ["2"]
    assert (good.limits[0] or 0) >= 0.1, "no receiver answers in a millisecond"


def test_helper_helps_when_the_threads_that_there_are_hang(pool: Pool) -> None:
    """Python 3.12+, at exit: a worker hangs and no second one can be started."""
    pool.allowed = 1
    stuck, good = hanging(), Sends()
    dispatcher = pool.dispatcher(lane("stuck", stuck), lane("good", good))
    fill(dispatcher, "stuck", 1)
    stuck.wait_for(1)
    fill(dispatcher, "good", 3)
    assert dispatcher.wait(0.3) is False
    assert len(good.sent) == 3
    stuck.open.set()


def test_helper_two_at_once_do_not_spin(pool: Pool) -> None:
    pool.allowed = 0
    send = hanging()
    dispatcher = pool.dispatcher(lane("a", send))
    fill(dispatcher, "a", 1)
    first = threading.Thread(target=dispatcher.wait, args=(PATIENCE,))
    first.start()
    send.wait_for(1)
    before = time.thread_time()
    assert dispatcher.wait(0.4) is False
    spent = time.thread_time() - before
    send.open.set()
    first.join()
    assert spent < 0.2


def test_wait_after_stop_returns_at_once(pool: Pool) -> None:
    pool.allowed = 0
    dispatcher = pool.dispatcher(lane("a", Sends()))
    fill(dispatcher, "a", 3)
    dispatcher.stop()
    started = time.monotonic()
    assert dispatcher.wait(0.5) is False
    assert time.monotonic() - started < 0.25


def test_threads_are_tried_again(pool: Pool) -> None:
    """What could not be started once may be started later: the limit is the system's."""
    pool.allowed = 0
    send = Sends()
    dispatcher = pool.dispatcher(lane("a", send))
    fill(dispatcher, "a", 1)
    pool.allowed = 1000
    fill(dispatcher, "a", 1)
    send.wait_for(2)
    assert len(pool.threads) >= 1


def test_a_handler_of_the_application_that_raises_stops_no_worker(
    pool: Pool, root_raises: None
) -> None:
    """What cubehook logs goes through the application's handlers and filters; they may fail."""
    send = Sends(BUSY)
    dispatcher = pool.dispatcher(lane("a", send, initial=0.01))
    fill(dispatcher, "a", 5)
    assert dispatcher.wait(2.0) is True
    assert len(send.sent) == 6
