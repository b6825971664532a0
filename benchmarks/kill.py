"""What survives kill -9: ``python -m benchmarks.kill --runs 20 --events 2000``.

An application logs events into an outbox and delivers them, and is killed at a random point. A
second one, which logs nothing, then delivers what the first has left. It is checked that every
event that was committed arrives; that with ``durable: sync`` every one whose log call had returned
was committed; that what arrives twice does so with the same id and bytes; and the order of each
key. The exit status tells.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cubehook.outbox import Outbox

KEYS = 10
LEASE_SECONDS = 1.0
"""What a killed process had leased is there for others after that."""

_PATIENCE = 120.0
_PAUSE = 0.001
"""Seconds between two log calls: a burst would be queued before the first commit."""

_ROOT = Path(__file__).parent.parent

_APP = f"""
import logging, os, sys, time
import cubehook, cubehook.relay

cubehook.relay.LEASE_SECONDS = {LEASE_SECONDS}
port, outbox, durable, events = sys.argv[1:]
handler = cubehook.WebhookHandler(
    [dict(name="ops", url="http://127.0.0.1:" + port, events=["*"], secret="test-secret",
          allow_private_urls=True)],
    outbox=outbox, durable=durable, queue_capacity=1_000_000, flush_timeout=60.0)
log = logging.Logger("app")
log.addHandler(handler)
for number in range(int(events)):
    log.info("a message", extra=dict(
        event="a.b", event_id=str(number), sandbox_id=str(number % {KEYS})))
    os.write(1, b".")  # its log call has returned
    time.sleep({_PAUSE})
sys.stdin.read()
"""


@dataclass
class Arrived:
    """What the receiver got, in order."""

    numbers: list[int] = field(default_factory=list)
    bodies: dict[int, set[bytes]] = field(default_factory=lambda: collections.defaultdict(set))
    news: threading.Condition = field(default_factory=threading.Condition)

    def take(self, body: bytes) -> None:
        """Note a request."""
        number = int(json.loads(body)["id"])
        with self.news:
            self.numbers.append(number)
            self.bodies[number].add(body)
            self.news.notify_all()

    def wait_for(self, numbers: set[int]) -> set[int]:
        """Wait for all of these; those that have not come."""
        with self.news:
            self.news.wait_for(lambda: numbers <= self.bodies.keys(), _PATIENCE)
            return numbers - self.bodies.keys()

    def out_of_order(self) -> list[int]:
        """Those that came after a later one of their key."""
        latest: dict[int, int] = {}
        late = []
        for number in self.numbers:
            if number < latest.setdefault(number % KEYS, number):
                late.append(number)
            latest[number % KEYS] = max(number, latest[number % KEYS])
        return late


@dataclass(frozen=True)
class Trial:
    """What came of one run.

    returned: events whose log call had returned. lost: of those, not committed. twice: how many
    requests were repetitions.
    """

    returned: int
    committed: int
    lost: int
    twice: int
    problems: tuple[str, ...]


def trial(url: str, events: int, durable: str, chance: random.Random) -> Trial:
    """One run, on an outbox that is empty."""
    arrived = Arrived()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(arrived))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    outbox = Outbox(url)
    try:
        with _start(server.server_port, url, durable, events) as first:
            returned = len(_read(first, chance.randrange(1, events + 1)))
            first.kill()
            returned += len(_read(first, None))
        committed = {int(one.event_id) for one in outbox.list(limit=events + 1)}
        with _start(server.server_port, url, durable, 0) as second:
            missing = arrived.wait_for(committed)
            second.kill()
    finally:
        outbox.close()
        server.shutdown()
        server.server_close()
    lost = set(range(returned)) - committed
    problems = []
    if missing:
        problems.append(f"{len(missing)} that were committed did not arrive")
    if durable == "sync" and lost:
        problems.append(f"{len(lost)} whose log call had returned are lost")
    if any(len(bodies) > 1 for bodies in arrived.bodies.values()):
        problems.append("an id came with different bytes")
    if late := arrived.out_of_order():
        problems.append(f"{len(late)} came out of order")
    twice = len(arrived.numbers) - len(arrived.bodies)
    return Trial(returned, len(committed), len(lost), twice, tuple(problems))


def _start(port: int, url: str, durable: str, events: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", _APP, str(port), url, durable, str(events)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # the receiver of a killed process hangs up: warnings
        cwd=_ROOT,
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
    )


def _read(process: subprocess.Popen[bytes], count: int | None) -> bytes:
    """So many bytes of what it prints, or all that is left."""
    assert process.stdout is not None
    return process.stdout.read() if count is None else process.stdout.read(count)


def _handler(arrived: Arrived) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            body = self.rfile.read(length)
            if len(body) == length:  # else its sender was killed
                arrived.take(body)
                self.send_response(204)
                self.end_headers()

        def handle(self) -> None:
            try:
                super().handle()
            except OSError:  # its sender was killed
                self.close_connection = True

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing."""

    return Handler


def main() -> int:
    """Run it as told on the command line."""
    parser = argparse.ArgumentParser(description="What survives kill -9.")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--events", type=int, default=2000)
    parser.add_argument(
        "--durable", choices=("async", "sync"), nargs="*", default=["async", "sync"]
    )
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    failed = False
    for durable in options.durable:
        chance = random.Random(options.seed)
        found = []
        for run in range(options.runs):
            with tempfile.TemporaryDirectory() as directory:
                url = f"sqlite:///{directory}/outbox.db"
                found.append(trial(url, options.events, durable, chance))
            one = found[-1]
            print(
                f"{durable} {run + 1:3}: {one.returned} returned, {one.committed} committed, "
                f"{one.lost} lost, {one.twice} twice  {'; '.join(one.problems)}",
                flush=True,
            )
            failed = failed or bool(one.problems)
        print(
            f"{durable}: {sum(one.committed for one in found)} committed, all of them arrived"
            if not failed
            else f"{durable}: FAILED",
            f"{sum(one.twice for one in found)} twice",
            f"lost before the commit: at most {max(one.lost for one in found)} of a run",
            sep="; ",
        )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
