"""Minutes under fire: ``python -m benchmarks.soak --minutes 10``.

An application with several threads logs events for several endpoints, whose receiver answers with
random faults and is stopped and started at random. It is checked, all the time, that the counts add
up; and in the end that every event was taken exactly once by its id, in the order of its key, and
that threads and file descriptors are back where they were. The exit status tells.
"""

from __future__ import annotations

import argparse
import collections
import json
import logging
import os
import random
import resource
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "faults"))

from behaviours import BEHAVIOURS, Exchange
from receiver import FaultReceiver

from cubehook import Stats, WebhookHandler

ENDPOINTS = ("a", "b", "c")
KEYS = 40
THREADS = 4
EVENTS_PER_SECOND = 100.0  # receiver and application share the machine, and the GIL

# What a request may meet, by weight; those above the line have taken the event.
TAKEN = {
    "ok": 80,
    "slow": 3,
    "garbage-200": 1,
    "long-length": 1,
    "short-length": 1,
    "bad-chunking": 1,
    "close-early": 1,
}
REFUSED = {
    "status/500": 4,
    "status/425": 1,
    "status/429": 2,
    "retry-after/soon": 1,
    "reset": 2,
    "close-mid-answer": 2,
    "never-answer": 0.3,
    "drip-header": 0.3,
}


@dataclass
class Taken:
    """What the receiver took: by endpoint and key, the numbers in their order."""

    random: random.Random
    lock: threading.Lock = field(default_factory=threading.Lock)
    numbers: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    repeated: collections.Counter[str] = field(default_factory=collections.Counter)
    met: collections.Counter[str] = field(default_factory=collections.Counter)
    ids: set[tuple[str, str]] = field(default_factory=set)
    peace: bool = False

    def behave(self, exchange: Exchange) -> bool:
        """Answer a request with a fault, or without."""
        weights = TAKEN if self.peace else TAKEN | REFUSED
        with self.lock:
            (name,) = self.random.choices(list(weights), list(weights.values()))
            self.met[name] += 1
            if name in TAKEN:
                self._take(exchange.argument, json.loads(exchange.request.body))
        if name == "retry-after/soon":
            return exchange.answer(503, b"", "Retry-After: 1")
        behaviour, _, argument = name.partition("/")
        inner = Exchange(exchange.request, argument, exchange.connection, exchange.site)
        return BEHAVIOURS[behaviour](inner)

    def _take(self, endpoint: str, body: dict[str, object]) -> None:
        identity = (endpoint, str(body["id"]))
        if identity in self.ids:
            self.repeated[endpoint] += 1
            return
        self.ids.add(identity)
        number = body["number"]
        assert isinstance(number, int)
        self.numbers.setdefault((endpoint, str(body["sandbox_id"])), []).append(number)


def adds_up(stats: Stats) -> bool:
    """Whether received = delivered + dead + dropped + pending, in all and for each endpoint."""
    return all(
        one.received == one.delivered + one.dead + sum(one.dropped.values()) + one.pending
        for one in (stats, *stats.endpoints.values())
    )


def descriptors() -> int:
    """How many file descriptors are open."""
    return len(os.listdir("/proc/self/fd"))


