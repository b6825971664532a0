"""What a healthy endpoint feels of nine that hang: ``python -m benchmarks.isolation``.

The same events are logged for one endpoint alone and for the same one beside nine that never
answer, by turns; the figure is the ratio of the p99 latencies from the log call to the receiver.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "faults"))

from receiver import FaultReceiver

from cubehook import WebhookHandler

HANGING = 9


def latencies(hanging: int, events: int, interval: float) -> list[float]:
    """Seconds from log call to receiver for each event, sorted; checks the order on the way."""
    with FaultReceiver() as receiver:
        urls = {"healthy": receiver.url("ok")}
        urls |= {f"hangs-{number}": receiver.url("never-answer") for number in range(hanging)}
        handler = WebhookHandler(
            [
                {"name": name, "url": url, "events": ["*"], "allow_private_urls": True}
                for name, url in urls.items()
            ],
            timeout=1.0,
            flush_timeout=0.1,
        )
        logger = logging.getLogger("isolation")
        logger.setLevel(logging.INFO)
        logger.propagate = False
        logger.addHandler(handler)
        logged: list[float] = []
        for number in range(events):
            logged.append(time.monotonic())
            logger.info("", extra={"event": "x.y", "sandbox_id": "one", "number": number})
            time.sleep(interval)
        ends = time.monotonic() + 30
        while receiver.count("ok") < events and time.monotonic() < ends:
            time.sleep(0.05)
        logger.removeHandler(handler)
        handler.close()
        arrived = [
            (json.loads(request.body)["number"], request.time)
            for request in receiver.requests
            if request.path == "ok"
        ]
    if [number for number, _ in arrived] != list(range(events)):
        sys.exit("the healthy endpoint did not get every event once and in order")
    return sorted(at - logged[number] for number, at in arrived)


def main() -> None:
    """Measure, by turns, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--events", type=int, default=600)
    parser.add_argument("--interval", type=float, default=0.005, help="seconds between events")
    arguments = parser.parse_args()
    logging.getLogger("cubehook").addHandler(logging.NullHandler())
    logging.getLogger("cubehook").propagate = False
    ratios = []
    for _ in range(arguments.repeats):
        runs = [latencies(n, arguments.events, arguments.interval) for n in (0, HANGING)]
        p50 = [run[len(run) // 2] * 1000 for run in runs]
        p99 = [run[len(run) * 99 // 100] * 1000 for run in runs]
        ratios.append(p99[1] / p99[0])
        print(
            f"alone p50 {p50[0]:6.2f} ms, p99 {p99[0]:6.2f} ms; beside {HANGING} that hang "
            f"p50 {p50[1]:6.2f} ms, p99 {p99[1]:6.2f} ms; ratio of the p99 {ratios[-1]:.2f}"
        )
    print(f"ratio of the p99, median of {arguments.repeats}: {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
