"""What a log call costs the application: the time that a handler adds to ``logger.info``.

Each contender runs in a process of its own, which first measures the same calls with a NullHandler;
the median of these is taken off.

idle: bursts, with nothing done in the background; of the peers, whose threads cannot be kept from
it, each burst after they have come to rest. delivering: an application that computes half of the
time and logs 500 events a second, while they are delivered to a receiver on this machine.
"""

from __future__ import annotations

import functools
import logging
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks import child, peers
from benchmarks.figure import Figure, Options, Row, percentile, progress
from benchmarks.receiver import Receiver

IDLE, DELIVERING = "idle", "delivering"
TAGGED, UNTAGGED = "tagged", "untagged"
THREADS = (1, 8)

_EVENTS_PER_SECOND = 500
_BURST = 200
_TEXT = "sandbox created"
_EXTRA = {"event": "sandbox.created", "sandbox_id": "sandbox-123", "template_id": "template-456"}

_CUBEHOOK = """
import cubehook

handler = cubehook.WebhookHandler(
    [{"name": "peers", "url": URL, "secret": "test-secret", "allow_private_urls": True}],
    queue_capacity=1_000_000,
)
"""

# What the listener and the workers run in is never started.
_CUBEHOOK_ALONE = (
    """
import threading
from cubehook import threads

threads.start = lambda name, target: threading.Thread(target=target)
"""
    + _CUBEHOOK
)

_QUEUE_HANDLER = """
import queue
from logging.handlers import QueueHandler

handler = QueueHandler(queue.SimpleQueue())
"""

_DRAINED = (
    _QUEUE_HANDLER
    + """
import logging
from logging.handlers import QueueListener

QueueListener(handler.queue, logging.NullHandler()).start()
"""
)

_FLOOR = """
import logging, queue

class Floor(logging.Handler):
    put = queue.SimpleQueue().put

    def handle(self, record):
        attributes = record.__dict__
        if "event" in attributes:
            self.put({snapshot})

handler = Floor()
"""

_EXTRAS_ONLY = '{name: attributes[name] for name in ("event", "sandbox_id", "template_id")}'


@dataclass(frozen=True)
class Setup:
    """How a contender is set up in the two states; None: it has no such state.

    renewed: it is set up again for each burst, which empties its queue.
    """

    idle: str | None
    delivering: str | None = None
    renewed: bool = False
    status: int = 204


_PEERS = (
    "loki, queue handler",
    "logzio",
    "logstash-async",
    "watchtower",
    "splunk",
    "OpenTelemetry logs",
    "sentry events",
)
CUBEHOOK, QUEUE_HANDLER, DRAINED = "cubehook", "QueueHandler", "QueueHandler, drained"
SETUPS = {
    CUBEHOOK: Setup(_CUBEHOOK_ALONE, _CUBEHOOK, renewed=True),
    QUEUE_HANDLER: Setup(_QUEUE_HANDLER, renewed=True),
    DRAINED: Setup(_DRAINED, _DRAINED),
    "floor: the extras, put": Setup(_FLOOR.format(snapshot=_EXTRAS_ONLY), renewed=True),
    "floor: the record's dict, put": Setup(
        _FLOOR.format(snapshot="attributes.copy()"), renewed=True
    ),
} | {
    one.name: Setup(one.setup, one.setup, status=one.status)
    for one in peers.CONTENDERS
    if one.name in _PEERS
}


# --- In the process of a contender ---


