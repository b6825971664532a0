"""Several processes that deliver from one outbox, and one of them is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import stored
from sqlalchemy import select

import cubehook
from cubehook.outbox import Lease, Outbox, Result, Status
from cubehook.outbox.schema import deliveries

if TYPE_CHECKING:
    from conftest import Receiver

KEYS = "abcd"

RELAY = """
import json, sys
from cubehook.config import load
from cubehook import WebhookFormatter
from cubehook.courier import Courier, policy_of
from cubehook.outbox import Outbox
from cubehook.relay import Relay

given = json.loads(sys.argv[1])
endpoints = load(given["endpoints"]).endpoints
courier = Courier(max_concurrency=4, queue_capacity=100, max_payload_bytes=10_000,
                  formats={"cube": WebhookFormatter()},
                  on_return=lambda: relay.wake())
relay = Relay(Outbox(given["outbox"]), courier.dispatcher, lease_seconds=1.0)
courier.configure(endpoints)
relay.configure({one.name: policy_of(one) for one in endpoints})
relay.start()
print("started", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def start(url: str, receiver: Receiver) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def begin(name: str) -> subprocess.Popen[str]:
        endpoint = receiver.endpoint("/ops", headers={"X-Worker": name})
        process = subprocess.Popen(
            [sys.executable, "-c", RELAY, json.dumps({"endpoints": [endpoint], "outbox": url})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(cubehook.__file__).parent.parent)},
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        return process

    yield begin
    receiver.release()
    for one in started:
        with one:
            one.kill()


def leases_of(outbox: Outbox, event_id: str) -> list[Lease]:
    """What its worker holds in its hands."""
    with stored.engine_of(outbox).connect() as connection:
        rows = connection.execute(
            select(deliveries.c.id, deliveries.c.token, deliveries.c.at).where(
                deliveries.c.event_id == event_id, deliveries.c.status == Status.LEASED.value
            )
        ).all()
    message = stored.message(event_id, event_id[0])
    return [Lease(row.id, "ops", message, 0, 0.0, row.at, True, bytes(row.token)) for row in rows]


def test_another_one_takes_over_from_one_that_was_killed(
    url: str,
    receiver: Receiver,
    start: Callable[[str], subprocess.Popen[str]],
    eventually: Callable[..., None],
) -> None:
    outbox = Outbox(url)
    numbers = range(15)
    ids = [f"{key}{number:02}" for number in numbers for key in KEYS]
    receiver.hold()
    workers = {name: start(name) for name in ("1", "2", "3")}
    stored.add(outbox, *ids)
    first = receiver.wait_for(1)[0]
    doomed = first.headers["x-worker"]
    lost = of(first, ids)
    (late,) = leases_of(outbox, lost)
    workers[doomed].send_signal(signal.SIGKILL)
    workers[doomed].wait()
    receiver.release()

    def all_delivered() -> bool:
        return outbox.counts() == {"ops": {Status.DELIVERED: len(ids)}}

    eventually(all_delivered, 30.0)
    before = outbox.list(limit=1000)
    assert outbox.settle([Result(late, stored.REFUSED, 0.0)]) == 1
    assert outbox.extend([late], 60.0) == []
    outbox.release([late])
    assert outbox.list(limit=1000) == before

    sent = [(of(one, ids), one.headers["x-worker"]) for one in receiver.received()]
    assert {worker for one, worker in sent if one == lost} > {doomed}
    for key in KEYS:
        mine = [one for one, _ in sent if one[0] == key]
        assert mine == sorted(mine)  # what came twice did so at once
        assert set(mine) == {one for one in ids if one[0] == key}
    outbox.close()


def of(request: Any, ids: list[str]) -> str:
    """Which event it is about."""
    return next(value for value in request.headers.values() if value in ids)
