"""What more of everything costs: endpoints, waiting retries, queued events.

Times are those of the schedule alone (offered, handed out, settled), by a clock that stands still:
beside a real wire they would not be seen. Bytes are those of a process that queues events which
nobody takes.
"""

from __future__ import annotations

import gc
import itertools
import logging
import os
import threading
import time
import tracemalloc
from collections.abc import Callable

from benchmarks import child
from benchmarks.figure import Figure, Options, Row, progress
from cubehook import WebhookHandler, threads
from cubehook.lane import LaneSettings
from cubehook.message import Message
from cubehook.outcome import Delivered, Failure, Reply, RetryAt
from cubehook.retry import WebhookRetry
from cubehook.schedule import Formatted, Job, Schedule

ENDPOINTS, FAN_OUT, RETRIES, RETRIED, BACKLOG, LOGGING = (
    "endpoints, an event for one of them",
    "endpoints, an event for each: time per delivery",
    "waiting retries, an event beside them",
    "waiting retries, an event that waits once itself",
    "deliveries in the backlog",
    "events in the handler's queue: logger.info",
)
QUEUED, IN_LANE = "in the handler's queue", "in the backlog of an endpoint"

_BODY_BYTES = 300
_FOREVER = 1e9
_CAPACITY = 10_000_000
_SLICES = 15  # of the events; the quickest counts, as noise only adds
_PAGE = os.sysconf("SC_PAGE_SIZE")


# --- In a process of its own ---


class _Site:
    """A schedule with lanes of its own, and an event's way through it at moment 0."""

    def __init__(self, endpoints: int) -> None:
        self.schedule = Schedule(32)
        self.names = [f"endpoint-{number}" for number in range(endpoints)]
        self.schedule.set_lanes([_lane(name) for name in self.names], 0.0)
        self._turn = itertools.cycle(self.names)
        self._ids = itertools.count()

    def offer(self, name: str) -> None:
        """An event for that endpoint."""
        self.schedule.fan_out(Formatted([(name, self._message())]), 0.0)

    def next(self, now: float = 0.0) -> Job:
        """The next attempt."""
        job = self.schedule.next(now)
        assert job is not None
        return job

    def one(self) -> None:
        """An event for one of the endpoints, delivered."""
        self.offer(next(self._turn))
        self.schedule.settle(self.next(), Delivered(204), 0.0)

    def for_each(self) -> None:
        """An event for all endpoints, delivered."""
        message = self._message()
        self.schedule.fan_out(Formatted([(name, message) for name in self.names]), 0.0)
        for _ in self.names:
            self.schedule.settle(self.next(), Delivered(204), 0.0)

    def waits(self, when: float) -> None:
        """A delivery to the first endpoint waits until that moment.

        Another one is delivered after it, as the circuit would open.
        """
        self.offer(self.names[0])
        self._fail(self.next(), when)
        self.offer(self.names[0])
        self.schedule.settle(self.next(), Delivered(204), 0.0)

    def retried(self) -> None:
        """An event for one of the endpoints that waits for one retry, and is delivered then."""
        self.offer(next(self._turn))
        self._fail(self.next(), 1.0)
        self.schedule.settle(self.next(1.0), Delivered(204), 0.0)

    def _fail(self, job: Job, when: float) -> None:
        outcome = RetryAt(when, 0.0, "status 503", job.delivery.retry)
        self.schedule.settle(job, outcome, 0.0)

    def _message(self) -> Message:
        number = next(self._ids)
        return Message(f"id-{number}", "sandbox.created", f"key-{number}", "application/json", b"")


def endpoints(count: int, events: int) -> float:
    """Microseconds of an event for one of so many endpoints."""
    return _each(_Site(count).one, events)