def sample(contender: str, state: str, port: int, quick: bool) -> dict[str, dict[str, float]]:
    """Percentiles of log calls in microseconds: for each `case`, ``null`` (with a NullHandler) and
    ``own`` (with the contender), each ``50`` and ``99``."""
    setup = SETUPS[contender]
    text = setup.idle if state == IDLE else setup.delivering
    assert text is not None
    row = peers.Contender(contender, "", (), text)
    logger = logging.getLogger("app")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    clock = _cost_of_clock()
    result: dict[str, dict[str, float]] = {}

    def null() -> None:
        logger.handlers = [logging.NullHandler()]

    def own() -> None:
        handler = row.handler(port)
        logger.handlers = [handler] if handler else []

    _burst(logger, _EXTRA, 10_000)  # to be warm; without a handler it is not cheaper
    for name, attach in (("null", null), ("own", own)):
        attach()
        renew = attach if setup.renewed and state == IDLE else lambda: None
        for threads in THREADS:
            if state == IDLE:
                samples = _bursts(logger, renew, threads, 4 if quick else 25)
            else:
                samples = _application(logger, threads, (0.4 if quick else 4.0) / threads**0.5)
            for kind, bursts in samples.items():
                times = result.setdefault(case(kind, threads), {})
                # A burst is short: in the quietest one nobody else took part of the machine.
                p50 = min(percentile(burst, 50) for burst in bursts)
                p99 = statistics.median(percentile(burst, 99) for burst in bursts)
                times[f"{name}50"], times[f"{name}99"] = (p50 - clock) / 1000, (p99 - clock) / 1000
    return result


def case(kind: str, threads: int) -> str:
    """The name of a case."""
    return f"{kind} {threads}"


def _cost_of_clock() -> float:
    clock = time.perf_counter_ns
    samples = []
    for _ in range(10_000):
        began = clock()
        samples.append(clock() - began)
    return statistics.median(samples)


def _burst(logger: logging.Logger, extra: dict[str, Any] | None, calls: int) -> list[int]:
    clock, info = time.perf_counter_ns, logger.info
    samples = []
    for _ in range(calls):
        began = clock()
        info(_TEXT, extra=extra)
        samples.append(clock() - began)
    return samples


