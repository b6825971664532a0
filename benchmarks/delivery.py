"""Signed deliveries of single events: how many a second, and the CPU seconds of 10,000.

The receiver is an nginx on this machine that answers 204. Each row runs in a process of its own,
whose CPU time is counted; rows that log are timed from the first ``logger.info`` of a burst to the
last answer, the others send a ready body in a loop, in one thread.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import socket
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool

from benchmarks import child, peers
from benchmarks.figure import Figure, Options, Row, progress
from benchmarks.nginx import Nginx
from cubehook import ConfigError, WebhookHandler

CUBEHOOK, BATCHES, CURL = "cubehook", "cubehook, batches of 100", "cubehook, curl"
URLLIB3 = "urllib3.urlopen, signs"
STDLIB, LOKI, SENTRY = "HTTPHandler, QueueListener", "loki, queue handler", "sentry events"

_PATH = "/hooks"
_KEY = b"test-secret"
_IDS = 40  # sandboxes: the order by key is part of the work
_WARM_UP = 200
_LONGEST = 300.0  # seconds for one burst
_BODY = json.dumps(
    {
        "id": "550e8400-e29b-41d4-a716-446655440000",
        "timestamp": "2026-07-01T08:00:00.123456Z",
        "level": "info",
        "event": "sandbox.created",
        "sandbox_id": "sandbox-12",
        "template_id": "template-456",
    },
    separators=(",", ":"),
).encode()

Burst: TypeAlias = Callable[[int], object]
"""Delivers so many events, and returns when the last is answered."""


# --- The rows, each in its own process ---


def _cubehook(port: int, **keys: Any) -> Burst:
    endpoint = {
        "name": "nginx",
        "url": f"http://{peers.HOST}:{port}{_PATH}",
        "secret": _KEY.decode(),
        "allow_private_urls": True,
        **keys,
    }
    handler = WebhookHandler([endpoint], queue_capacity=1_000_000)
    log = _logger(handler)

    def burst(count: int) -> None:
        log(count)
        if not handler.flush(_LONGEST):
            raise RuntimeError("it did not deliver in time")
        if handler.stats().delivered != handler.stats().received:
            raise RuntimeError("it did not deliver all")

    return burst


def _batches(port: int) -> Burst:
    return _cubehook(port, batch={"max_events": 100})


def _curl(port: int) -> Burst:
    return _cubehook(port, transport="curl")


def _urllib3(port: int) -> Burst:
    pool = HTTPConnectionPool(peers.HOST, port)
    return _each(lambda: pool.urlopen("POST", _PATH, body=_BODY, headers=_signed()))


def _adapter(port: int) -> Burst:
    adapter = HTTPAdapter()
    request = requests.Request("POST", f"http://{peers.HOST}:{port}{_PATH}", _signed(), data=_BODY)
    ready = request.prepare()
    return _each(lambda: adapter.send(ready).content)


def _session(port: int) -> Burst:
    session = requests.Session()
    url = f"http://{peers.HOST}:{port}{_PATH}"
    return _each(lambda: session.post(url, data=_BODY, headers=_signed()).content)


def _raw(port: int) -> Burst:
    connection = socket.create_connection((peers.HOST, port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    lines = [f"POST {_PATH} HTTP/1.1", f"Host: {peers.HOST}", f"Content-Length: {len(_BODY)}"]
    lines += [f"{name}: {value}" for name, value in _signed().items()]
    request = "\r\n".join([*lines, "", ""]).encode() + _BODY

    def send() -> None:
        connection.sendall(request)
        if not connection.recv(65_536).endswith(b"\r\n\r\n"):
            raise RuntimeError("the answer came in pieces")

    return _each(send)


def _stdlib(port: int) -> Burst:
    return _listened(_peer("QueueListener").handler(port))


def _loki(port: int) -> Burst:
    return _listened(_peer(LOKI).handler(port))


def _sentry(port: int) -> Burst:
    # Its queue holds 100 events otherwise, and the rest is lost.
    options = "max_breadcrumbs=0, transport_queue_size=1_000_000,"
    setup = peers.SENTRY.format(levels="level=None, event_level=LEVEL", options=options)
    peers.Contender(SENTRY, "", (), setup).handler(port)
    import sentry_sdk  # noqa: PLC0415  # not everybody has it

    log = _logger(None)

    def burst(count: int) -> None:
        log(count)
        sentry_sdk.flush(_LONGEST)

    return burst


def _listened(handler: Any) -> Burst:
    """Of a handler with a QueueListener, which has sent everything when it has stopped."""
    log = _logger(handler)

    def burst(count: int) -> None:
        log(count)
        handler.listener.stop()
        handler.listener.start()

    return burst


def _each(send: Callable[[], object]) -> Burst:
    def burst(count: int) -> None:
        for _ in range(count):
            send()

    return burst


def _logger(handler: logging.Handler | None) -> Burst:
    logger = logging.getLogger("app")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    if handler is not None:
        logger.addHandler(handler)

    def log(count: int) -> None:
        for number in range(count):
            logger.info(
                "sandbox created",
                extra={
                    "event": "sandbox.created",
                    "sandbox_id": f"sandbox-{number % _IDS}",
                    "template_id": "template-456",
                },
            )

    return log


def _signed() -> dict[str, str]:
    """The headers of scheme ``cube``, for an event of its own."""
    event_id, timestamp = str(uuid.uuid4()), str(int(time.time()))
    signed = b"%b.%b.%b" % (timestamp.encode(), event_id.encode(), _BODY)
    return {
        "User-Agent": "benchmark",
        "Content-Type": "application/json",
        "X-Cube-Webhook-Event": "sandbox.created",
        "X-Cube-Webhook-Delivery": event_id,
        "X-Cube-Webhook-Timestamp": timestamp,
        "X-Cube-Webhook-Signature": "v1=" + hmac.digest(_KEY, signed, hashlib.sha256).hex(),
    }


def _peer(name: str) -> peers.Contender:
    return next(one for one in peers.CONTENDERS if one.name == name)


@dataclass(frozen=True)
class Sender:
    """A row. peer: the contender that has to be installed. share: of the events of the others,
    in percent: one that is slow need not take minutes, one that is quick should not be over at
    once. requests: how many events go in one request."""

    start: Callable[[int], Burst]
    peer: str = ""
    share: int = 100
    events_in_request: int = 1


SENDERS = {
    CUBEHOOK: Sender(_cubehook),
    URLLIB3: Sender(_urllib3),
    BATCHES: Sender(_batches, share=400, events_in_request=100),
    CURL: Sender(_curl, share=200),
    "HTTPAdapter.send, ready": Sender(_adapter),
    "Session.post, signs": Sender(_session),
    STDLIB: Sender(_stdlib, "QueueListener"),
    LOKI: Sender(_loki, LOKI, share=50),
    SENTRY: Sender(_sentry, SENTRY, share=50),
    "raw socket, ready": Sender(_raw, share=400),
}


def deliver(sender: str, port: int, count: int) -> dict[str, Any]:
    """The seconds, by the clock and of the processor, that ``count`` events take."""
    try:
        burst = SENDERS[sender].start(port)
    except ConfigError as error:  # the endpoint has no such key, or what it needs is missing
        return {"refused": str(error)}
    burst(_WARM_UP)
    began, computed = time.perf_counter(), time.process_time()
    burst(count)
    return {"seconds": time.perf_counter() - began, "cpu": time.process_time() - computed}


# --- In the process of who compares them ---

_COLUMNS = {
    "per_second": "events/s",
    "cpu": "CPU s per 10,000",
    "share": "of the urllib3 loop",
}


def measure(options: Options) -> list[Figure]:
    """The figure."""
    rows = {name: Row(name) for name in SENDERS}
    absent = [name for name in SENDERS if not _there(SENDERS[name])]
    events = options.of(10_000, 1_000)
    with Nginx() as nginx:
        for repeat in range(options.repeats):
            progress(f"delivery: {repeat + 1} of {options.repeats}")
            for name, row in rows.items():
                if name not in absent and not row.note:
                    count = events * SENDERS[name].share // 100
                    _repeat(row, nginx, count)
    figure = Figure(
        "delivery",
        "Signed deliveries of single events to nginx (204), one endpoint",
        _COLUMNS,
        [row for name, row in rows.items() if name not in absent],
        remarks=["absent: " + (", ".join(absent) or "none")],
    )
    _compare(figure, rows)
    return [figure]


def _repeat(row: Row, nginx: Nginx, count: int) -> None:
    before = nginx.requests()
    try:
        result = child.run(deliver, sender=row.name, port=nginx.port, count=count)
    except child.ChildError as error:
        row.note = f"failed: {error}"
        return
    if "refused" in result:
        row.note = f"not there yet ({result['refused']})"
        return
    expected = (count + _WARM_UP) // SENDERS[row.name].events_in_request
    answered = nginx.requests() - before
    if answered < expected:
        row.note = f"failed: {answered} of {expected} requests were made"
        return
    row.add(per_second=count / result["seconds"], cpu=result["cpu"] * 10_000 / count)


def _compare(figure: Figure, rows: dict[str, Row]) -> None:
    rate = {name: row.values.get("per_second") for name, row in rows.items()}
    cpu = {name: row.values.get("cpu") for name, row in rows.items()}
    loop = rate[URLLIB3]
    for row in figure.rows:
        if loop and (own := row.values.get("per_second")):
            row.values["share"] = [a / b for a, b in zip(own, loop, strict=True)]
    figure.compare("delivery / urllib3", rate[CUBEHOOK], loop)
    figure.compare("delivery, batch / single", rate[BATCHES], rate[CUBEHOOK])
    figure.compare("delivery, curl / urllib3", rate[CURL], loop)
    figure.compare("delivery, CPU curl / default", cpu[CURL], cpu[CUBEHOOK])
    figure.compare("delivery, CPU / urllib3", cpu[CUBEHOOK], cpu[URLLIB3])
    if per_event := [values for name in (LOKI, SENTRY) if (values := rate[name])]:
        best = [max(values) for values in zip(*per_event, strict=True)]
        figure.compare("delivery / best peer", rate[CUBEHOOK], best)
    figure.compare("delivery / HTTPHandler, QueueListener", rate[CUBEHOOK], rate[STDLIB])


def _there(sender: Sender) -> bool:
    return not sender.peer or _peer(sender.peer).version is not None
