"""How long an event takes from the log call to the receiver, idle and at half of the full load.

The receiver runs in a process of its own and notes the arrivals on the monotonic clock, which all
processes of a machine share. The measure of all things is one POST of urllib3 to the same receiver,
from the call to the answer.
"""

from __future__ import annotations

import json
import logging
import random
import time
from typing import Any

from urllib3 import HTTPConnectionPool

from benchmarks import child, peers
from benchmarks.figure import Figure, Options, Row, percentile, progress
from benchmarks.receiver import EVENT, Receiver, arrivals, wait

CUBEHOOK, POST = "cubehook", "one urllib3 POST"
CONTENDERS = (CUBEHOOK, "QueueListener", "loki, queue handler")

_INTERVAL = 0.02  # seconds between events when idle
_LOAD = 0.5
_LONGEST = 60.0
_WARM_UP = 20
_CUBEHOOK = """
import cubehook

handler = cubehook.WebhookHandler(
    [{"name": "peers", "url": URL, "secret": "test-secret", "events": ["*"],
      "allow_private_urls": True}],
    queue_capacity=1_000_000,
)
"""


# --- In the process of a contender ---


def log(contender: str, port: int, idle: int, burst: int, loaded: int) -> dict[str, Any]:
    """Log events: ``idle`` with a pause after each, a ``burst`` that tells what the full
    load is, and ``loaded`` at half of that.

    Returns the moments of the log calls in both states, and the full load in events a second.
    """
    row = next(one for one in peers.CONTENDERS if one.name == contender)
    if contender == CUBEHOOK:
        row = peers.Contender(contender, "", (), _CUBEHOOK)
    logger = logging.getLogger("app")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    handler = row.handler(port)
    assert handler is not None
    logger.addHandler(handler)
    logged: list[float] = []

    def event() -> None:
        number = len(logged)
        text = EVENT.format(number)
        extra = {"event": "sandbox.created", "sandbox_id": f"sandbox-{number % 40}", "text": text}
        logged.append(time.monotonic())
        logger.info(text, extra=extra)

    def all_arrive() -> None:
        if not wait(port, len(logged), _LONGEST):
            raise RuntimeError("not every event has arrived")

    for _ in range(_WARM_UP + idle):
        event()
        time.sleep(_INTERVAL)
    began = time.monotonic()
    for _ in range(burst):
        event()
    all_arrive()
    full = burst / (time.monotonic() - began)
    due = time.monotonic()
    gaps = random.Random(0)
    for _ in range(loaded):
        due += gaps.expovariate(full * _LOAD)
        time.sleep(max(due - time.monotonic(), 0.0))
        event()
    all_arrive()
    numbered = list(enumerate(logged))
    return {
        "idle": dict(numbered[_WARM_UP : _WARM_UP + idle]),
        "loaded": dict(numbered[-loaded:]),
        "full": full,
    }


def post(port: int, count: int) -> dict[str, Any]:
    """Send so many POSTs with a pause after each: when they began, and what they took."""
    pool = HTTPConnectionPool(peers.HOST, port)
    began, took = [], []
    for number in range(_WARM_UP + count):
        body = json.dumps({"text": EVENT.format(number), "fill": "x" * 150}).encode()
        began.append(time.monotonic())
        pool.urlopen("POST", f"/{peers.PATH}", body=body)
        took.append(time.monotonic() - began[-1])
        time.sleep(_INTERVAL)
    return {"idle": dict(list(enumerate(began))[_WARM_UP:]), "took": took[_WARM_UP:]}


# --- In the process of who compares them ---

_COLUMNS = {
    "idle50": "idle p50, ms",
    "idle99": "p99",
    "loaded50": "half load p50, ms",
    "loaded99": "p99",
    "full": "full load, events/s",
}


def measure(options: Options) -> list[Figure]:
    """The figure."""
    idle = options.of(300, 30)
    counts = {"idle": idle, "burst": options.of(3000, 500), "loaded": options.of(3000, 300)}
    known = {one.name: one for one in peers.CONTENDERS}
    there = [name for name in CONTENDERS if known[name].version is not None]
    whole, arrived = Row(POST), Row(f"{POST}, up to the receiver")
    rows = {name: Row(name) for name in there}
    for repeat in range(options.repeats):
        progress(f"latency: {repeat + 1} of {options.repeats}")
        with Receiver() as receiver:
            result = child.run(post, port=receiver.port, count=idle)
            whole.add(**_percentiles("idle", result["took"]))
            taken = arrivals(receiver.port)
            arrived.add(**_percentiles("idle", _latencies(result["idle"], taken)))
        for name, row in rows.items():
            with Receiver(known[name].status) as receiver:
                try:
                    result = child.run(log, contender=name, port=receiver.port, **counts)
                except child.ChildError as error:
                    row.note = f"failed: {error}"
                    continue
                taken = arrivals(receiver.port)
            row.add(
                full=result["full"],
                **_percentiles("idle", _latencies(result["idle"], taken)),
                **_percentiles("loaded", _latencies(result["loaded"], taken)),
            )
    figure = Figure(
        "latency",
        "From logger.info to the receiver",
        _COLUMNS,
        [whole, arrived, *rows.values()],
        remarks=["absent: " + (", ".join(set(CONTENDERS) - set(there)) or "none")],
    )
    ours = rows[CUBEHOOK].values
    figure.compare("latency, idle / POST", ours.get("idle50"), whole.values["idle50"])
    figure.compare(
        "latency, idle / POST up to the receiver", ours.get("idle50"), arrived.values["idle50"]
    )
    figure.compare("latency, half load / POST", ours.get("loaded50"), whole.values["idle50"])
    return [figure]


def _latencies(began: dict[str, float], taken: dict[int, float]) -> list[float]:
    return [taken[int(number)] - when for number, when in began.items()]


def _percentiles(state: str, seconds: list[float]) -> dict[str, float]:
    return {f"{state}{percent}": percentile(seconds, percent) * 1000 for percent in (50, 99)}
