"""A webhook receiver on the standard library alone: what any receiver of signed webhooks has to do.

Start it with: WEBHOOK_SECRET=test-secret python3 receiver.py [--host …] [--port …] [--path …]
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import io
import json
import logging
import os
import re
import signal
import socket
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SIGNATURE = "X-Cube-Webhook-Signature"
TIMESTAMP = "X-Cube-Webhook-Timestamp"
DELIVERY = "X-Cube-Webhook-Delivery"
DELIVERY_ID = r"[!-~]{1,255}"

MAX_BODY = 1024 * 1024
REMEMBERED_IDS = 10_000
LINGER = 1.0  # seconds in which a refused sender may finish sending

Headers = Mapping[str, str] | Message
OnEvent = Callable[[dict[str, Any]], None]

log = logging.getLogger("webhook-receiver")


class RequestError(Exception):
    """Answer with this status; the reason is fit for the sender and for the log."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


# --- Is it genuine? ---


def check(
    headers: Headers, body: bytes, secrets: Sequence[bytes], now: float, tolerance: float = 300
) -> None:
    """Raise RequestError unless a holder of one of the secrets signed this body, and just now."""
    signature = the_only(headers, SIGNATURE, r"v1=[0-9a-f]{64}(,v1=[0-9a-f]{64})*")
    timestamp = the_only(headers, TIMESTAMP, r"[0-9]{1,20}")
    delivery = the_only(headers, DELIVERY, DELIVERY_ID)

    # The bytes as they came: a body parsed and written anew would not be the one that was signed.
    signed = f"{timestamp}.{delivery}.".encode("ascii") + body
    wanted = [f"v1={hmac.new(key, signed, hashlib.sha256).hexdigest()}" for key in secrets]
    # Several on either side: so a secret is replaced without losing an event. And never compare
    # with ==, whose running time tells how much of a guess was right.
    pairs = [(one.encode(), other.encode()) for one in wanted for other in signature.split(",")]
    if not any(hmac.compare_digest(one, other) for one, other in pairs):
        raise RequestError(401, "bad signature")

    # A genuine request that somebody recorded stays genuine: it has to be fresh as well.
    if abs(now - int(timestamp)) > tolerance:
        raise RequestError(401, "timestamp too far from now")


def the_only(headers: Headers, name: str, pattern: str) -> str:
    """The value of a header that has to be there, once, and to match the pattern as a whole."""
    values = [value.strip(" \t") for key, value in headers.items() if key.lower() == name.lower()]
    if not values:
        raise RequestError(401, f"missing {name}")
    if len(values) > 1 or not re.fullmatch(pattern, values[0]):
        raise RequestError(401, f"malformed {name}")
    return values[0]


def parse(body: bytes, delivery: str) -> dict[str, Any]:
    """The event in a body. Call it after `check`: what nobody vouches for is not worth parsing."""
    try:
        event = json.loads(body.decode("utf-8"))  # given bytes, json would take UTF-16 as well
    except (ValueError, RecursionError):
        raise RequestError(400, "body is not JSON") from None
    if not isinstance(event, dict):
        raise RequestError(400, "body is not a JSON object")
    if not re.fullmatch(DELIVERY_ID, delivery) or event.get("id") != delivery:
        raise RequestError(400, f"id in the body is not the one in {DELIVERY}")
    return event


# --- Is it new? ---


class Deliveries:
    """The ids accepted lately: a sender that saw no answer sends the same delivery again.

    Bounded, and gone after a restart. A unique column in your database does better.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._accepted: OrderedDict[str, None] = OrderedDict()
        self._in_hand: set[str] = set()
        self._changed = threading.Condition()

    @contextmanager
    def claim(self, delivery: str, patience: float) -> Iterator[bool]:
        """True for a new id, which is remembered once the block has ended without an error."""
        with self._changed:
            # A twin being handled may yet fail: only then is it known whether this one is new.
            if not self._changed.wait_for(lambda: delivery not in self._in_hand, patience):
                raise RequestError(503, "the same delivery is still being handled")
            new = delivery not in self._accepted
            if new:
                self._in_hand.add(delivery)
        if not new:
            yield False
            return
        try:
            yield True
            with self._changed:
                self._accepted[delivery] = None
                if len(self._accepted) > self._capacity:
                    self._accepted.popitem(last=False)
        finally:
            with self._changed:
                self._in_hand.discard(delivery)
                self._changed.notify_all()


# --- The HTTP around it ---


class DeadlineReader(io.RawIOBase):
    """Reads a socket up to a deadline: with a timeout per read, a slow drip would never end."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.deadline = 0.0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        remaining = self.deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError
        self._connection.settimeout(remaining)
        return self._connection.recv_into(buffer)


class Handler(BaseHTTPRequestHandler):
    """One connection: request after request is accepted with 204, or refused and hung up on."""

    server: Receiver
    protocol_version = "HTTP/1.1"  # the connection stays open between requests
    default_request_version = "HTTP/1.1"  # not 0.9, whose answers have no status
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self.rfile.close()  # the base class's own, which knows no deadline
        self.reader = DeadlineReader(self.connection)
        self.rfile = io.BufferedReader(self.reader)

    def handle_one_request(self) -> None:
        # Covers the wait for a request and its head; when it passes, the base class hangs up.
        self.reader.deadline = time.monotonic() + self.server.head_timeout
        super().handle_one_request()

    def parse_request(self) -> bool:
        """Read a head; False when it has been refused."""
        return super().parse_request() and self.head_is_good()

    def handle_expect_100(self) -> bool:
        """Answer `Expect: 100-continue`: ask only for a body that will be taken."""
        return self.head_is_good() and super().handle_expect_100()

    def head_is_good(self) -> bool:
        """Refuse here what is wrong with any method, path or length, before a body is read."""
        try:
            # Not self.path, in which the base class has made one slash of several.
            if self.requestline.split()[1] != self.server.path:
                raise RequestError(404, "no such path")
            if self.command != "POST":
                raise RequestError(405, "only POST is taken here")
            self.length = content_length(self.headers)
        except RequestError as error:
            self.refuse(error)
            return False
        return True

    def do_POST(self) -> None:
        try:
            body = self.read_body()
            if self.server.secrets:
                check(self.headers, body, self.server.secrets, time.time())
            self.server.accept(parse(body, self.headers.get(DELIVERY, "").strip(" \t")))
        except RequestError as error:
            self.refuse(error)
        else:
            self.send_response(204)
            self.end_headers()

    def read_body(self) -> bytes:
        self.reader.deadline = time.monotonic() + self.server.body_timeout
        try:
            body = self.rfile.read(self.length)
        except TimeoutError:
            raise RequestError(408, "body did not come in time") from None
        if len(body) < self.length:
            raise RequestError(400, "body is shorter than its Content-Length")
        return body

    def refuse(self, error: RequestError) -> None:
        """Say why, and hang up: it is no longer sure where the next request would begin."""
        log.warning("refused: %s (%d)", error.reason, error.status)
        text = f"{error.reason}\n".encode()
        self.send_response(error.status)
        self.send_header("Connection", "close")
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(text)))
        if error.status == 405:
            self.send_header("Allow", "POST")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)
        self.linger()

    def linger(self) -> None:
        """Throw away what still comes: hanging up on unread bytes resets the connection, and the
        sender would see a broken pipe, which it retries, in place of the answer.
        """
        self.reader.deadline = min(self.reader.deadline, time.monotonic() + LINGER)
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            while self.rfile.read1(65536):
                pass

    def send_error(self, code: int, *_: Any) -> None:
        """The base class calls this for a head it cannot read, with a message that quotes it."""
        self.refuse(RequestError(code, self.responses[code][0].lower()))

    def version_string(self) -> str:
        return "webhook-receiver"  # and not which Python it runs on

    def log_message(self, *_: Any) -> None:
        """Silence the base class, which logs what came in as it came in."""


