"""What `durable` measures, each in a process of its own (see `child`)."""

from __future__ import annotations

import logging
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

from benchmarks.peers import HOST
from cubehook import WebhookHandler
from cubehook.config import Settings, load_endpoints
from cubehook.message import Message
from cubehook.outbox import Outbox, Result, Target
from cubehook.outcome import Delivered
from cubehook.worker import Worker

ENDPOINT = "receiver"

_KEYS = 1_000  # sandboxes: the order by key is part of the work, and not the limit
_CAPACITY = 1_000_000
_LONGEST = 300.0  # seconds
_LEASE = 60.0
_PER_LEASE = 100
_RATE = 500.0  # events a second, where the loss window is measured


def store(url: str, count: int) -> float:
    """Events stored a second in group commits, from the first ``logger.info`` to the last one."""
    handler = _handler(1, outbox=url, deliver=False)
    log = _logger(handler)
    log(200)
    _flush(handler)
    began = time.perf_counter()
    log(count)
    _flush(handler)
    seconds = time.perf_counter() - began
    _check(handler.stats().stored, count + 200)
    return count / seconds


def sync(url: str, threads: int, count: int) -> float:
    """``logger.info`` a second, each of which returns after its commit, in so many threads."""
    handler = _handler(1, outbox=url, deliver=False, durable="sync")
    log = _logger(handler)
    log(5)
    own = [threading.Thread(target=log, args=(count // threads,)) for _ in range(threads)]
    began = time.perf_counter()
    for one in own:
        one.start()
    for one in own:
        one.join()
    seconds = time.perf_counter() - began
    _check(handler.stats().stored, count // threads * threads + 5)
    return count // threads * threads / seconds


def window(url: str, seconds: float) -> list[float]:
    """Seconds from each ``logger.info`` to the commit of its event, at `_RATE`."""
    handler = _handler(1, outbox=url, deliver=False)
    logged: dict[str, float] = {}
    stored: dict[str, float] = {}
    depot: Any = handler._pipeline._depot
    add = depot._outbox.add

    def noting(batch: list[tuple[Message, list[Target]]]) -> int:
        new: int = add(batch)
        now = time.perf_counter()
        stored.update((message.id, now) for message, _ in batch)
        return new

    depot._outbox.add = noting
    log = _logger(handler)
    log(50)
    _flush(handler)
    began = time.perf_counter()
    for number in range(int(_RATE * seconds)):
        time.sleep(max(began + number / _RATE - time.perf_counter(), 0.0))
        name = f"timed-{number}"
        logged[name] = time.perf_counter()
        log(1, event_id=name)
    _flush(handler)
    return [stored[name] - moment for name, moment in logged.items()]


def deliver(port: int, count: int, url: str | None) -> float:
    """Events a second through a handler, from the first ``logger.info`` to the last answer."""
    handler = _handler(port) if url is None else _handler(port, outbox=url)
    log = _logger(handler)
    log(200)
    _await(lambda: handler.stats().delivered >= 200)
    began = time.perf_counter()
    log(count)
    _await(lambda: handler.stats().delivered >= count + 200)
    return count / (time.perf_counter() - began)


def backlog(url: str, count: int) -> None:
    """Store so many events for the endpoint."""
    body = b'{"event":"sandbox.created","sandbox_id":"sandbox-12","template_id":"template-456"}'
    outbox = Outbox(url)
    for start in range(0, count, 500):
        outbox.add(
            (
                Message(
                    f"stored-{number}",
                    "sandbox.created",
                    f"sandbox-{number % _KEYS}",
                    "application/json",
                    body,
                ),
                [Target(ENDPOINT)],
            )
            for number in range(start, min(start + 500, count))
        )
    outbox.close()


def drain(
    url: str, port: int, begins: float | None = None, attempts: int | None = None
) -> dict[str, float]:
    """A worker delivers what is stored. From when to when, by the clock of the machine.

    begins: when to start, for several that start together. attempts: the most at once.
    """
    settings = Settings() if attempts is None else Settings(max_concurrency=attempts)
    worker = Worker(url, load_endpoints([_endpoint(port)], settings), settings)
    worker.outbox.prepare()
    worker.outbox.wanted([ENDPOINT])
    if begins is not None:
        if time.monotonic() > begins:
            raise RuntimeError("it was not ready in time")
        time.sleep(begins - time.monotonic())
    began = time.monotonic()
    computed = time.process_time()
    worker.drain()
    ended = time.monotonic()
    computed = time.process_time() - computed
    done = worker.metrics().endpoints[ENDPOINT].delivered
    worker.stop(1.0)
    return {"began": began, "ended": ended, "delivered": done, "cpu": computed}


def lease(url: str, endpoint: str, key: bool, rounds: int) -> dict[str, float]:
    """Milliseconds of a lease of 100, and of the settling of these; as many are added each time."""
    outbox = Outbox(url)
    outbox.prepare()
    leases, settles = [], []
    for turn in range(rounds + 2):
        began = time.perf_counter()
        leased = outbox.lease([endpoint], _PER_LEASE, _LEASE, "benchmark")
        taken = time.perf_counter()
        outbox.settle([Result(one, Delivered(204), time.time()) for one in leased])
        settled = time.perf_counter()
        _check(len(leased), _PER_LEASE)
        outbox.add(
            (_small(turn, number, f"key-{number}" if key else None), [Target(endpoint)])
            for number in range(_PER_LEASE)
        )
        if turn >= 2:  # the first ones have connected, and read pages
            leases.append(taken - began)
            settles.append(settled - taken)
    outbox.close()
    return {"lease": statistics.median(leases) * 1e3, "settle": statistics.median(settles) * 1e3}


def _small(turn: int, number: int, key: str | None) -> Message:
    return Message(f"{time.time_ns()}-{turn}-{number}", "a.b", key, "application/json", b"{}")


def _endpoint(port: int) -> dict[str, Any]:
    return {
        "name": ENDPOINT,
        "url": f"http://{HOST}:{port}/hooks",
        "secret": "test-secret",
        "allow_private_urls": True,
    }


def _handler(port: int, **options: Any) -> WebhookHandler:
    return WebhookHandler(
        [_endpoint(port)], queue_capacity=_CAPACITY, flush_timeout=_LONGEST, **options
    )


def _logger(handler: logging.Handler) -> Callable[..., None]:
    logger = logging.getLogger("app")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)

    def log(count: int, **fields: str) -> None:
        for number in range(count):
            logger.info(
                "sandbox created",
                extra={
                    "event": "sandbox.created",
                    "sandbox_id": f"sandbox-{number % _KEYS}",
                    "template_id": "template-456",
                    **fields,
                },
            )

    return log


def _flush(handler: WebhookHandler) -> None:
    if not handler.flush(_LONGEST):
        raise RuntimeError("it did not store in time")


def _await(done: Callable[[], bool]) -> None:
    ends = time.monotonic() + _LONGEST
    while not done():
        if time.monotonic() > ends:
            raise RuntimeError("it did not deliver in time")
        time.sleep(0.005)


def _check(count: int, expected: int) -> None:
    if count != expected:
        raise RuntimeError(f"{count} instead of {expected}")
