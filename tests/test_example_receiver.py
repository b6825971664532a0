"""The example receiver, loaded by its path and spoken to over real sockets."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import importlib.util
import json
import logging
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

EXAMPLE = Path(__file__).parent.parent / "examples" / "webhook-receiver"
SECRET = b"test-secret"
MAX_BODY = 1048576
PATIENCE = 10.0  # for what should come at once

ARABIC_ONE = "\u0661"  # a digit for str.isdigit() and int()

KNOWN_SIGNATURE = "v1=32d6a0eded03b109ed9fb0b0d57ac414e13f4bc2caa5eb1fb6c0db0b23845f85"
KNOWN_BODY = b'{"id":"delivery-1","event":"sandbox.created"}'
KNOWN_TIME = 1710000000
KNOWN_HEADERS = {
    "X-Cube-Webhook-Delivery": "550e8400-e29b-41d4-a716-446655440000",
    "X-Cube-Webhook-Timestamp": str(KNOWN_TIME),
    "X-Cube-Webhook-Signature": KNOWN_SIGNATURE,
}


def load() -> Any:
    spec = importlib.util.spec_from_file_location("example_receiver", EXAMPLE / "receiver.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


receiver = load()


# --- A sender ---


@dataclass
class Answer:
    status: int
    headers: http.client.HTTPMessage
    text: str


@dataclass
class Running:
    """A receiver under test and the events it handed on."""

    server: Any
    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.server.server_address[:2]
        return host, port

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=PATIENCE)

    def send(self, raw: bytes) -> Answer:
        """One request on a connection of its own."""
        with closing(self.connect()) as connection:
            connection.sendall(raw)
            return read_answer(connection, raw.split()[0].decode("latin-1"))


def read_answer(connection: socket.socket, method: str | None = None) -> Answer:
    response = http.client.HTTPResponse(connection, method=method)
    response.begin()
    return Answer(response.status, response.headers, response.read().decode())


def sign(
    body: bytes, delivery: str, timestamp: float | str | None = None, secret: bytes = SECRET
) -> dict[str, str]:
    stamp = str(int(time.time())) if timestamp is None else str(timestamp)
    digest = hmac.new(secret, f"{stamp}.{delivery}.".encode() + body, hashlib.sha256).hexdigest()
    return {
        "X-Cube-Webhook-Delivery": delivery,
        "X-Cube-Webhook-Timestamp": stamp,
        "X-Cube-Webhook-Signature": f"v1={digest}",
    }


def an_event(**fields: Any) -> dict[str, Any]:
    return {
        "id": str(uuid.uuid4()),
        "event": "sandbox.created",
        "sandbox_id": "sandbox-123",
        **fields,
    }


def post(
    body: bytes, headers: dict[str, str], *, method: str = "POST", path: str = "/webhook"
) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def signed(event: dict[str, Any]) -> bytes:
    body = json.dumps(event).encode()
    return post(body, sign(body, event["id"]))


def head(*lines: str, first: str = "POST /webhook HTTP/1.1") -> bytes:
    return "\r\n".join([first, "Host: x", *lines, "", ""]).encode("latin-1")


Start = Callable[..., Running]


@pytest.fixture
def start(caplog: pytest.LogCaptureFixture) -> Iterator[Start]:
    caplog.set_level(logging.DEBUG, logger="webhook-receiver")
    started: list[tuple[Any, threading.Thread]] = []

    def run(**options: Any) -> Running:
        events: list[dict[str, Any]] = []
        options = {"secrets": [SECRET], "on_event": events.append, **options}
        server = receiver.make_server("127.0.0.1", 0, **options)
        thread = threading.Thread(target=server.serve_forever, args=(0.002,))
        thread.start()
        started.append((server, thread))
        return Running(server, events)

    yield run
    for server, thread in started:
        server.shutdown()
        thread.join(PATIENCE)
        server.server_close()


@pytest.fixture
def running(start: Start) -> Running:
    return start()


def refusal(headers: dict[str, str], body: bytes = KNOWN_BODY, **options: Any) -> str:
    options = {"secrets": [SECRET], "now": KNOWN_TIME, **options}
    with pytest.raises(receiver.RequestError) as caught:
        receiver.check(headers, body, **options)
    assert caught.value.status == 401
    return str(caught.value.reason)


# --- check() ---


def test_known_answer() -> None:
    receiver.check(KNOWN_HEADERS, KNOWN_BODY, [SECRET], KNOWN_TIME)


def test_header_names_are_case_insensitive() -> None:
    headers = {name.lower(): value for name, value in KNOWN_HEADERS.items()}
    receiver.check(headers, KNOWN_BODY, [SECRET], KNOWN_TIME)


@pytest.mark.parametrize("off", [-300, 0, 300])
def test_fresh_within_the_tolerance(off: int) -> None:
    receiver.check(KNOWN_HEADERS, KNOWN_BODY, [SECRET], KNOWN_TIME + off)


@pytest.mark.parametrize("off", [-301, 301, 300.5, 10**9])
def test_stale_and_future_timestamps(off: float) -> None:
    assert "timestamp" in refusal(KNOWN_HEADERS, now=KNOWN_TIME + off)


def test_tolerance_can_be_given() -> None:
    receiver.check(KNOWN_HEADERS, KNOWN_BODY, [SECRET], KNOWN_TIME + 9, tolerance=10)
    refusal(KNOWN_HEADERS, now=KNOWN_TIME + 11, tolerance=10)


@pytest.mark.parametrize("name", list(KNOWN_HEADERS))
def test_each_header_is_needed(name: str) -> None:
    headers = {key: value for key, value in KNOWN_HEADERS.items() if key != name}
    assert refusal(headers) == f"missing {name}"


@pytest.mark.parametrize("name", list(KNOWN_HEADERS))
def test_a_header_given_twice_is_refused(name: str) -> None:
    headers = {**KNOWN_HEADERS, name.lower(): KNOWN_HEADERS[name]}
    assert refusal(headers) == f"malformed {name}"


def test_tampering() -> None:
    other = {"X-Cube-Webhook-Delivery": "other"}
    later = {"X-Cube-Webhook-Timestamp": str(KNOWN_TIME + 1)}
    assert refusal(KNOWN_HEADERS, KNOWN_BODY + b" ") == "bad signature"
    assert refusal({**KNOWN_HEADERS, **other}) == "bad signature"
    assert refusal({**KNOWN_HEADERS, **later}) == "bad signature"
    assert refusal(KNOWN_HEADERS, secrets=[b"another"]) == "bad signature"
    assert refusal(KNOWN_HEADERS, secrets=[]) == "bad signature"


@pytest.mark.parametrize(
    "signature",
    [
        "",
        "v1=",
        KNOWN_SIGNATURE[3:],
        KNOWN_SIGNATURE[:-1],
        KNOWN_SIGNATURE + "0",
        KNOWN_SIGNATURE + "\n",
        KNOWN_SIGNATURE + ",",
        "," + KNOWN_SIGNATURE,
        KNOWN_SIGNATURE + ";" + KNOWN_SIGNATURE,
        KNOWN_SIGNATURE + ", " + KNOWN_SIGNATURE,
        "v1=" + KNOWN_SIGNATURE[3:].upper(),
        KNOWN_SIGNATURE.replace("v1", "V1"),
        KNOWN_SIGNATURE.replace("v1", "v2"),
        KNOWN_SIGNATURE.replace("v1", "sha256"),
        "v1=" + "é" * 64,
        "v1=" + ARABIC_ONE * 64,
    ],
)
def test_malformed_signatures(signature: str) -> None:
    headers = {**KNOWN_HEADERS, "X-Cube-Webhook-Signature": signature}
    assert refusal(headers) == "malformed X-Cube-Webhook-Signature"


@pytest.mark.parametrize(
    "timestamp",
    [
        "",
        "+1710000000",
        "-1",
        "1_710_000_000",
        "1710000000.0",
        "1.7e9",
        "0x10",
        "17100 00000",
        "1710000000\n",
        "nan",
        ARABIC_ONE * 10,
        "²",
        "9" * 5000,
    ],
)
def test_malformed_timestamps(timestamp: str) -> None:
    headers = sign(KNOWN_BODY, "one", timestamp)
    assert refusal(headers) == "malformed X-Cube-Webhook-Timestamp"


@pytest.mark.parametrize("delivery", ["", "a b", "a\nb", "é", "\ud800", "x" * 256])
def test_malformed_delivery_ids(delivery: str) -> None:
    headers = {**KNOWN_HEADERS, "X-Cube-Webhook-Delivery": delivery}
    assert refusal(headers) == "malformed X-Cube-Webhook-Delivery"


def test_rotation() -> None:
    old = sign(KNOWN_BODY, "one", KNOWN_TIME, b"old")
    new = sign(KNOWN_BODY, "one", KNOWN_TIME, b"new")
    both = f"{new['X-Cube-Webhook-Signature']},{old['X-Cube-Webhook-Signature']}"
    for headers in (old, new):
        receiver.check(headers, KNOWN_BODY, [b"new", b"old"], KNOWN_TIME)
    for secret in (b"new", b"old"):
        headers = {**new, "X-Cube-Webhook-Signature": both}
        receiver.check(headers, KNOWN_BODY, [secret], KNOWN_TIME)


# --- Accepted ---


def test_accepts_a_signed_event(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    event = an_event()
    answer = running.send(signed(event))
    assert (answer.status, answer.text) == (204, "")
    assert answer.headers["Server"] == "webhook-receiver"
    assert running.events == [event]
    expected = f"accepted sandbox.created id={event['id']} sandbox_id=sandbox-123"
    assert caplog.messages == [expected]


def test_accepts_without_a_callback(start: Start) -> None:
    assert start(on_event=None).send(signed(an_event())).status == 204


def test_an_event_without_a_sandbox(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    assert running.send(signed({"id": "one", "event": "snapshot.deleted"})).status == 204
    assert running.send(signed({"id": "two"})).status == 204
    assert caplog.messages == ["accepted snapshot.deleted id=one", "accepted - id=two"]


def test_the_connection_is_kept(running: Running) -> None:
    with closing(running.connect()) as connection:
        for _ in range(3):
            connection.sendall(signed(an_event()))
            assert read_answer(connection).status == 204
    assert len(running.events) == 3


def test_pipelined_requests(running: Running) -> None:
    running_over = head("Content-Length: 0", "Connection: close")
    with closing(running.connect()) as connection:
        connection.sendall(signed(an_event()) + signed(an_event()) + running_over)
        with connection.makefile("rb") as stream:
            answers = stream.read()
    assert re.findall(rb"HTTP/1.1 (\d+)", answers) == [b"204", b"204", b"401"]


def test_events_are_handled_side_by_side(start: Start) -> None:
    together = threading.Barrier(4)
    running = start(on_event=lambda event: together.wait(PATIENCE) and None)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(running.send, [signed(an_event()) for _ in range(4)]))
    assert [answer.status for answer in answers] == [204] * 4


# --- Path and method ---


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/webhook/",
        "/webhook?",
        "/webhook?x=1",
        "/webhook#x",
        "//webhook",
        "/Webhook",
        "/web%68ook",
        "*",
        "http://x/webhook",
        "/webhook/../webhook",
    ],
)
@pytest.mark.parametrize("method", ["POST", "GET", "HEAD"])
def test_other_paths(running: Running, method: str, path: str) -> None:
    answer = running.send(head("Content-Length: 0", first=f"{method} {path} HTTP/1.1"))
    assert answer.status == 404
    assert answer.headers["Connection"] == "close"
    assert answer.text == ("" if method == "HEAD" else "no such path\n")


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "BREW", "post"])
def test_other_methods(running: Running, method: str) -> None:
    answer = running.send(head(first=f"{method} /webhook HTTP/1.1"))
    assert answer.status == 405
    assert answer.headers["Allow"] == "POST"
    assert answer.headers["Connection"] == "close"


def test_the_answer_to_head_has_no_body(running: Running) -> None:
    with closing(running.connect()) as connection:
        connection.sendall(head(first="HEAD /webhook HTTP/1.1"))
        with connection.makefile("rb") as stream:
            assert stream.read().endswith(b"\r\n\r\n")


def test_the_path_can_be_given(start: Start) -> None:
    running = start(path="/hooks/cube")
    event = an_event()
    body = json.dumps(event).encode()
    assert running.send(post(body, sign(body, event["id"]), path="/hooks/cube")).status == 204
    assert running.send(signed(event)).status == 404


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"POST /webhook\r\n\r\n", 400),
        (b"GET /webhook\r\n\r\n", 405),
        (b"POST /webhook HTTP/x\r\n\r\n", 400),
        (b"POST /webhook HTTP/2.0\r\n\r\n", 505),
        (b"POST /" + b"x" * 70000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"POST /webhook HTTP/1.1\r\nX: " + b"x" * 70000 + b"\r\n\r\n", 431),
        (b"POST /webhook HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n", 431),
    ],
    ids=lambda value: str(value)[:40],
)
def test_heads_beyond_reading(
    running: Running, caplog: pytest.LogCaptureFixture, raw: bytes, status: int
) -> None:
    with closing(running.connect()) as connection:
        connection.sendall(raw)
        with connection.makefile("rb") as stream:
            answer = stream.read()
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert b"\r\nConnection: close\r\n" in answer
    assert b"html" not in answer.lower()
    assert [message[-5:] for message in caplog.messages] == [f"({status})"]


# --- The body's length ---


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["Content-Length:"],
        ["Content-Length: -1"],
        ["Content-Length: +5"],
        ["Content-Length: 5_0"],
        ["Content-Length: 0x5"],
        ["Content-Length: 5.0"],
        ["Content-Length: 5 5"],
        ["Content-Length: 5, 5"],
        ["Content-Length: ²"],
        ["Content-Length: five"],
        ["Content-Length: 5", "Content-Length: 6"],
        ["Content-Length: 5", "Content-Length: +5"],
        ["Content-Length: 5\r\n 5"],
        ["Content-Length : 5"],
        ["Transfer-Encoding: chunked"],
        ["Transfer-Encoding: identity", "Content-Length: 5"],
        ["Content-Length: 5", "no header", "Transfer-Encoding: chunked"],
    ],
)
def test_bad_content_lengths(running: Running, lines: list[str]) -> None:
    with closing(running.connect()) as connection:
        connection.sendall(head(*lines))  # nothing follows: the answer does not wait for a body
        answer = read_answer(connection)
        assert connection.recv(1) == b""
    assert answer.status == 400
    assert answer.headers["Connection"] == "close"


def test_a_repeated_equal_content_length_is_one(running: Running) -> None:
    event = an_event()
    body = json.dumps(event).encode()
    headers = {**sign(body, event["id"]), "content-length": f"{len(body)} "}
    assert running.send(post(body, headers)).status == 204


def test_a_mebibyte_is_accepted(running: Running) -> None:
    event = an_event(padding="")
    event["padding"] = "x" * (MAX_BODY - len(json.dumps(event)))
    body = json.dumps(event).encode()
    assert len(body) == MAX_BODY
    assert running.send(post(body, sign(body, event["id"]))).status == 204
    assert running.events == [event]


@pytest.mark.parametrize("length", [str(MAX_BODY + 1), "9" * 19, "9" * 5000])
def test_a_byte_more_is_refused_unread(running: Running, length: str) -> None:
    answer = running.send(head(f"Content-Length: {length}"))
    assert answer.status == 413
    assert answer.headers["Connection"] == "close"


def test_a_sender_in_the_middle_of_its_body_gets_the_answer(running: Running) -> None:
    body = b"x" * (4 * MAX_BODY)
    assert running.send(post(body, sign(body, "one"))).status == 413


def test_expect_100_continue(running: Running) -> None:
    event = an_event()
    body = json.dumps(event).encode()
    raw = post(body, {**sign(body, event["id"]), "Expect": "100-continue"})
    with closing(running.connect()) as connection:
        connection.sendall(raw.removesuffix(body))
        assert connection.recv(4096) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        assert read_answer(connection).status == 204
        connection.sendall(head("Expect: 100-continue", f"Content-Length: {MAX_BODY + 1}"))
        assert connection.recv(12) == b"HTTP/1.1 413"


def test_a_body_cut_short(running: Running) -> None:
    with closing(running.connect()) as connection:
        connection.sendall(signed(an_event())[:-1])
        connection.shutdown(socket.SHUT_WR)
        assert read_answer(connection).status == 400
    assert running.events == []


# --- Time ---


def drip(connection: socket.socket, pieces: bytes, pace: float = 0.02) -> None:
    """Send byte after byte until there is an answer, or the connection is closed."""
    for value in pieces:
        connection.sendall(bytes([value]))
        if select.select([connection], [], [], pace)[0]:
            return


def watch_hang_up(server: Any) -> threading.Event:
    """Set once the thread of the connection has nothing more to do with it."""
    hung_up = threading.Event()
    shutdown_request = server.shutdown_request

    def watched(request: Any) -> None:
        shutdown_request(request)
        hung_up.set()

    server.shutdown_request = watched
    return hung_up


def test_a_dripping_body_is_cut_off(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    running = start(body_timeout=0.3)
    hung_up = watch_hang_up(running.server)
    with closing(running.connect()) as connection:
        began = time.monotonic()
        connection.sendall(head("Content-Length: 1000"))
        drip(connection, b" " * 999)
        answer = read_answer(connection)
        assert hung_up.wait(PATIENCE)  # with the sender still there
        took = time.monotonic() - began
    assert answer.status == 408
    assert answer.headers["Connection"] == "close"
    assert 0.25 < took < 2
    assert caplog.messages == ["refused: body did not come in time (408)"]


def test_a_body_that_does_not_come(start: Start) -> None:
    answer = start(body_timeout=0.1).send(head("Content-Length: 5"))
    assert answer.status == 408


def test_a_slow_body_in_time_is_accepted(start: Start) -> None:
    running = start(head_timeout=0.2, body_timeout=PATIENCE)
    event = an_event()
    body = json.dumps(event).encode()
    with closing(running.connect()) as connection:
        connection.sendall(post(body, sign(body, event["id"])).removesuffix(body))
        drip(connection, body[:10], pace=0.03)
        connection.sendall(body[10:])
        assert read_answer(connection).status == 204


@pytest.mark.parametrize("raw", [b"P" * 999, b"POST /webhook HTTP/1.1\r\nX: " + b"y" * 999, b""])
def test_a_slow_head_is_hung_up_on(start: Start, raw: bytes) -> None:
    running = start(head_timeout=0.2)
    hung_up = watch_hang_up(running.server)
    with closing(running.connect()) as connection:
        began = time.monotonic()
        drip(connection, raw)
        assert connection.recv(1) == b""
        assert hung_up.wait(PATIENCE)
        assert time.monotonic() - began < 2


def test_a_lost_connection_is_one_line(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    running = start(on_event=None)
    hung_up = watch_hang_up(running.server)
    connection = running.connect()
    connection.sendall(head("Content-Length: 5"))
    # Closing with a linger of 0 resets.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    connection.close()
    assert hung_up.wait(PATIENCE)
    assert caplog.messages == ["connection ended by ConnectionResetError"]


# --- Genuine, then well-formed ---


@pytest.mark.parametrize("off", [-400, 400])
def test_a_recorded_request_is_refused(running: Running, off: int) -> None:
    event = an_event()
    body = json.dumps(event).encode()
    answer = running.send(post(body, sign(body, event["id"], int(time.time()) + off)))
    assert (answer.status, answer.text) == (401, "timestamp too far from now\n")
    assert running.events == []


def test_tampered_requests_are_refused(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    event = an_event()
    body = json.dumps(event).encode()
    headers = sign(body, event["id"])
    later = str(int(headers["X-Cube-Webhook-Timestamp"]) + 1)
    tampered = [
        post(body.replace(b"sandbox-123", b"sandbox-124"), headers),
        post(body, {**headers, "X-Cube-Webhook-Delivery": str(uuid.uuid4())}),
        post(body, {**headers, "X-Cube-Webhook-Timestamp": later}),
        post(body, sign(body, event["id"], secret=b"guess")),
    ]
    answers = [running.send(raw) for raw in tampered]
    assert [answer.status for answer in answers] == [401] * 4
    assert {answer.headers["Connection"] for answer in answers} == {"close"}
    assert caplog.messages == ["refused: bad signature (401)"] * 4
    assert running.events == []


def test_an_unsigned_request_is_refused(running: Running) -> None:
    answer = running.send(post(b"{}", {}))
    assert (answer.status, answer.text) == (401, "missing X-Cube-Webhook-Signature\n")


def test_a_header_twice_on_the_wire_is_refused(running: Running) -> None:
    event = an_event()
    body = json.dumps(event).encode()
    headers = sign(body, event["id"])
    headers["x-cube-webhook-delivery"] = event["id"]
    assert running.send(post(body, headers)).status == 401


def test_rotation_over_the_wire(start: Start) -> None:
    running = start(secrets=[b"new", b"old"])
    statuses = []
    for secret in (b"new", b"old", b"older"):
        event = an_event()
        body = json.dumps(event).encode()
        statuses.append(running.send(post(body, sign(body, event["id"], secret=secret))).status)
    assert statuses == [204, 204, 401]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"one"',
        b"{}",
        b'{"id":1}',
        b'{"id":"two"}',
        b'{"id":"one"} {}',
        b'{"id":"one\xff"}',
        b'\xef\xbb\xbf{"id":"one"}',
        '{"id":"one"}'.encode("utf-16"),
        b'{"id":"one","n":' + b"9" * 10000 + b"",
        b"[" * 200000,
    ],
    ids=lambda body: body[:16].decode("latin-1"),
)
def test_signed_nonsense(running: Running, body: bytes) -> None:
    answer = running.send(post(body, sign(body, "one")))
    assert answer.status == 400
    assert answer.headers["Connection"] == "close"
    assert running.events == []


def test_nonsense_is_verified_before_it_is_parsed(running: Running) -> None:
    assert running.send(post(b"{", sign(b"[", "one"))).status == 401


# --- Once ---


def test_duplicates_are_answered_but_not_handed_on(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    event = an_event()
    raw = signed(event)
    assert [running.send(raw).status for _ in range(3)] == [204] * 3
    assert running.events == [event]
    assert [message.split()[0] for message in caplog.messages] == [
        "accepted",
        "duplicate",
        "duplicate",
    ]


def test_a_refused_id_is_not_remembered(running: Running) -> None:
    event = an_event()
    body = json.dumps(event).encode()
    assert running.send(post(body, sign(body, event["id"], secret=b"guess"))).status == 401
    assert running.send(post(b"{}", sign(b"{}", event["id"]))).status == 400
    assert running.send(signed(event)).status == 204
    assert running.events == [event]


def test_a_failed_id_is_not_remembered(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    seen = []

    def fail_once(event: dict[str, Any]) -> None:
        seen.append(event)
        if len(seen) == 1:
            raise LookupError("sandbox-123 belongs to s3cret")

    running = start(on_event=fail_once)
    event = an_event()
    first, second, third = (running.send(signed(event)) for _ in range(3))
    assert (first.status, first.headers["Connection"]) == (500, "close")
    assert (second.status, third.status) == (204, 204)
    assert seen == [event, event]
    assert "on_event raised LookupError" in caplog.messages[0]
    assert "s3cret" not in caplog.text + first.text


class Twins:
    """Sends one event several times at once; `on_event` starts when all of them have arrived."""

    def __init__(self, start: Start, count: int, **options: Any) -> None:
        self.arrived = threading.Semaphore(0)
        self.count = count
        self.handled = 0
        self.failures = options.pop("failures", 0)
        self.running = start(on_event=self.on_event, **options)
        self.accept = self.running.server.accept
        self.running.server.accept = self.arrive

    def arrive(self, event: dict[str, Any]) -> None:
        self.arrived.release()
        self.accept(event)

    def on_event(self, event: dict[str, Any]) -> None:
        self.handled += 1
        if self.handled == 1:
            for _ in range(self.count):
                assert self.arrived.acquire(timeout=PATIENCE)
        if self.handled <= self.failures:
            raise RuntimeError

    def send(self) -> list[int]:
        raw = signed(an_event())
        with ThreadPoolExecutor(self.count) as pool:
            answers = pool.map(self.running.send, [raw] * self.count)
            return sorted(answer.status for answer in answers)


def test_concurrent_duplicates_are_handed_on_once(start: Start) -> None:
    twins = Twins(start, 8)
    assert twins.send() == [204] * 8
    assert twins.handled == 1


def test_a_twin_steps_in_for_one_that_failed(start: Start) -> None:
    twins = Twins(start, 8, failures=1)
    assert twins.send() == [204] * 7 + [500]
    assert twins.handled == 2


def test_a_twin_does_not_wait_for_ever(start: Start) -> None:
    answered = threading.Event()
    running = start(on_event=lambda event: answered.wait(PATIENCE) and None, body_timeout=0.1)
    raw = signed(an_event())
    with closing(running.connect()) as first:
        first.sendall(raw)
        with closing(running.connect()) as second:
            second.sendall(raw)
            ready = select.select([first, second], [], [], PATIENCE)[0]
            assert len(ready) == 1  # one of the two is being handled, the other one gives up
            assert read_answer(ready[0]).status == 503
            answered.set()
            assert read_answer(first if ready[0] is second else second).status == 204


def test_memory_is_bounded() -> None:
    deliveries = receiver.Deliveries(2)

    def claim(delivery: str) -> bool:
        with deliveries.claim(delivery, 0) as new:
            return bool(new)

    assert [claim(name) for name in "abab"] == [True, True, False, False]
    assert [claim(name) for name in "cbca"] == [True, False, False, True]
    assert receiver.REMEMBERED_IDS == 10_000


# --- The log ---


def test_received_values_cannot_forge_the_log(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    forged = "x\r\n2026 INFO accepted\x1b[2J\x00\x7f\u2028\ud800 id=forged"
    event = an_event(event=forged, sandbox_id=forged)
    assert running.send(signed(event)).status == 204
    assert running.send(signed(an_event(event=["x\n"], sandbox_id={"\n": 1}))).status == 204
    assert running.send(signed(an_event(event="x" * 100000))).status == 204
    assert running.send(head(first="GET /\x1b[2J\x7f HTTP/1.1")).status == 404
    assert running.send(head("X: \x1b\r\n\x1b", first="G\x1bT /webhook HTTP/1.1")).status == 405
    assert len(caplog.messages) == 5
    for message in caplog.messages:
        assert message.isascii()
        assert message.isprintable()
        assert message.count(" id=") <= 1
        assert len(message) < 1000
    assert caplog.messages[1].startswith("accepted - id=")


def test_no_secret_and_no_signature_is_logged(
    running: Running, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    body = json.dumps(an_event()).encode()
    headers = sign(body, json.loads(body)["id"])
    for raw in (post(body, headers), post(body + b" ", headers), post(body, headers, path="/")):
        running.send(raw)
    assert len(caplog.messages) == 3
    assert SECRET.decode() not in caplog.text
    assert headers["X-Cube-Webhook-Signature"][3:] not in caplog.text
    assert "".join(capfd.readouterr()) == ""  # the base class would print the request line


# --- Starting and stopping ---


def test_a_server_without_secrets_has_to_be_asked_for(start: Start) -> None:
    for secrets in ([], [b""], [b"a", b""]):
        with pytest.raises(ValueError, match="secret"):
            receiver.make_server("127.0.0.1", 0, secrets=secrets)
    running = start(secrets=[], insecure=True)
    body = b'{"id":"one"}'
    assert running.send(post(body, {"X-Cube-Webhook-Delivery": "one"})).status == 204
    assert running.send(post(body, {"X-Cube-Webhook-Delivery": "two"})).status == 400
    assert running.send(post(body, {})).status == 400
    assert running.send(post(b'{"id":""}', {"X-Cube-Webhook-Delivery": ""})).status == 400
    assert running.events == [{"id": "one"}]


def environment(secret: str | None) -> dict[str, str]:
    """Without proxies, and with no secret but the given one."""
    env = {"PATH": os.environ.get("PATH", ""), "LANG": "C.UTF-8"}
    return env if secret is None else {**env, "WEBHOOK_SECRET": secret}


@pytest.mark.parametrize("secret", [None, "", " , "])
def test_refuses_to_start_without_a_secret(secret: str | None) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLE / "receiver.py"), "--port", "0"],
        env=environment(secret),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 2
    assert "set WEBHOOK_SECRET" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_in_use_is_one_clear_line(running: Running) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLE / "receiver.py"), "--port", str(running.address[1])],
        env=environment("test-secret"),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 2
    assert "cannot listen on 127.0.0.1:" in done.stderr
    assert "Traceback" not in done.stderr


class Program:
    """The receiver as it is started from a shell."""

    def __init__(self, *arguments: str, secret: str | None) -> None:
        command = [sys.executable, str(EXAMPLE / "receiver.py"), "--port", "0", *arguments]
        self.process = subprocess.Popen(
            command, env=environment(secret), stderr=subprocess.PIPE, text=True
        )
        self.log: list[str] = []
        self.url = ""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)
            if "listening on " in line:
                self.url = line.split("listening on ")[1].strip()
                break

    def send(self, raw: bytes) -> int:
        host, port = self.url.split("/")[2].split(":")
        with closing(socket.create_connection((host, int(port)), PATIENCE)) as connection:
            connection.sendall(raw)
            return read_answer(connection).status

    def stop(self, number: int) -> str:
        self.process.send_signal(number)
        _, rest = self.process.communicate(timeout=PATIENCE)
        return "".join(self.log) + rest

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_program(number: int) -> None:
    with Program("--path", "/hook", secret="new-secret, test-secret") as program:
        assert program.url.endswith("/hook")
        event = an_event()
        body = json.dumps(event).encode()
        raw = post(body, sign(body, event["id"]), path="/hook")
        assert program.send(raw) == 204
        assert program.send(raw.replace(b"sandbox-123", b"sandbox-124")) == 401
        output = program.stop(number)
        assert program.process.returncode == 0
    assert f"accepted sandbox.created id={event['id']} sandbox_id=sandbox-123\n" in output
    assert "refused: bad signature (401)\n" in output
    assert output.endswith(" stopped\n")
    assert "Traceback" not in output
    assert "-secret" not in output


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_the_program_says_that_it_is_insecure() -> None:
    with Program("--insecure", secret=None) as program:
        assert program.send(post(b'{"id":"1"}', {"X-Cube-Webhook-Delivery": "1"})) == 204
        assert "signatures are not checked" in program.stop(signal.SIGTERM)
    with Program("--insecure", secret="test-secret") as program:
        assert program.send(post(b'{"id":"1"}', {"X-Cube-Webhook-Delivery": "1"})) == 401
        assert "INSECURE" not in program.stop(signal.SIGTERM)


# --- The README ---


def code_blocks(language: str) -> list[str]:
    text = (EXAMPLE / "README.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


needs_shell = pytest.mark.skipif(
    not all(shutil.which(tool) for tool in ("bash", "curl", "openssl")),
    reason="bash, curl or openssl is missing",
)


@needs_shell
def test_the_readme_sends_a_signed_request(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    (script,) = code_blocks("bash")
    assert "127.0.0.1:8787" in script
    script = script.replace("127.0.0.1:8787", "{}:{}".format(*running.address))
    again, forged = "\ncurl" + script.split("\ncurl")[1], "body=${body/123/124}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join([script, again, forged, again])],
        env=environment(None),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert re.findall(r"^HTTP/1.1 (.*?)\r?$", done.stdout, re.MULTILINE) == [
        "204 No Content",
        "204 No Content",
        "401 Unauthorized",
    ]
    assert (done.stderr, done.returncode) == ("", 0)
    assert [message.split(" id=")[0] for message in caplog.messages] == [
        "accepted sandbox.created",
        "duplicate sandbox.created",
        "refused: bad signature (401)",
    ]


def test_the_readme_adapts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    (source,) = code_blocks("python")
    made: dict[str, Any] = {}

    class Fake:
        def __init__(self, host: str, port: int, **options: Any) -> None:
            receiver.make_server(host, 0, **options).server_close()
            made.update(options, port=port)

        def serve_forever(self) -> None:
            made["served"] = True

    fake = type(sys)("receiver")
    fake.make_server = Fake  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "receiver", fake)
    monkeypatch.setenv("WEBHOOK_SECRET", "test-secret")
    exec(compile(source, "README.md", "exec"), {})
    made["on_event"](an_event())
    assert (made["port"], made["secrets"], made["served"]) == (8787, [SECRET], True)


def test_the_readme_lists_every_status() -> None:
    source = (EXAMPLE / "receiver.py").read_text(encoding="utf-8")
    used = set(re.findall(r"(?:RequestError|send_response)\((\d{3})", source))
    table = (EXAMPLE / "README.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"\d{3}", "".join(re.findall(r"^\| (\d[\d, ]+) \|", table, re.M))))
    assert used <= listed
    assert listed - used == {"414", "431", "505"}  # of the standard library's own
