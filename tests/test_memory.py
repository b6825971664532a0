"""With the endpoint down: what an event that waits costs, and that none is lost from the counts."""

from __future__ import annotations

import gc
import json
import logging
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cubehook import EndpointStats, Stats, WebhookFormatter, WebhookHandler
from cubehook.pipeline import MOST_AT_ONCE
from cubehook.stats import Tally

CAPACITY = 2000
OFFERED = 20_000
BODY = 300
"""Bytes of a body, about."""
PER_EVENT = 2048
"""The most that an event may cost while it waits, in bytes."""
PATIENCE = 10.0

Make = Callable[..., WebhookHandler]


@pytest.fixture
def traced() -> Iterator[None]:
    """Allocations are traced in this test."""
    tracemalloc.start()
    yield
    tracemalloc.stop()


def used() -> int:
    """The bytes that are allocated."""
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def adds_up(stats: Stats) -> bool:
    """Whether received = delivered + dead + dropped + pending, in all and for each endpoint."""
    every: list[Stats | EndpointStats] = [stats, *stats.endpoints.values()]
    return all(
        one.received == one.delivered + one.dead + sum(one.dropped.values()) + one.pending
        for one in every
    )


def offer(logger: logging.Logger, first: int, count: int, keys: int) -> None:
    """Log so many events, with ``keys`` keys, whose bodies are of about `BODY` bytes."""
    for number in range(first, first + count):
        tag: dict[str, Any] = {
            "event": "sandbox.created",
            "sandbox_id": f"sandbox-{number % keys:08}",
            "number": number,
            "template": "python-3.12-datascience",
            "region": "eu-central-1",
            "note": f"{number:040}",
        }
        logger.info("a sandbox was created", extra=tag)


class Sizes(WebhookFormatter):
    """Remembers how long the first body was, and can be held up."""

    def __init__(self) -> None:
        super().__init__()
        self.first = 0
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()

    def payload(self, event: Any) -> Any:
        self.entered.set()
        self.gate.wait()
        made = super().payload(event)
        self.first = self.first or len(json.dumps(made))
        return made


def endpoint(url: str) -> dict[str, Any]:
    """An endpoint that is down, and whose retries are far away."""
    return {
        "name": "down",
        "url": url,
        "events": ["*"],
        "secret": "test-secret",
        "allow_private_urls": True,
        "max_retries": 1000,
        "backoff_initial": 600.0,
    }


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("keys", [50, OFFERED], ids=["keys", "a-key-each"])
def test_the_backlog_of_an_endpoint_that_is_down(
    handler: Make, logger: logging.Logger, dead_url: str, keys: int
) -> None:
    made = handler([endpoint(dead_url)], queue_capacity=CAPACITY)
    sizes = Sizes()
    made.setFormatter(sizes)
    offer(logger, 0, 1, keys)
    made.flush(PATIENCE)  # the threads are there, the first attempt has failed
    before = used()

    wrong: list[Stats] = []
    offered = 1
    over = threading.Event()

    def watch() -> None:
        last = 0
        while not over.wait(0.01):
            stats = made.stats()
            # Some more are in the hands of the listener, and one in those of who logs.
            right = adds_up(stats) and last <= stats.received <= OFFERED
            right = right and stats.pending <= 2 * CAPACITY + MOST_AT_ONCE + 1
            last = stats.received
            if not right:
                wrong.append(stats)

    watcher = threading.Thread(target=watch)
    watcher.start()
    for first in range(1, OFFERED, 1000):
        count = min(1000, OFFERED - first)
        offer(logger, first, count, keys)
        offered += count
    over.set()
    watcher.join()
    made.flush(PATIENCE)  # what was queued is in the backlog, or dropped from it

    stats = made.stats()
    growth = used() - before
    assert wrong == []
    assert offered == OFFERED
    assert stats.received == OFFERED
    assert adds_up(stats)
    assert stats.delivered == stats.dead == 0
    assert stats.pending == CAPACITY
    assert sum(stats.dropped.values()) == OFFERED - CAPACITY
    assert set(stats.dropped) <= {"queue_full", "backlog_full"}
    assert BODY * 0.8 <= sizes.first <= BODY * 1.2
    assert growth / stats.pending <= PER_EVENT


@pytest.mark.usefixtures("traced")
def test_the_queue_of_a_listener_that_is_held_up(
    handler: Make, logger: logging.Logger, dead_url: str
) -> None:
    made = handler([endpoint(dead_url)], queue_capacity=CAPACITY)
    sizes = Sizes()
    made.setFormatter(sizes)
    sizes.gate.clear()
    offer(logger, 0, 1, 50)
    assert sizes.entered.wait(PATIENCE)
    before = used()
    offer(logger, 1, OFFERED - 1, 50)
    growth = used() - before
    stats = made.stats()
    sizes.gate.set()

    assert stats.received == OFFERED
    assert adds_up(stats)
    assert stats.pending == stats.queued == CAPACITY + 1  # with the one that the listener has
    assert stats.dropped == {"queue_full": OFFERED - CAPACITY - 1}
    assert growth / stats.pending <= PER_EVENT


class Crossed(Tally):
    """A counter that is read at the very moment at which something else happens."""

    __slots__ = ("meanwhile",)

    def __init__(self, meanwhile: Callable[[], None]) -> None:
        super().__init__()
        self.meanwhile = meanwhile

    def value(self) -> int:
        meanwhile, self.meanwhile = self.meanwhile, lambda: None
        meanwhile()
        return super().value()


def test_an_event_that_is_dropped_while_the_counts_are_read_counts_once(
    handler: Make, logger: logging.Logger, dead_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = handler([endpoint(dead_url)], queue_capacity=CAPACITY)
    made.close()  # what is logged now is dropped, and nothing but dropped
    crossed = Crossed(lambda: offer(logger, 0, 1, 1))
    monkeypatch.setattr(made._pipeline.intake, "offered", crossed)

    stats = made.stats()

    crossed.meanwhile = lambda: None
    assert adds_up(stats)
    assert stats.received <= crossed.value() == 1


def test_an_event_that_the_listener_drops_counts_once(
    handler: Make, logger: logging.Logger, dead_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The counts are read right before and right after it is handed to the dispatcher."""
    made = handler([endpoint(dead_url)], queue_capacity=CAPACITY)
    submit = made._pipeline.dispatcher.submit
    seen: list[Stats] = []

    def watched(*args: Any, **kw: Any) -> bool:
        seen.append(made.stats())
        dropped = submit(*args, **kw)
        seen.append(made.stats())
        return dropped

    monkeypatch.setattr(made._pipeline.dispatcher, "submit", watched)
    logger.info("", extra={"event": "no legal name"})
    assert made.flush(PATIENCE)
    seen.append(made.stats())

    assert {stats.received for stats in seen} == {1}
    assert all(map(adds_up, seen))
    assert made.stats().dropped == {"invalid_name": 1}