def _bursts(
    logger: logging.Logger, renew: Callable[[], None], threads: int, bursts: int
) -> dict[str, list[list[int]]]:
    samples: dict[str, list[list[int]]] = {TAGGED: [], UNTAGGED: []}
    # Long enough that the threads take turns (every 5 ms).
    calls = _BURST if threads == 1 else 5 * _BURST

    def work(kind: str, extra: dict[str, Any] | None) -> None:
        logger.info(_TEXT, extra=extra)  # the first of a new handler is another matter
        samples[kind].append(_burst(logger, extra, calls))

    for _ in range(bursts if threads == 1 else max(bursts // 10, 1)):
        for kind, extra in ((TAGGED, _EXTRA), (UNTAGGED, None)):
            renew()
            _rest()
            _together(threads, functools.partial(work, kind, extra))
    return samples


def _application(
    logger: logging.Logger, threads: int, seconds: float
) -> dict[str, list[list[int]]]:
    samples: dict[str, list[int]] = {TAGGED: [], UNTAGGED: []}
    interval = threads / _EVENTS_PER_SECOND
    loops = _loops_per_second()
    busy = int(loops / _EVENTS_PER_SECOND / 4)  # twice for each event: half of the time in all

    def work() -> None:
        began = time.monotonic()
        for number in range(int(seconds / interval)):
            for half, (kind, extra) in enumerate(((TAGGED, _EXTRA), (UNTAGGED, None))):
                _compute(busy)
                samples[kind] += _burst(logger, extra, 1)
                due = began + (number + (half + 1) / 2) * interval
                time.sleep(max(due - time.monotonic(), 0.0))

    _together(threads, work)
    _rest()
    return {kind: [times] for kind, times in samples.items()}


def _together(threads: int, work: Callable[[], None]) -> None:
    if threads == 1:
        work()
        return
    start = threading.Barrier(threads)

    def run() -> None:
        start.wait()
        work()

    running = [threading.Thread(target=run) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()


def _rest() -> None:
    """Wait until hardly anything is done in the background, for some seconds at most."""
    ends = time.monotonic() + 5.0
    while time.monotonic() < ends:
        before = time.process_time()
        time.sleep(0.01)
        if time.process_time() - before < 0.001:
            return


def _compute(loops: int) -> int:
    value = 0
    for number in range(loops):
        value = (value * 31 + number) % 1_000_003
    return value


def _loops_per_second() -> float:
    began = time.perf_counter()
    _compute(100_000)
    return 100_000 / (time.perf_counter() - began)


# --- In the process of who compares them ---

_COLUMNS = {
    "tagged50": "tagged p50, µs",
    "tagged99": "p99",
    "untagged50": "untagged p50, µs",
    "untagged99": "p99",
}


def measure(options: Options) -> list[Figure]:
    """The figures: for each state and number of threads."""
    figures = {
        (state, threads): Figure(
            f"caller, {state}, {threads} thread{'s' * (threads > 1)}",
            f"Added to logger.info by a handler, {state}, {threads} logging thread"
            + "s" * (threads > 1),
            _COLUMNS,
            [Row("NullHandler (in all)")],
        )
        for state in (IDLE, DELIVERING)
        for threads in THREADS
    }
    rows = {key: {name: Row(name) for name in _installed()} for key in figures}
    for repeat in range(options.repeats):
        for state in (IDLE, DELIVERING):
            progress(f"caller: {state}: {repeat + 1} of {options.repeats}")
            _repeat(state, options, {threads: rows[state, threads] for threads in THREADS})
    for key, figure in figures.items():
        measured = [row for row in rows[key].values() if row.values or row.note]
        for column in _COLUMNS:
            nulls = [one.values[f"null_{column}"] for one in measured if one.values]
            figure.rows[0].values[column] = max(nulls, key=len)  # one that failed has less
        figure.rows += measured
        figure.remarks.append("absent: " + (", ".join(_absent()) or "none"))
    _compare(figures, rows)
    return list(figures.values())


def _repeat(state: str, options: Options, rows: dict[int, dict[str, Row]]) -> None:
    results = {}
    for name in _installed():
        setup = SETUPS[name]
        if (setup.idle if state == IDLE else setup.delivering) is None:
            continue
        with Receiver(setup.status) as receiver:
            port = receiver.port
            try:
                results[name] = child.run(
                    sample, contender=name, state=state, port=port, quick=options.quick
                )
            except child.ChildError as error:
                for by_name in rows.values():
                    by_name[name].note = f"failed: {error}"
    for threads, by_name in rows.items():
        for kind in (TAGGED, UNTAGGED):
            times = {name: result[case(kind, threads)] for name, result in results.items()}
            for percent in (50, 99):
                # All measured the same NullHandler, some while somebody else was busy.
                null = statistics.median(each[f"null{percent}"] for each in times.values())
                for name, each in times.items():
                    own = each[f"own{percent}"]
                    column = f"{kind}{percent}"
                    by_name[name].add(
                        **{column: own - null, f"null_{column}": null, f"total_{column}": own}
                    )


def _compare(
    figures: dict[tuple[str, int], Figure], rows: dict[tuple[str, int], dict[str, Row]]
) -> None:
    for (state, threads), figure in figures.items():
        by_name = rows[state, threads]
        ours = by_name[CUBEHOOK].values
        suffix = "" if threads == 1 else f", {threads} threads"
        if state == IDLE:
            theirs = by_name[QUEUE_HANDLER].values
            tagged, untagged = f"caller tagged{suffix}", f"caller untagged{suffix}"
            figure.compare(tagged, ours.get("tagged50"), theirs.get("tagged50"))
            figure.compare(untagged, ours.get("untagged50"), ours.get("null_untagged50"))
        else:
            theirs = by_name[DRAINED].values
            # Of the whole calls: it is met or missed as with what is added.
            name = f"caller p99 delivering{suffix}"
            figure.compare(name, ours.get("total_tagged99"), theirs.get("total_tagged99"))


def _installed() -> list[str]:
    known = {one.name: one for one in peers.CONTENDERS if one.name in _PEERS}
    return [name for name in SETUPS if name not in known or known[name].version is not None]


def _absent() -> list[str]:
    there = _installed()
    return [
        f"{one.name} ({one.distribution})"
        for one in peers.CONTENDERS
        if one.name in _PEERS and one.name not in there
    ]
