"""The relay: round by round, with the test as its thread and as the workers; and its own thread."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("sqlalchemy")

import cubehook.threads
from cubehook import relay as relay_
from cubehook.dispatcher import Dispatcher
from cubehook.errors import ConfigError
from cubehook.lane import AHEAD, OPEN_AFTER, LaneSettings
from cubehook.message import Message
from cubehook.outbox import Lease, Outbox, OutboxUnavailableError, Result, Status, Target
from cubehook.outcome import Failure, Reply
from cubehook.relay import BROKEN_SECONDS, CONTENDED_SECONDS, POLL_SECONDS, RETRY_SECONDS, Relay
from cubehook.retry import WebhookRetry
from cubehook.schedule import Job

if TYPE_CHECKING:
    from conftest import Clock

PATIENCE = 10.0
LEASE = 30.0

OK = Reply(204)
BUSY = Reply(503)
GONE = Reply(410)

AHEAD_OF_IT = 1_000_000.0
"""The clock on the wall, of the monotonic one."""


def message(text: str, key: str | None = None) -> Message:
    return Message(text, "a.b", key, "text/plain", text.encode())


class Fragile(Outbox):
    """Fails as told."""

    error: BaseException | None = None
    calls: tuple[str, ...] = ()

    def _run(self, work: Any, mode: Any) -> Any:
        if self.error is not None:
            raise self.error
        return super()._run(work, mode)

    def wanted(self, endpoints: Any) -> Any:
        self.calls += ("wanted",)
        return super().wanted(endpoints)

    def lease(self, *args: Any) -> Any:
        self.calls += ("lease",)
        return super().lease(*args)

    def extend(self, leases: Sequence[Lease], seconds: float) -> Any:
        self.calls += ("extend",)
        return super().extend(leases, seconds)


class Bench:
    """A relay without its thread, on a dispatcher without workers."""

    def __init__(self, url: str, clock: Clock) -> None:
        self.url = url
        self.others: list[Bench] = []
        self.clock = clock  # the dispatcher's
        self.ahead = AHEAD_OF_IT
        self.outbox = Fragile(url, clock=self.wall)
        self.dispatcher = Dispatcher(8, clock)
        self.relay = Relay(self.outbox, self.dispatcher, LEASE, self.wall)
        self.endpoints("ops")

    def wall(self) -> float:
        return self.clock.now + self.ahead

    def endpoints(self, *names: str, retries: int = 3) -> None:
        policy = WebhookRetry(total=retries, backoff_factor=8.0)
        self.dispatcher.set_lanes(LaneSettings(name, never, policy, 100, 8) for name in names)
        self.relay.configure(dict.fromkeys(names, policy))

    def add(self, *texts: str, endpoint: str = "ops", key: str | None = None) -> None:
        self.outbox.add([(message(text, key), [Target(endpoint)]) for text in texts])

    def round(self) -> float:
        return self.relay._round()

    def jobs(self) -> list[Job]:
        schedule = self.dispatcher._schedule
        return list(iter(lambda: schedule.next(self.clock.now), None))

    def settle(self, job: Job, reply: Reply | Failure = OK) -> str:
        outcome = job.delivery.retry.decide(reply, self.clock.now)
        self.dispatcher._schedule.settle(job, outcome, self.clock.now)
        return job.delivery.message.id

    def run(self, reply: Reply | Failure = OK) -> list[str]:
        """Attempt all that may be attempted."""
        done = []
        while jobs := self.jobs():
            done += [self.settle(job, reply) for job in jobs]
        return done

    def statuses(self) -> dict[str, str]:
        return {one.event_id: one.status.value for one in self.outbox.list()}

    def other(self) -> Bench:
        """Another process on the same outbox, with clocks that agree."""
        self.others.append(Bench(self.url, self.clock))
        return self.others[-1]

    def close(self) -> None:
        for one in (self, *self.others):
            one.outbox.close()


def never(message: Message, limit: float | None) -> Reply:
    raise AssertionError("nothing is sent here")


@pytest.fixture
def bench(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    def start(*args: Any) -> None:
        raise RuntimeError("no workers")

    monkeypatch.setattr(cubehook.threads, "start", start)
    made = Bench(f"sqlite:///{tmp_path}/outbox.db", clock)
    yield made
    made.close()


# --- Rounds ---


def test_what_is_stored_is_leased_and_settled(bench: Bench) -> None:
    bench.add("1", "2")
    assert bench.round() == 0.0
    assert set(bench.statuses().values()) == {"leased"}
    assert bench.run() == ["1", "2"]
    assert not bench.relay.idle
    bench.round()
    assert set(bench.statuses().values()) == {"delivered"}
    assert bench.relay.idle


def test_nothing_is_polled_for_more_often_than_that(bench: Bench) -> None:
    assert bench.round() == POLL_SECONDS
    assert bench.outbox.calls == ("wanted",)
    bench.add("1")
    bench.round()
    bench.settle(bench.jobs()[0], BUSY)
    assert bench.round() == POLL_SECONDS  # its retry is due later


def test_the_pause_ends_when_a_retry_is_due(bench: Bench) -> None:
    bench.add("1")
    bench.round()
    bench.settle(bench.jobs()[0], Reply(503, retry_after="20"))
    bench.round()
    bench.clock.advance(19.75)
    assert bench.round() == pytest.approx(0.25)
    bench.clock.advance(0.25)
    assert bench.round() == 0.0
    assert bench.run() == ["1"]


def test_the_database_is_left_alone_while_no_lane_wants_anything(bench: Bench) -> None:
    bench.add(*map(str, range(AHEAD + 24)))
    bench.round()
    assert len(bench.relay._lent) == AHEAD
    before = bench.outbox.calls
    assert bench.round() == POLL_SECONDS
    assert bench.outbox.calls == before


def test_an_ordered_key_is_leased_one_at_a_time(bench: Bench) -> None:
    bench.add("1", "2", "3", key="k")
    seen = []
    for _ in range(9):
        bench.round()
        assert len(bench.relay._lent) <= 1
        seen += bench.run()
    assert seen == ["1", "2", "3"]


def test_a_key_that_waits_makes_no_busy_loop(bench: Bench) -> None:
    bench.add("1", "2", key="k")
    bench.round()
    bench.settle(bench.jobs()[0], BUSY)
    bench.round()
    assert [bench.round() for _ in range(3)] == [POLL_SECONDS] * 3


def test_what_another_one_is_about_to_take_makes_no_busy_loop(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.add("1", key="k")
    monkeypatch.setattr(bench.outbox, "lease", lambda *_: [])
    assert bench.round() == CONTENDED_SECONDS


def test_lanes_are_asked_for_together_when_they_want_the_same(bench: Bench) -> None:
    bench.endpoints("a", "b", "c")
    for name in "abc":
        bench.add(name, endpoint=name)
    bench.round()
    assert bench.outbox.calls.count("lease") == 1
    assert sorted(bench.run()) == ["a", "b", "c"]


def test_retries_are_counted_across_processes(bench: Bench) -> None:
    bench.endpoints("ops", retries=3)
    bench.add("1")
    for _ in range(3):
        one = bench.other()
        one.round()
        one.run(BUSY)
        one.round()
        assert bench.statuses() == {"1": "waiting"}
        bench.clock.advance(100)
    bench.round()
    bench.run(BUSY)
    bench.round()
    assert bench.statuses() == {"1": "dead"}
    (record,) = bench.outbox.list()
    assert (record.attempts, record.reason) == (4, "status 503, no retries left")


def test_with_fewer_retries_than_were_made_the_next_is_the_last(bench: Bench) -> None:
    bench.add("1")
    for _ in range(2):
        bench.round()
        bench.run(BUSY)
        bench.round()
        bench.clock.advance(100)
    bench.endpoints("ops", retries=0)
    bench.round()
    bench.run(BUSY)
    bench.round()
    assert bench.statuses() == {"1": "dead"}


def test_retry_after_is_a_floor_for_another_process_too(bench: Bench) -> None:
    bench.add("1")
    bench.round()
    bench.run(Reply(503, retry_after="600"))
    bench.round()
    other = bench.other()
    bench.clock.advance(599)
    other.round()
    assert other.jobs() == []
    bench.clock.advance(1)
    other.round()
    assert other.run() == ["1"]


def test_an_open_circuit_leases_one_probe_at_a_time(bench: Bench) -> None:
    bench.add(*map(str, range(4 * AHEAD)))
    bench.round()
    assert len(bench.run(BUSY)) == OPEN_AFTER
    assert bench.round() == POLL_SECONDS
    assert bench.relay.idle  # what was leased ahead is there for others
    bench.clock.advance(100)
    for _ in range(3):
        bench.round()
        assert len(bench.relay._lent) == 1
    assert len(bench.run()) == 1
    bench.round()
    assert len(bench.relay._lent) == 2 * AHEAD  # and not all that has gathered


def test_an_endpoint_that_is_gone_leaves_the_others_waiting(bench: Bench) -> None:
    bench.add("1", "2", "3")
    bench.round()
    bench.settle(bench.jobs()[0], GONE)
    assert [bench.round() for _ in range(3)] == [POLL_SECONDS] * 3
    assert bench.statuses() == {"1": "dead", "2": "waiting", "3": "waiting"}
    bench.endpoints("ops")
    bench.round()
    assert bench.run() == ["2", "3"]


def test_an_endpoint_that_is_removed_leaves_its_own_waiting(bench: Bench) -> None:
    bench.endpoints("a", "b")
    bench.add("1", "2", endpoint="a")
    bench.round()
    bench.endpoints("b")
    assert bench.round() == POLL_SECONDS
    assert set(bench.statuses().values()) == {"waiting"}
    assert bench.relay.idle


# --- Leases ---


def test_a_lease_is_kept_as_long_as_the_lane_has_it(bench: Bench) -> None:
    bench.add("1")
    bench.round()
    (job,) = bench.jobs()
    other = bench.other()
    for _ in range(30):
        bench.clock.advance(LEASE / 4)
        bench.round()
        other.round()
        assert other.relay.idle
    bench.settle(job)
    bench.round()
    assert (bench.statuses(), bench.relay.lost) == ({"1": "delivered"}, 0)


def test_what_is_lost_is_not_attempted_and_its_result_is_discarded(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.add("1", "2", "3")
    bench.round()
    late = bench.jobs()[0]
    bench.clock.advance(LEASE)
    other = bench.other()
    other.round()
    assert sorted(other.run()) == ["1", "2", "3"]
    other.round()
    bench.round()
    assert bench.jobs() == []
    bench.settle(late, GONE)
    bench.round()
    assert set(bench.statuses().values()) == {"delivered"}
    assert bench.relay.lost == 1
    assert bench.relay.idle
    assert "1 results came after their lease was lost" in caplog.text


def test_no_attempt_begins_after_the_lease_while_the_database_is_away(bench: Bench) -> None:
    bench.add("1", "2", key="k")
    bench.round()
    bench.outbox.error = OutboxUnavailableError("the database cannot be reached")
    bench.clock.advance(LEASE)
    assert bench.jobs() == []


def test_results_are_kept_while_the_database_is_away(bench: Bench) -> None:
    bench.add("1", "2")
    bench.round()
    bench.outbox.error = OutboxUnavailableError("the database cannot be reached")
    bench.run()
    for _ in range(3):
        with pytest.raises(OutboxUnavailableError):
            bench.round()
    bench.outbox.error = None
    bench.round()
    assert bench.statuses() == {"1": "delivered", "2": "delivered"}


def test_a_lease_that_is_lost_and_leased_again_is_another_one(bench: Bench) -> None:
    """While its first attempt is still under way, in the same process."""
    bench.add("0")
    bench.round()
    bench.run()  # two attempts at once from now on
    bench.add("1")
    bench.round()
    (first,) = bench.jobs()
    bench.clock.advance(LEASE)
    bench.round()  # too late to extend only if somebody took it
    other = bench.other()
    bench.clock.advance(LEASE)
    other.round()
    bench.round()  # lost
    other.run(BUSY)
    other.round()
    bench.clock.advance(100)
    bench.round()
    (second,) = bench.jobs()
    bench.settle(first)
    bench.settle(second)
    bench.round()
    assert bench.statuses() == {"0": "delivered", "1": "delivered"}
    assert bench.relay.lost == 1
    assert bench.relay.idle


@pytest.mark.parametrize("seconds", [3600.0, -3600.0])
def test_a_wall_clock_that_jumps_loses_no_lease(bench: Bench, seconds: float) -> None:
    bench.add("1")
    bench.round()
    (job,) = bench.jobs()
    bench.ahead += seconds
    for _ in range(8):
        bench.round()
        bench.clock.advance(LEASE / 4)
    assert bench.jobs() == []
    bench.settle(job)
    bench.round()
    assert (bench.statuses(), bench.relay.lost) == ({"1": "delivered"}, 0)


def test_what_a_failing_lease_had_claimed_before_is_not_forgotten(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.endpoints("a", "b")
    bench.add("1", endpoint="a")
    bench.round()
    bench.add("2", endpoint="a")
    bench.add("3", endpoint="b")
    lease = bench.outbox.lease

    def once(names: Any, *rest: Any) -> list[Lease]:
        if names == ["b"]:
            raise OutboxUnavailableError("the database is locked")
        return lease(names, *rest)

    monkeypatch.setattr(bench.outbox, "lease", once)
    with pytest.raises(OutboxUnavailableError):
        bench.round()
    assert bench.run() == ["1", "2"]


# --- Failures ---


@pytest.mark.parametrize(
    ("error", "pause"),
    [
        (OutboxUnavailableError("the database is locked"), RETRY_SECONDS),
        (ConfigError("outbox: the SQLite file is damaged; it was left as it is"), BROKEN_SECONDS),
        (RuntimeError("sqlite:///secret"), BROKEN_SECONDS),
    ],
)
def test_nothing_ends_the_thread_and_it_says_so_once(
    bench: Bench,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    pause: float,
) -> None:
    bench.outbox.error = error
    pauses: list[float] = []
    monkeypatch.setattr(bench.relay._stopping, "wait", pauses.append)
    for _ in range(3):
        assert bench.relay._try(bench.relay._round) == 0.0
    assert pauses == [pause] * 3
    assert len(caplog.records) == 1
    assert "deliveries wait" in caplog.text
    assert "secret" not in caplog.text


def test_it_warns_again_after_half_a_minute(
    bench: Bench, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.outbox.error = OutboxUnavailableError("the database is locked")
    monkeypatch.setattr(bench.relay._stopping, "wait", lambda _: None)
    now = [0.0]
    monkeypatch.setattr(relay_.time, "monotonic", lambda: now[0])
    for seconds in (0.0, 29.0, 31.0):
        now[0] = seconds
        bench.relay._try(bench.relay._round)
    assert len(caplog.records) == 2


# --- Its thread ---


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Callable[..., Relay]]:
    made: list[tuple[Relay, Dispatcher]] = []

    def make(send: Callable[[Message, float | None], Reply], *texts: str) -> Relay:
        outbox = Outbox(f"sqlite:///{tmp_path}/outbox.db")
        outbox.add([(message(text), [Target("ops")]) for text in texts])
        dispatcher = Dispatcher(1, on_return=lambda: made[-1][0].wake())  # noqa: PLW0108
        relay = Relay(outbox, dispatcher)
        dispatcher.set_lanes([LaneSettings("ops", send, WebhookRetry(), 100, 1)])
        relay.configure({"ops": WebhookRetry()})
        made.append((relay, dispatcher))
        return relay

    yield make
    for relay, dispatcher in made:
        relay.stop(PATIENCE)
        dispatcher.stop()
        relay._outbox.close()


def test_stop_waits_for_the_attempt_under_way_and_gives_back_the_rest(
    live: Callable[..., Relay],
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def send(message: Message, limit: float | None) -> Reply:
        begun.set()
        assert go_on.wait(PATIENCE)
        return OK

    relay = live(send, "1", "2", "3")
    relay.start()
    assert begun.wait(PATIENCE)
    threading.Timer(0.05, go_on.set).start()
    relay.stop(PATIENCE)
    assert {one.event_id: one.status.value for one in relay._outbox.list()} == {
        "1": "delivered",
        "2": "waiting",
        "3": "waiting",
    }
    assert relay.idle


def test_stop_does_not_wait_for_ever_and_others_have_the_rest_at_once(
    live: Callable[..., Relay],
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def send(message: Message, limit: float | None) -> Reply:
        begun.set()
        assert go_on.wait(PATIENCE)
        return OK

    relay = live(send, "1", "2")
    relay.start()
    assert begun.wait(PATIENCE)
    relay.stop(0.05)
    statuses = {one.event_id: one.status for one in relay._outbox.list()}
    assert statuses == {"1": Status.LEASED, "2": Status.WAITING}
    go_on.set()


def test_what_is_stored_by_others_is_noticed(live: Callable[..., Relay]) -> None:
    sent = threading.Event()

    def send(message: Message, limit: float | None) -> Reply:
        sent.set()
        return OK

    relay = live(send)
    relay.start()
    relay._outbox.add([(message("1"), [Target("ops")])])
    assert sent.wait(PATIENCE)


def test_stop_before_start_is_the_end(live: Callable[..., Relay]) -> None:
    relay = live(never)
    relay.stop(0.1)
    relay.start()
    assert relay._thread is None


def test_the_owner_names_the_process_and_no_more(
    live: Callable[..., Relay], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    relay = live(never, "1")
    (lease,) = relay._outbox.lease(["ops"], 1, LEASE, relay._owner)
    (record,) = relay._outbox.list()
    assert record.owner == relay._owner
    assert record.owner.isprintable()
    assert relay._outbox.settle([Result(lease, WebhookRetry().decide(OK, 0.0), 0.0)]) == 0


# --- A long outage ---


def test_after_an_hour_of_outage_all_arrive_in_order_and_not_at_once(bench: Bench) -> None:
    ids = [f"{number}-{key}" for number in range(4) for key in range(100)]
    for one in ids:
        bench.add(one, key=one.partition("-")[2])
    bench.endpoints("ops", retries=1000)
    tried = 0
    for _ in range(3600 // 10):
        while bench.round() == 0.0:
            tried += len(bench.run(BUSY))
        bench.clock.advance(10)
    # An attempt by each of the first few, then one probe after the other, a minute apart at most.
    assert tried < 250
    arrived: list[str] = []
    curve = []
    for _ in range(600):
        bench.clock.advance(60)
        bench.round()
        now = bench.run()
        curve.append(len(now))
        arrived += now
        if len(arrived) == len(ids):
            break
    assert sorted(arrived) == sorted(ids)
    for key in range(100):
        assert [one for one in arrived if one.endswith(f"-{key}")] == [
            f"{number}-{key}" for number in range(4)
        ]
    assert max(curve) <= AHEAD * 8  # of a lane that makes up to eight attempts at once
    assert curve[0] <= 1  # the probe
    assert curve[1] <= 2 * AHEAD
