"""`HealthServer`: a worker's ``/healthz`` and ``/metrics``. It names endpoints, and counts."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cubehook import threads
from cubehook.worker import Health

HINT = b"metrics need: pip install 'cubehook[prometheus]'\n"
TEXT = "text/plain; charset=utf-8"


class HealthServer:
    """Answers at ``host`` and ``port`` (0: one that is free) from `start` to `stop`.

    metrics: makes the page, or None where the extra is missing; content_type: of that page.
    Raises OSError where the address cannot be used.
    """

    def __init__(
        self,
        host: str,
        port: int,
        health: Callable[[], Health],
        metrics: Callable[[], bytes] | None,
        content_type: str = TEXT,
    ) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._server = _Server((host, port), family)
        self._server.health = health
        self._server.metrics = metrics
        self._server.content_type = content_type

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Answer, on a thread of its own."""
        threads.start("health", lambda: self._server.serve_forever(0.05))

    def stop(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a client that hangs shall not keep the worker from its end
    health: Callable[[], Health]
    metrics: Callable[[], bytes] | None
    content_type: str

    def __init__(self, address: tuple[str, int], family: socket.AddressFamily) -> None:
        self.address_family = family
        super().__init__(address, _Requests)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: a client may go away at any time."""


class _Requests(BaseHTTPRequestHandler):
    server: _Server
    timeout = 5.0  # seconds for a client to ask
    server_version = "cubehook"
    sys_version = ""

    def do_GET(self) -> None:
        """Either page."""
        path = self.path.partition("?")[0]
        if path == "/healthz":
            health = self.server.health()
            page = {"ok": health.ok, **asdict(health)}
            self._answer(200 if health.ok else 503, "application/json", json.dumps(page).encode())
        elif path != "/metrics":
            self._answer(404, TEXT, b"there are /healthz and /metrics\n")
        elif self.server.metrics is None:
            self._answer(404, TEXT, HINT)
        else:
            self._answer(200, self.server.content_type, self.server.metrics())

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""

    def _answer(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)
