"""What the application feels: how much a loop that only computes slows down meanwhile.

The loop logs 500 events a second, which are delivered in the background; it is compared to the same
loop, in the same process, with a NullHandler. What is delivered while the loop runs is counted:
who puts the work off does not slow the loop.
"""

from __future__ import annotations

import logging
import statistics
import time

from benchmarks import child, peers
from benchmarks.figure import Figure, Options, Row, progress
from benchmarks.receiver import EVENT, Receiver, arrivals

CUBEHOOK = "cubehook"

_EVENTS_PER_SECOND = 500
_CONTENDERS = (
    CUBEHOOK,
    "QueueListener",
    "loki, queue handler",
    "logzio",
    "logstash-async",
    "watchtower",
    "splunk",
    "OpenTelemetry logs",
    "sentry events",
)


# --- In the process of a contender ---


def loop(contender: str, port: int, seconds: float) -> dict[str, float]:
    """Compute and log for so long, with a NullHandler and with the contender.

    Returns rounds a second (``null``, ``own``), the CPU seconds of the background threads
    (``background``), how many events were logged, and the moment of the end.
    """
    logger = logging.getLogger("app")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    logger.addHandler(logging.NullHandler())
    _rounds(logger, seconds / 4)
    slices = [_rounds(logger, seconds / 20)[0] for _ in range(10)]
    handler = next(one for one in peers.CONTENDERS if one.name == contender).handler(port)
    logger.handlers = [handler] if handler else []
    before = time.process_time() - time.thread_time()
    own, logged = _rounds(logger, seconds)
    background = time.process_time() - time.thread_time() - before
    ended = time.monotonic()
    null = statistics.median(slices)  # nothing here comes in bursts: what does is somebody else
    return {"null": null, "own": own, "background": background, "logged": logged, "ended": ended}


def _rounds(logger: logging.Logger, seconds: float) -> tuple[float, int]:
    began = due = time.monotonic()
    rounds = logged = 0
    while (now := time.monotonic()) < began + seconds:
        if now >= due:
            text = EVENT.format(logged)
            sandbox = f"sandbox-{logged % 40}"
            extra = {"event": "sandbox.created", "sandbox_id": sandbox, "text": text}
            logger.info(text, extra=extra)
            due += 1 / _EVENTS_PER_SECOND
            logged += 1
        value = 0
        for number in range(500):
            value = (value * 31 + number) % 1_000_003
        rounds += 1
    return rounds / (now - began), logged


# --- In the process of who compares them ---

_COLUMNS = {
    "slower": "slower by, %",
    "delivered": "delivered meanwhile, %",
    "background": "CPU µs per event in the background",
}


def measure(options: Options) -> list[Figure]:
    """The figure."""
    known = {one.name: one for one in peers.CONTENDERS}
    there = [name for name in _CONTENDERS if known[name].version is not None]
    rows = {name: Row(name) for name in there}
    for repeat in range(options.repeats):
        progress(f"impact: {repeat + 1} of {options.repeats}")
        for name, row in rows.items():
            with Receiver(known[name].status) as receiver:
                try:
                    result = child.run(
                        loop,
                        contender=name,
                        port=receiver.port,
                        seconds=0.8 if options.quick else 6.0,
                    )
                except child.ChildError as error:
                    row.note = f"failed: {error}"
                    continue
                moments = arrivals(receiver.port).values()
            delivered = sum(moment <= result["ended"] for moment in moments)
            row.add(
                slower=(1 - result["own"] / result["null"]) * 100,
                delivered=delivered / result["logged"] * 100,
                background=result["background"] * 1e6 / result["logged"],
            )
    figure = Figure(
        "impact",
        f"A loop that computes, while {_EVENTS_PER_SECOND} events a second are delivered",
        _COLUMNS,
        list(rows.values()),
        remarks=["absent: " + (", ".join(set(_CONTENDERS) - set(there)) or "none")],
    )
    return [figure]
