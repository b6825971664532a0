"""The whole handler against every fault: what is counted, what arrives, who is held up by it.

In every test here a watcher looks, during the run and at its end, whether the counts add up.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import pytest
from behaviours import BEHAVIOURS, UNREAD
from exchange import Exchange, Request
from receiver import OTHER, THREAD_NAME, FaultReceiver

from cubehook import EndpointStats, Stats, WebhookHandler

PATIENCE = 10.0
HASTY = 0.2
"""The timeout where an endpoint hangs, in seconds."""
LONGEST_CALL = 0.15
"""The longest that a log call may take on a busy machine: less than one `HASTY` attempt."""
RETRIES = 2
SETTINGS: dict[str, Any] = {
    "timeout": 5.0,
    "max_retries": RETRIES,
    "backoff_initial": 0.01,
    "backoff_max": 0.05,
    "flush_timeout": 0.2,
}


class Watcher:
    """Looks at the counts of a handler again and again, until it is told to stop."""

    def __init__(self, handler: WebhookHandler, interval: float) -> None:
        self._handler = handler
        self._interval = interval
        self._over = threading.Event()
        self._looked = 0
        self.wrong: list[str] = []
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """One last look; fails the test if the counts ever did not add up."""
        self._over.set()
        self._thread.join(PATIENCE)
        self._look()
        assert self._looked >= 2
        assert self.wrong == []

    def _run(self) -> None:
        self._look()
        while not self._over.wait(self._interval):
            self._look()

    def _look(self) -> None:
        stats = self._handler.stats()
        self._looked += 1
        every: dict[str, Stats | EndpointStats] = {"total": stats, **stats.endpoints}
        self.wrong += [f"{name}: {one}" for name, one in every.items() if not adds_up(one)]
        # The total is made up of the endpoints and of what has reached none of them yet.
        for count in ("delivered", "dead", "retried", "in_flight", "waiting"):
            if getattr(stats, count) != sum(getattr(e, count) for e in stats.endpoints.values()):
                self.wrong.append(f"{count}: {stats}")


def adds_up(stats: Stats | EndpointStats) -> bool:
    """Whether nothing has vanished, and nothing is there twice."""
    ended = stats.delivered + stats.dead + sum(stats.dropped.values())
    counts = (stats.queued, stats.in_flight, stats.waiting, stats.delivered, stats.dead)
    return stats.received == ended + stats.pending and min(counts) >= 0


class Engine:
    """A handler, the logger it is attached to, and how long each log call took."""

    def __init__(self, handler: WebhookHandler, interval: float) -> None:
        self.handler = handler
        self.logger = logging.Logger("under-fire", logging.DEBUG)
        self.logger.addHandler(handler)
        self.calls: list[float] = []
        self.watcher = Watcher(handler, interval)

    def log(self, numbers: Sequence[int], keys: int = 0) -> None:
        """An event for each number, which is its id too; its key is one of so many, or its own."""
        for number in numbers:
            key = str(number % keys if keys else number)
            tag = {"event": "a.b", "event_id": str(number), "sandbox_id": key, "number": number}
            began = time.perf_counter()
            self.logger.info("", extra=tag)
            self.calls.append(time.perf_counter() - began)

    def stats(self) -> Stats:
        return self.handler.stats()


Start = Callable[..., Engine]


@pytest.fixture
def start(faulty: FaultReceiver) -> Iterator[Start]:
    """Starts engines; in the end closes them, looks at the counts and waits for their threads.

    paths: of the endpoints, as `FaultReceiver.url` takes them; they are the endpoints' names too.
    """
    before = set(threading.enumerate())
    engines: list[Engine] = []

    def begin(*paths: str, interval: float = 0.002, own: Any = None, **settings: Any) -> Engine:
        endpoints = [endpoint(faulty, path) | (own or {}).get(path, {}) for path in paths]
        engines.append(Engine(WebhookHandler(endpoints, **(SETTINGS | settings)), interval))
        return engines[-1]

    yield begin
    with ExitStack() as stack:  # one that fails does not keep the others from ending
        for engine in engines:
            stack.callback(engine.watcher.stop)
            stack.callback(engine.handler.close)
    faulty.stop()  # who still hangs is let go
    for thread in set(threading.enumerate()) - before:
        thread.join(PATIENCE)
        assert not thread.is_alive()


def endpoint(faulty: FaultReceiver, path: str) -> dict[str, Any]:
    """The configuration of an endpoint whose behaviour is that path."""
    return {
        "name": path.replace("/", "-"),
        "url": faulty.url(path),
        "events": ["*"],
        "secret": "test-secret",
        "allow_private_urls": True,
    }


def numbers(requests: Sequence[Request], path: str) -> list[int]:
    """The numbers of the events that came for a path, in the order they came."""
    return [int(json.loads(one.body)["number"]) for one in requests if one.path == path]


# --- What comes of two events ---


class Comes(NamedTuple):
    """What two events come to. ``requests``: how many the receiver has seen in the end."""

    requests: int
    delivered: int = 0
    dead: int = 0
    waiting: int = 0
    timeout: float = 5.0


TAKEN = Comes(requests=2, delivered=2)
REFUSED = Comes(requests=2, dead=2)
EXHAUSTED = Comes(requests=2 * (1 + RETRIES), dead=2)
HANGS = EXHAUSTED._replace(timeout=HASTY)
POSTPONED = Comes(requests=2, waiting=2)

WHAT_COMES = {
    "ok": TAKEN,
    "slow": TAKEN,
    "body/70000": TAKEN,
    "until-close": TAKEN,
    "garbage-200": TAKEN,
    "103-then-204": TAKEN,
    "endless-body": TAKEN,
    "endless-chunks": TAKEN,
    "gzip-bomb": TAKEN,
    "drip-body": TAKEN._replace(timeout=0.4),
    "bad-chunking": TAKEN,
    "short-length": TAKEN,
    "long-length": TAKEN,
    "close-mid-answer/body": TAKEN,
    "close-early": TAKEN,
    "close-idle": TAKEN,
    "flaky/2": Comes(requests=4, delivered=2),
    "status/404": REFUSED,
    "refuse-early": REFUSED,
    "redirect-self": REFUSED,
    "redirect-other": REFUSED,
    "status/408": EXHAUSTED,
    "status/503": EXHAUSTED,
    "retry-after/0": EXHAUSTED,
    "retry-after/past": EXHAUSTED,
    "retry-after/negative": EXHAUSTED,
    "retry-after/unparsable": EXHAUSTED,
    "retry-after/120": POSTPONED,
    "retry-after/120/503": POSTPONED,
    "retry-after/date": POSTPONED,
    "retry-after/absurd": POSTPONED,
    "reset": EXHAUSTED,
    "close-mid-answer": EXHAUSTED,
    "close-mid-answer/status": EXHAUSTED,
    "two-lengths": EXHAUSTED,
    "huge-header": EXHAUSTED,
    "many-headers": EXHAUSTED,
    "not-http": EXHAUSTED,
    "never-answer": HANGS,
    "accept-never-read": HANGS,
    "drip-header": HANGS,
    "drip-1xx": HANGS,
    "flood-1xx": HANGS,
    "refuse": EXHAUSTED._replace(requests=0),
    "never-accept": HANGS._replace(requests=0),
    "slow-tls": HANGS._replace(requests=0),
    "drip-tls": HANGS._replace(requests=0),
}


@pytest.mark.parametrize("path", WHAT_COMES)
def test_what_comes_of_two_events(faulty: FaultReceiver, start: Start, path: str) -> None:
    expected = WHAT_COMES[path]
    engine = start(path, timeout=expected.timeout)
    engine.log(range(2))

    ended = engine.handler.flush(PATIENCE)

    stats = engine.stats()
    assert ended is (expected.waiting == 0)
    assert (stats.received, stats.delivered, stats.dead) == (2, expected.delivered, expected.dead)
    assert (stats.pending, stats.waiting) == (expected.waiting, expected.waiting)
    assert stats.dropped == {}
    faulty.wait(expected.requests)
    assert len(faulty.requests) == expected.requests
    if expected.requests and path not in UNREAD and path != "flaky/2":
        each = expected.requests // 2
        assert Counter(numbers(faulty.requests, path)) == {0: each, 1: each}
    assert [one for one in faulty.requests if one.server == OTHER] == []


@pytest.mark.parametrize("server", ["wrong-name", "expired"])
@pytest.mark.usefixtures("trusted")
def test_a_certificate_that_is_not_valid_is_retried_and_counted(
    faulty: FaultReceiver, start: Start, server: str
) -> None:
    engine = start(server)
    engine.log(range(1))
    assert engine.handler.flush(PATIENCE)
    stats = engine.stats()
    assert (stats.retried, stats.dead, stats.delivered) == (RETRIES, 1, 0)
    assert stats.endpoints[server].failures_in_row == 1 + RETRIES
    assert faulty.requests == []
    assert faulty.accepted == 1 + RETRIES


@pytest.mark.usefixtures("trusted")
def test_a_certificate_that_is_valid_is_not(faulty: FaultReceiver, start: Start) -> None:
    engine = start("https/ok")
    engine.log(range(3))
    assert engine.handler.flush(PATIENCE)
    assert engine.stats().delivered == 3


def test_gone_switches_the_endpoint_off_until_the_update(
    faulty: FaultReceiver, start: Start
) -> None:
    engine = start("gone", "ok")
    engine.log([0])
    assert engine.handler.flush(PATIENCE)
    engine.log(range(1, 4))
    assert engine.handler.flush(PATIENCE)

    gone, well = engine.stats().endpoints["gone"], engine.stats().endpoints["ok"]
    assert (gone.state, gone.dead, gone.dropped) == ("off", 1, {"switched_off": 3})
    assert (well.state, well.delivered) == ("closed", 4)
    assert faulty.count("gone") == 1

    engine.handler.update_endpoints(
        [endpoint(faulty, "ok"), endpoint(faulty, "ok/again") | {"name": "gone"}]
    )
    engine.log([4])
    assert engine.handler.flush(PATIENCE)
    assert numbers(faulty.requests, "ok/again") == [4]
    assert engine.stats().endpoints["gone"].state == "closed"


def test_retry_after_is_a_floor(faulty: FaultReceiver, start: Start) -> None:
    engine = start("retry-after/1", max_retries=1)
    engine.log([0])
    first = faulty.wait(1)[0]
    assert engine.handler.flush(PATIENCE)
    second = faulty.wait(2)[1]
    assert second.time - first.time >= 1.0
    assert engine.stats().dead == 1


def test_a_waiting_retry_is_not_brought_forward_by_another_event(
    faulty: FaultReceiver, start: Start
) -> None:
    engine = start("retry-after/1", max_retries=1)
    engine.log([0])
    faulty.wait(1)
    engine.log([1, 2], keys=1)  # of the same key: they are behind it
    assert engine.handler.flush(0.2) is False
    assert faulty.count("retry-after/1") == 1
    lane = engine.stats().endpoints["retry-after-1"]
    assert (lane.waiting, lane.queued) == (1, 2)


# --- The application's thread ---


def test_no_fault_holds_up_who_logs(faulty: FaultReceiver, start: Start) -> None:
    """Every fault is an endpoint of one handler, and one endpoint is well."""
    engine = start(*WHAT_COMES, timeout=HASTY, interval=0.02, own={"ok": {"timeout": 5.0}})
    engine.log(range(50), keys=5)
    assert max(engine.calls) < LONGEST_CALL
    deadline = time.monotonic() + PATIENCE
    pause = threading.Event()
    while (done := engine.stats().endpoints["ok"]).delivered < 50:
        assert time.monotonic() < deadline, done
        pause.wait(0.01)  # never set: the counts are looked at, not slept for
    assert Counter(numbers(faulty.requests, "ok")) == dict.fromkeys(range(50), 1)
    # Meanwhile others were failing, and still are.
    assert engine.stats().pending > 0
    assert engine.stats().received == 50 * len(WHAT_COMES)


# --- Order, and once ---


def test_flaky_each_event_is_taken_once_and_in_the_order_of_its_key(
    faulty: FaultReceiver, start: Start
) -> None:
    failures, events, keys = 7, 40, 4
    path = f"flaky/{failures}"
    engine = start(path, max_retries=failures)
    engine.log(range(events), keys)
    assert engine.handler.flush(PATIENCE)

    came = numbers(faulty.requests, path)
    # While an endpoint fails it gets one attempt at a time, so the first were the 503s.
    assert Counter(came[failures:]) == dict.fromkeys(range(events), 1)
    assert in_order(came, keys)
    assert engine.stats().retried == failures


def test_every_third_fails_each_event_is_taken_once_and_in_the_order_of_its_key(
    faulty: FaultReceiver, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    events, keys = 60, 6
    lock = threading.Lock()
    turn = iter(range(10_000))
    taken: list[int] = []

    def every_third(exchange: Exchange) -> bool:
        with lock:
            well = next(turn) % 3 != 2
            if well:
                taken.append(json.loads(exchange.request.body)["number"])
        return exchange.answer(204 if well else 503)

    monkeypatch.setitem(BEHAVIOURS, "every-third", every_third)
    engine = start("every-third", max_retries=50)
    engine.log(range(events), keys)
    assert engine.handler.flush(PATIENCE)

    assert Counter(taken) == dict.fromkeys(range(events), 1)
    assert in_order(taken, keys)
    assert in_order(numbers(faulty.requests, "every-third"), keys)
    assert engine.stats().delivered == events
    assert engine.stats().retried == len(faulty.requests) - events > 0


def in_order(came: Sequence[int], keys: int) -> bool:
    """Whether the events of each key came in the order they were logged, the repeated included."""
    by_key: dict[int, list[int]] = defaultdict(list)
    for number in came:
        by_key[number % keys].append(number)
    return all(of_key == sorted(of_key) for of_key in by_key.values())


def test_the_receiver_stops_and_comes_back_and_everything_arrives(
    faulty: FaultReceiver, start: Start
) -> None:
    engine = start("ok", max_retries=1000)
    engine.log(range(40), keys=4)
    faulty.wait(10)
    faulty.stop()
    engine.log(range(40, 80), keys=4)
    pause, deadline = threading.Event(), time.monotonic() + PATIENCE
    while engine.stats().endpoints["ok"].state != "open":
        assert time.monotonic() < deadline, engine.stats()
        pause.wait(0.005)
    engine.log(range(80, 100), keys=4)
    faulty.start()

    assert engine.handler.flush(PATIENCE)
    stats = engine.stats()
    assert (stats.received, stats.delivered, stats.pending) == (100, 100, 0)
    assert stats.endpoints["ok"].state == "closed"
    came = numbers(faulty.requests, "ok")
    assert set(came) == set(range(100))
    assert in_order(came, 4)


# --- One endpoint and the others ---


def test_nine_hang_and_the_tenth_gets_everything_in_order(
    faulty: FaultReceiver, start: Start
) -> None:
    hanging = [f"never-answer/{number}" for number in range(9)]
    engine = start(*hanging, "ok", timeout=60.0)
    engine.log(range(100), keys=1)

    faulty.wait(109)
    assert numbers(faulty.requests, "ok") == list(range(100))
    # Each of the nine still hangs in its first attempt.
    stats = engine.stats()
    for path in hanging:
        assert numbers(faulty.requests, path) == [0]
        lane = stats.endpoints[path.replace("/", "-")]
        assert (lane.in_flight, lane.queued, lane.retried) == (1, 99, 0)


def test_a_thousand_endpoints_and_no_more_threads_than_allowed(
    faulty: FaultReceiver, start: Start
) -> None:
    endpoints, events = 1000, 1
    before = {one.ident for one in threading.enumerate()}
    # The receiver closes: the descriptors of a thousand idle connections would be many here.
    paths = [f"until-close/{number}" for number in range(endpoints)]
    engine = start(*paths, max_concurrency=32, interval=0.1)
    most = 0
    over = threading.Event()

    def count() -> None:
        nonlocal most
        while not over.wait(0.005):
            names = [one.name for one in threading.enumerate() if one.ident not in before]
            ours = [name for name in names if not name.startswith((THREAD_NAME, "watcher"))]
            most = max(most, len(ours) - 1)  # this one is the test's

    counter = threading.Thread(target=count)
    counter.start()
    engine.log(range(events))
    flushed = engine.handler.flush(4 * PATIENCE)  # a thread and a connection each, on any machine
    over.set()
    counter.join()

    assert flushed, engine.stats().pending
    assert engine.stats().delivered == endpoints * events
    came = Counter((one.path, json.loads(one.body)["id"]) for one in faulty.requests)
    assert came == {(path, str(event)): 1 for path in paths for event in range(events)}
    assert 2 <= most <= 32 + 1  # with the listener


# --- The circuit ---


class Breaks:
    """A behaviour: 204 until it breaks, 503 then, 204 again when it is whole.

    gathered: so many requests have to be here at once for it to break. most: the most at once
    after that.
    """

    def __init__(self, gathered: int) -> None:
        self._gate = threading.Barrier(gathered, action=self._break)
        self._changed = threading.Lock()
        self._now = 0
        self.most = self.failed = 0
        self.mode = "whole"
        self.failed_enough = threading.Event()

    def _break(self) -> None:
        self.mode = "broken"

    def __call__(self, exchange: Exchange) -> bool:
        mode = self.mode
        if mode == "whole":
            exchange.pause()  # a quick receiver gets few attempts at once
            return exchange.answer(204)
        if mode == "gather":  # they have to be here at once to go on
            self._gate.wait(PATIENCE)
            return exchange.answer(503)
        with self._changed:
            self._now += 1
            self.most = max(self.most, self._now)
        exchange.pause()
        with self._changed:
            self._now -= 1
            self.failed += 1
            if self.failed >= 8:
                self.failed_enough.set()
        return exchange.answer(503)


def test_after_five_failures_one_attempt_at_a_time(
    faulty: FaultReceiver, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty.drip = 0.03
    breaks = Breaks(gathered=5)
    monkeypatch.setitem(BEHAVIOURS, "breaks", breaks)
    engine = start("breaks", max_retries=1000, own={"breaks": {"max_concurrency": 5}})
    engine.log(range(30))
    assert engine.handler.flush(PATIENCE)

    breaks.mode = "gather"  # five at once …
    engine.log(range(30, 60))  # … fail, and the others are many
    assert breaks.failed_enough.wait(PATIENCE)
    assert engine.stats().endpoints["breaks"].state == "open"
    assert breaks.most == 1

    breaks.mode = "whole"
    assert engine.handler.flush(PATIENCE)
    assert engine.stats().delivered == 60
    assert engine.stats().endpoints["breaks"].state == "closed"