def fan_out(count: int, events: int) -> float:
    """Microseconds of a delivery, of events for so many endpoints."""
    return _each(_Site(count).for_each, max(events // count, _SLICES)) / count


def retries(count: int, events: int) -> float:
    """Microseconds of an event for one of two endpoints, while so many retries wait."""
    return _each(_waiting(count).one, events)


def retried(count: int, events: int) -> float:
    """The same for an event that is retried once."""
    return _each(_waiting(count).retried, events)


def backlog(count: int, events: int) -> float:
    """Microseconds of an event behind so many others for the same endpoint."""
    site = _Site(1)
    for _ in range(count):
        site.offer(site.names[0])
    return _each(site.one, events)


def queued(count: int, events: int) -> float:
    """Microseconds of ``logger.info``, with so many events queued."""
    logger = _logger()
    for number in range(count):
        _log(logger, number)
    numbers = itertools.count(count)
    return _each(lambda: _log(logger, next(numbers)), events)


def queued_bytes(count: int, traced: bool) -> float:
    """Bytes of an event in the handler's queue."""
    logger = _logger()
    return _bytes(lambda number: _log(logger, number), count, traced)


def backlog_bytes(count: int, traced: bool) -> float:
    """Bytes of a delivery in an endpoint's backlog."""
    site = _Site(1)
    body = b"x" * (_BODY_BYTES - 10)

    def offer(number: int) -> None:
        identity, key = f"{number:036}", f"sandbox-{number}"
        message = Message(
            identity, "sandbox.created", key, "application/json", b"%b%010d" % (body, number)
        )
        site.schedule.fan_out(Formatted([(site.names[0], message)]), 0.0)

    return _bytes(offer, count, traced)


def _waiting(count: int) -> _Site:
    site = _Site(2)
    for number in range(count):
        site.waits(_FOREVER + number * 7919 % 1_000_003)  # in no order
    return site


def _lane(name: str) -> LaneSettings:
    return LaneSettings(name, _never, WebhookRetry(), _CAPACITY, 32)


def _never(message: Message, limit: float | None) -> Reply | Failure:
    raise AssertionError("the schedule sends nothing")


def _logger() -> logging.Logger:
    # Nothing is taken out of the queue.
    threads.start = lambda name, target: threading.Thread(target=target)
    logger = logging.getLogger("app")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    logger.addHandler(
        WebhookHandler(
            [{"url": "http://127.0.0.1:9/", "events": ["*"], "allow_private_urls": True}],
            queue_capacity=_CAPACITY,
        )
    )
    return logger


def _log(logger: logging.Logger, number: int) -> None:
    text = f"{number:0132}"  # with its id, time, level and name the body has _BODY_BYTES
    extra = {"event": "sandbox.created", "sandbox_id": f"sandbox-{number}", "text": text}
    logger.info("", extra=extra)


def _each(work: Callable[[], object], count: int) -> float:
    """Microseconds that ``work`` takes: the mean of the quickest slice."""
    each = max(count // _SLICES, 1)
    slices = []
    for _ in range(_SLICES):
        began = time.perf_counter()
        for _ in range(each):
            work()
        slices.append((time.perf_counter() - began) / each)
    return min(slices) * 1e6


def _bytes(add: Callable[[int], None], count: int, traced: bool) -> float:
    warm_up = 1000
    for number in range(warm_up):
        add(number)
    gc.collect()
    if traced:
        tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0] if traced else _resident()
    for number in range(warm_up, warm_up + count):
        add(number)
    gc.collect()
    after = tracemalloc.get_traced_memory()[0] if traced else _resident()
    return (after - before) / count


def _resident() -> int:
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * _PAGE


# --- In the process of who compares them ---

_COLUMNS = {"few": "µs at the least", "many": "µs at the most", "growth": "ratio"}
_BYTES_COLUMNS = {"resident": "resident", "traced": "tracemalloc"}


def measure(options: Options) -> list[Figure]:
    """The figures: times, and bytes."""
    events = options.of(30_000, 6_000)
    most = options.of(1_000_000, 30_000)
    cases: dict[str, tuple[Callable[[int, int], float], int, int]] = {
        ENDPOINTS: (endpoints, 1, 1000),
        FAN_OUT: (fan_out, 1, 1000),
        RETRIES: (retries, 1000, most),
        RETRIED: (retried, 1000, most),
        BACKLOG: (backlog, 1000, most),
        LOGGING: (queued, 1000, most),
    }
    rows = {name: Row(f"{few:,} to {many:,} {name}") for name, (_, few, many) in cases.items()}
    sizes = {name: Row(name) for name in (QUEUED, IN_LANE)}
    for repeat in range(options.repeats):
        progress(f"growth: {repeat + 1} of {options.repeats}")
        for name, (function, *counts) in cases.items():
            few, many = (child.run(function, count=count, events=events) for count in counts)
            rows[name].add(few=few, many=many, growth=many / few)
        for name, bytes_of in ((QUEUED, queued_bytes), (IN_LANE, backlog_bytes)):
            count = options.of(100_000, 20_000)
            resident, traced = (
                child.run(bytes_of, count=count, traced=each) for each in (False, True)
            )
            sizes[name].add(resident=resident, traced=traced)
    times = Figure(
        "growth, time",
        "Time per event through the schedule (no wire, a clock that stands still)",
        _COLUMNS,
        list(rows.values()),
        ratios={
            "growth, endpoints": rows[ENDPOINTS].values["growth"],
            "growth, retries": rows[RETRIES].values["growth"],
        },
    )
    resident_sizes = [row.values["resident"] for row in sizes.values()]
    size = Figure(
        "growth, bytes",
        f"Bytes per queued event with a body of {_BODY_BYTES} bytes",
        _BYTES_COLUMNS,
        list(sizes.values()),
        ratios={"bytes, queued": [max(values) for values in zip(*resident_sizes, strict=True)]},
    )
    return [times, size]
