"""A receiver on loopback and a clock to turn: for the fixtures, and for tests that name them."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cubehook import VerificationError, verify

SECRET = "test-secret-of-the-suite"
PATIENCE = 10.0
"""Seconds to wait for what should come at once: only a failing test ever waits that long."""

HANG = "hang"
CLOSE = "close"
Answer = int | tuple[int, Mapping[str, str]] | str
"""A status, a status with headers, HANG (no answer before the test ends) or CLOSE."""


@dataclass(frozen=True)
class Received:
    """One request as it came in. ``at``: monotonic seconds. Names of headers are in lower case."""

    at: float
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        """The body, parsed."""
        parsed: dict[str, Any] = json.loads(self.body)
        return parsed


class Receiver:
    """An HTTP/1.1 server that records what it gets and answers as it is told.

    Every request has to verify against ``secret``; what does not is listed in ``problems``, and
    the fixture fails the test for it.
    """

    def __init__(self, secret: str = SECRET) -> None:
        self.secret = secret
        self.problems: list[str] = []
        self.connections = 0
        self._received: list[Received] = []
        self._answers: dict[str, deque[Answer]] = defaultdict(deque)
        self._defaults: dict[str, Answer] = {}
        self._news = threading.Condition()
        self._open = threading.Event()
        self._open.set()
        self._over = threading.Event()
        self._sockets: set[socket.socket] = set()
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def url(self, path: str = "/hook") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def endpoint(self, path: str = "/hook", **keys: Any) -> dict[str, Any]:
        """The configuration of an endpoint that is this receiver."""
        return {
            "name": path.strip("/"),
            "url": self.url(path),
            "events": ["*"],
            "secret": self.secret,
            "allow_private_urls": True,
            "backoff_initial": 0.02,
            **keys,
        }

    def script(self, *answers: Answer, path: str = "/hook", default: Answer = 204) -> None:
        """Answer the next requests to ``path`` so, and those after them with ``default``."""
        with self._news:
            self._answers[path].extend(answers)
            self._defaults[path] = default

    def hold(self) -> None:
        """Answer nothing until `release`; requests are read and recorded."""
        self._open.clear()

    def release(self) -> None:
        self._open.set()

    def received(self, path: str | None = None) -> list[Received]:
        with self._news:
            return [one for one in self._received if path in (None, one.path)]

    def wait_for(
        self, count: int, path: str | None = None, timeout: float = PATIENCE
    ) -> list[Received]:
        """The requests so far, as soon as there are ``count``; fails the test otherwise."""
        with self._news:
            arrived = self._news.wait_for(lambda: len(self._at(path)) >= count, timeout)
            found = self._at(path)
        assert arrived, f"{len(found)} of {count} requests came within {timeout} s"
        return found

    def wait_for_disconnects(self, timeout: float = PATIENCE) -> bool:
        """Whether all connections are closed, by the other side, within ``timeout`` seconds."""
        with self._news:
            return self._news.wait_for(lambda: not self._sockets, timeout)

    def close(self) -> None:
        self._over.set()
        self._open.set()
        self._server.shutdown()
        self._thread.join()
        with self._news:
            for sock in self._sockets:
                _shut(sock)
        self._server.server_close()  # joins the threads of the connections

    # What the server's threads call.

    def take(self, path: str, headers: Iterable[tuple[str, str]], body: bytes) -> Answer:
        named = {name.lower(): value for name, value in headers}
        try:
            verify(body, named, self.secret)
        except VerificationError as error:
            self.problems.append(f"{path}: {error}")
        with self._news:
            self._received.append(Received(time.monotonic(), path, named, body))
            answers = self._answers[path]
            answer = answers.popleft() if answers else self._defaults.get(path, 204)
            self._news.notify_all()
        self._open.wait()
        if answer == HANG:
            self._over.wait()
            return CLOSE
        return answer

    def enter(self, sock: socket.socket) -> None:
        with self._news:
            self.connections += 1
            self._sockets.add(sock)

    def leave(self, sock: socket.socket) -> None:
        with self._news:
            self._sockets.discard(sock)
            self._news.notify_all()

    def _at(self, path: str | None) -> list[Received]:
        return [one for one in self._received if path in (None, one.path)]


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # server_close joins them
    request_queue_size = 128

    def __init__(self, receiver: Receiver) -> None:
        self.receiver = receiver
        super().__init__(("127.0.0.1", 0), _Requests)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: a client may go away at any time."""


class _Requests(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server
    connection: socket.socket

    def setup(self) -> None:
        super().setup()
        self.server.receiver.enter(self.connection)

    def finish(self) -> None:
        self.server.receiver.leave(self.connection)
        super().finish()

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        body = self.rfile.read(length)
        if len(body) < length:
            self.close_connection = True  # broken off: nothing was received
            return
        answer = self.server.receiver.take(self.path, self.headers.items(), body)
        if isinstance(answer, str):
            self.close_connection = True
            return
        status, headers = (answer, {}) if isinstance(answer, int) else answer
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


def _shut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the other side was faster
        sock.shutdown(socket.SHUT_RDWR)


class Clock:
    """A monotonic clock that stands still until it is turned."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds
