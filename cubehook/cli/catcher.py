"""The server behind ``cubehook listen``: takes requests, judges them, and answers as it is told."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cubehook.cli.captured import Captured, Verdict

MAX_BODY = 4 * 1_048_576
"""Four times what cubehook itself can be configured to send."""

TIMEOUT, RESET = "timeout", "reset"
TOLERANCE = 300.0

_REMEMBERED = 10_000
_READ_SECONDS = 30.0
_HANG_SECONDS = 300.0
_LAST_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Failing:
    """``count`` requests with the same id are answered so: a status, `TIMEOUT` or `RESET`."""

    kind: int | str
    count: int


@dataclass(frozen=True, slots=True)
class Rules:
    """What is checked and what is answered. Times are seconds. failing: one after the other."""

    secrets: tuple[str, ...] = field(default=(), repr=False)
    scheme: str | None = None
    status: int = 204
    delay: float = 0.0
    failing: tuple[Failing, ...] = ()
    retry_after: int | None = None

    def answer(self, times: int) -> int | str:
        """To the request that came so many times before."""
        for one in self.failing:
            if times < one.count:
                return one.kind
            times -= one.count
        return self.status


@dataclass(frozen=True, slots=True)
class Caught:
    """A request, and what it was answered. times: how often its id came before."""

    at: float
    request: Captured
    verdict: Verdict
    times: int
    answer: int | str


class Catcher:
    """See the module. take: is called with each request before it is answered, in some thread."""

    def __init__(
        self, host: str, port: int, rules: Rules, take: Callable[[Caught], object]
    ) -> None:
        self._rules = rules
        self._take = take
        self._seen: OrderedDict[str, int] = OrderedDict()
        self._changed = threading.Condition()
        self._answering = 0
        self._over = threading.Event()
        self._server = _Server((host, port), self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Answer, in threads, until `stop`."""
        self._thread.start()

    def stop(self) -> None:
        """Listen no more. Answers under way are given, at once; but those that were to hang."""
        self._over.set()
        self._server.shutdown()
        with self._changed:
            self._changed.wait_for(lambda: not self._answering, _LAST_SECONDS)
        self._thread.join()
        self._server.server_close()

    # In the thread of a connection.

    @contextmanager
    def caught(self, request: Captured) -> Iterator[Caught]:
        """What came, which is to be answered in the block."""
        verdict = request.verdict(self._rules.secrets, self._rules.scheme, TOLERANCE)
        with self._changed:
            self._answering += 1
            made = self._judged(request, verdict)
            self._take(made)  # in here, so that one comes after the other
        try:
            yield made
        finally:
            with self._changed:
                self._answering -= 1
                self._changed.notify_all()

    def headers(self, answer: int) -> Mapping[str, str]:
        """Of an answer, beside those that each has."""
        if self._rules.retry_after is None or answer == self._rules.status:
            return {}
        return {"Retry-After": str(self._rules.retry_after)}

    def wait(self) -> None:
        """Be as slow as it was told."""
        if self._rules.delay:
            self._over.wait(self._rules.delay)

    def hang(self) -> None:
        """Wait until nobody wants an answer any more."""
        self._over.wait(_HANG_SECONDS)

    def _judged(self, request: Captured, verdict: Verdict) -> Caught:
        if verdict.genuine is False:
            # Anybody can send an id; only those of genuine requests count.
            return Caught(time.time(), request, verdict, 0, HTTPStatus.UNAUTHORIZED.value)
        times = self._count(request.id or "")
        return Caught(time.time(), request, verdict, times, self._rules.answer(times))

    def _count(self, request_id: str) -> int:
        times = self._seen.pop(request_id, 0)
        self._seen[request_id] = times + 1
        if len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        return times


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], catcher: Catcher) -> None:
        self.catcher = catcher
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Requests)

    def server_bind(self) -> None:
        """Without the look-up of a name that ``http.server`` does."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = "localhost", int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: a client may go away at any time."""


class _Requests(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "cubehook-listen", ""
    disable_nagle_algorithm = True
    timeout = _READ_SECONDS
    server: _Server

    def do_POST(self) -> None:
        body = self._body()
        if body is None:
            return
        catcher = self.server.catcher
        with catcher.caught(Captured.of(self.headers.items(), body)) as caught:
            if caught.answer == TIMEOUT:
                catcher.hang()
                self.close_connection = True
                return
            catcher.wait()
            if isinstance(caught.answer, int):
                self._answer(caught.answer, catcher.headers(caught.answer))
            else:
                self._reset()

    def do_GET(self) -> None:
        self.close_connection = True  # what may follow it is not read
        self._answer(405, {"Allow": "POST"})

    do_HEAD = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_GET  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the lines hold paths."""

    def _body(self) -> bytes | None:
        """The body; None where there is none to have, and that was answered."""
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdecimal() and len(length) <= 20):
            self.close_connection = True
            self._answer(411 if not length else 400)
            return None
        if int(length) > MAX_BODY:
            self.close_connection = True
            self._answer(413)
            return None
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            self.close_connection = True  # broken off: nothing was received
            return None
        return body

    def _answer(self, status: int, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if status not in (204, 304):
            self.send_header("Content-Length", "0")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()

    def _reset(self) -> None:
        self.close_connection = True
        # Nothing is left to be sent when it is closed: so it is reset (RST).
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