def soak(minutes: float, seed: int) -> list[str]:
    """Run; returns what was wrong."""
    chance = random.Random(seed)
    taken = Taken(random.Random(chance.random()))
    BEHAVIOURS["soak"] = taken.behave
    logging.getLogger("cubehook").addHandler(logging.NullHandler())
    logging.getLogger("cubehook").propagate = False
    logger = logging.getLogger("soak")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    problems: list[str] = []
    with FaultReceiver(drip=0.2) as receiver:
        receiver.stop()
        before = threading.active_count(), descriptors()
        receiver.start()
        handler = WebhookHandler(
            [
                {
                    "name": name,
                    "url": receiver.url(f"soak/{name}"),
                    "secret": "test-secret",
                    "events": ["*"],
                    "allow_private_urls": True,
                }
                for name in ENDPOINTS
            ],
            queue_capacity=1_000_000,
            timeout=1.0,
            max_retries=1000,
            backoff_initial=0.05,
            backoff_max=1.0,
        )
        logger.addHandler(handler)
        logged = _fire(handler, logger, receiver, chance, minutes, problems)
        taken.peace = True
        if not handler.flush(120.0):
            problems.append("not everything was delivered within two minutes of peace")
        stats = handler.stats()
        handler.close()
        logger.removeHandler(handler)
        del handler
        receiver.stop()
        _back_to(before, problems)
        problems += _judge(taken, logged, stats)
        _print(taken, logged, stats, minutes)
    return problems


def _fire(
    handler: WebhookHandler,
    logger: logging.Logger,
    receiver: FaultReceiver,
    chance: random.Random,
    minutes: float,
    problems: list[str],
) -> int:
    """Log and break things for some minutes. Returns how many events were logged."""
    over = threading.Event()
    counts = [0] * THREADS

    def log(thread: int) -> None:
        while not over.is_set():
            number = counts[thread]
            key = f"{thread}-{number % (KEYS // THREADS)}"
            logger.info("", extra={"event": "soak.event", "sandbox_id": key, "number": number})
            counts[thread] += 1
            over.wait(THREADS / EVENTS_PER_SECOND)

    def watch() -> None:
        while not over.wait(0.05):
            if not adds_up(handler.stats()):
                problems.append(f"the counts do not add up: {handler.stats()}")
                return

    threads = [threading.Thread(target=log, args=(number,)) for number in range(THREADS)]
    threads.append(threading.Thread(target=watch))
    for thread in threads:
        thread.start()
    ends = time.monotonic() + minutes * 60
    while time.monotonic() < ends:
        over.wait(chance.uniform(2, 15))
        receiver.stop()
        over.wait(chance.uniform(0.1, 4))
        receiver.start()
    over.set()
    for thread in threads:
        thread.join()
    return sum(counts)


def _back_to(before: tuple[int, int], problems: list[str]) -> None:
    ends = time.monotonic() + 10
    while time.monotonic() < ends:
        now = threading.active_count(), descriptors()
        if now <= before or (now[0] <= before[0] and now[1] <= before[1]):
            return
        time.sleep(0.1)
    problems.append(f"threads and descriptors were {before}, are {now}")


def _judge(taken: Taken, logged: int, stats: Stats) -> list[str]:
    problems = []
    expected = logged * len(ENDPOINTS)
    if len(taken.ids) != expected:
        problems.append(f"{expected} deliveries were due, {len(taken.ids)} were taken")
    for (endpoint, key), numbers in taken.numbers.items():
        if numbers != sorted(numbers):
            problems.append(f"endpoint {endpoint}, key {key}: out of order")
    if not adds_up(stats) or stats.delivered != expected or stats.pending:
        problems.append(f"the counts in the end: {stats}")
    return problems


def _print(taken: Taken, logged: int, stats: Stats, minutes: float) -> None:
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rows = {
        "minutes": minutes,
        "events logged": logged,
        "deliveries taken, by id": len(taken.ids),
        "attempts repeated though taken": sum(taken.repeated.values()),
        "delivered": stats.delivered,
        "retried": stats.retried,
        "dead": stats.dead,
        "dropped": sum(stats.dropped.values()),
        "peak memory, MiB": round(memory),
        "answers": ", ".join(f"{count} {name}" for name, count in taken.met.most_common()),
    }
    for name, value in rows.items():
        print(f"{name:32} {value}")


def main() -> None:
    """Parse the command line, run, and say what was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    arguments = parser.parse_args()
    print(f"{'seed':32} {arguments.seed}")
    problems = soak(arguments.minutes, arguments.seed)
    for problem in problems:
        print(f"PROBLEM: {problem}")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