def content_length(headers: Message) -> int:
    """The length of the body: known beforehand, one number, spelt in one way."""
    # A line that is no header ends the parsing and hides the headers behind it: see `defects`.
    if headers.defects or "Transfer-Encoding" in headers:
        raise RequestError(400, "a plain body with a Content-Length is needed")
    values = {value.strip(" \t") for value in headers.get_all("Content-Length", [])}
    if len(values) != 1:
        raise RequestError(400, "one Content-Length is needed")
    value = values.pop()
    if not re.fullmatch(r"[0-9]+", value):  # int() takes "+5", "5_0" and the digits of any script
        raise RequestError(400, "malformed Content-Length")
    if len(value) > 20 or int(value) > MAX_BODY:
        raise RequestError(413, f"body is over {MAX_BODY} bytes")
    return int(value)


def shown(value: object) -> str:
    """A received value for the log: one word on one line, whatever is in it."""
    if not isinstance(value, str) or not value:
        return "-"
    return value[:200].encode("unicode_escape").decode("ascii").replace(" ", r"\x20")


class Receiver(ThreadingHTTPServer):
    """The server, with what its handlers share; made by `make_server`."""

    daemon_threads = True
    request_queue_size = 128  # a sender may open many connections at once
    path: str
    secrets: tuple[bytes, ...]
    on_event: OnEvent | None
    body_timeout: float
    head_timeout: float
    deliveries: Deliveries

    def accept(self, event: dict[str, Any]) -> None:
        """Hand on a new event. What fails is not remembered, so the next attempt gets through."""
        line = f"{shown(event.get('event'))} id={shown(event['id'])}"
        if "sandbox_id" in event:
            line += f" sandbox_id={shown(event['sandbox_id'])}"
        with self.deliveries.claim(event["id"], self.body_timeout) as new:
            if new and self.on_event is not None:
                try:
                    self.on_event(event)
                except Exception as error:
                    log.error("failed %s: on_event raised %s", line, type(error).__name__)
                    raise RequestError(500, "event could not be handled") from None
        log.info("%s %s", "accepted" if new else "duplicate", line)

    def handle_error(self, *_: Any) -> None:
        log.warning("connection ended by %s", type(sys.exc_info()[1]).__name__)


def make_server(
    host: str,
    port: int,
    *,
    path: str = "/webhook",
    secrets: Sequence[bytes],
    on_event: OnEvent | None = None,
    insecure: bool = False,
    body_timeout: float = 10.0,
    head_timeout: float = 10.0,
) -> Receiver:
    """A server that listens (port 0: on a free one) and waits for `serve_forever()`."""
    if not all(secrets) or not (secrets or insecure):
        raise ValueError("at least one secret is needed, and none may be empty")
    server = Receiver((host, port), Handler)
    server.path, server.secrets, server.on_event = path, tuple(secrets), on_event
    server.body_timeout, server.head_timeout = body_timeout, head_timeout
    server.deliveries = Deliveries(REMEMBERED_IDS)
    return server


def main() -> None:
    parser = argparse.ArgumentParser(description="Receive webhooks signed with WEBHOOK_SECRET.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8787)
    parser.add_argument("--path", default="/webhook")
    parser.add_argument("--insecure", action="store_true", help="start without WEBHOOK_SECRET")
    options = parser.parse_args()
    given = [part.strip() for part in os.environ.get("WEBHOOK_SECRET", "").split(",")]
    secrets = [part.encode("utf-8", "surrogateescape") for part in given if part]
    if not secrets and not options.insecure:
        parser.error("set WEBHOOK_SECRET (or give --insecure: signatures are then not checked)")

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    host, port = options.host, options.port
    try:
        server = make_server(host, port, path=options.path, secrets=secrets, insecure=not secrets)
    except (OSError, OverflowError) as error:
        parser.error(f"cannot listen on {host}:{port}: {error}")
    if not secrets:
        log.warning("INSECURE: signatures are not checked, anyone may send events")
    serve(server)


def serve(server: Receiver) -> None:
    """Serve until Ctrl-C or SIGTERM. A sender cut off by it has no answer, and sends again."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)  # raises KeyboardInterrupt
    with server, suppress(KeyboardInterrupt):
        log.info("listening on http://%s:%d%s", *server.server_address[:2], server.path)
        server.serve_forever()
    log.info("stopped")


if __name__ == "__main__":
    main()
