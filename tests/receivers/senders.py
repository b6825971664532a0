"""Requests, and two senders of them that speak WSGI and ASGI to an application by hand.

By hand, because a test client makes only requests that are right, and cannot tell what was read.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import io
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from wsgiref.util import setup_testing_defaults

SECRET = "s3cret-of-the-receivers"
PLANTED = "pl4nted-V4lue"
ID = "550e8400-e29b-41d4-a716-446655440000"
EVENT = {"id": ID, "event": "sandbox.created", "sandbox_id": PLANTED, "name": "Grüße"}
BODY = json.dumps(EVENT, ensure_ascii=False).encode()
BOUND = 200_000
"""max_bytes of the receivers under test, and more than one piece."""
PIECE = 65_536

logger = logging.getLogger("senders")


@dataclass(frozen=True)
class Request:
    """length: of the body, as announced; None: its own. chunked: nothing is announced."""

    body: bytes = BODY
    headers: Mapping[str, str] = field(default_factory=dict)
    method: str = "POST"
    length: str | None = None
    chunked: bool = False

    @property
    def head(self) -> dict[str, str]:
        """All headers."""
        if self.chunked:
            return {**self.headers, "Transfer-Encoding": "chunked"}
        length = str(len(self.body)) if self.length is None else self.length
        return {**self.headers, "Content-Length": length}

    @property
    def pieces(self) -> list[bytes]:
        """The body, as an ASGI server hands it over."""
        return [self.body[at : at + PIECE] for at in range(0, len(self.body), PIECE)] or [b""]


@dataclass(frozen=True)
class Answer:
    """read: how many bytes of the body the application took."""

    status: int
    headers: dict[str, str]
    text: str
    read: int


def signed(body: bytes = BODY, *, secret: str = SECRET, age: float = 0) -> dict[str, str]:
    """The headers of a request signed ``age`` seconds ago; written from WIRE.md."""
    timestamp = str(int(time.time() - age))
    mac = hmac.new(secret.encode(), f"{timestamp}.{ID}.".encode() + body, hashlib.sha256)
    return {
        "Content-Type": "application/json",
        "X-Cube-Webhook-Event": "sandbox.created",
        "X-Cube-Webhook-Delivery": ID,
        "X-Cube-Webhook-Timestamp": timestamp,
        "X-Cube-Webhook-Signature": f"v1={mac.hexdigest()}",
    }


def genuine(body: bytes = BODY, **others: Any) -> Request:
    return Request(body, signed(body), **others)


class _Input(io.BytesIO):
    """A body over a connection: reading to its end and beyond would block for ever."""

    def __init__(self, request: Request) -> None:
        super().__init__(request.body)
        self.taken = 0

    def read(self, size: int | None = -1, /) -> bytes:
        assert size is not None
        assert size >= 0, "read without a bound"
        piece = super().read(size)
        self.taken += len(piece)
        return piece


def over_wsgi(application: Any, request: Request) -> Answer:
    """What a WSGI server that takes chunked bodies would get as the answer."""
    body = _Input(request)
    environ: dict[str, Any] = {
        "REQUEST_METHOD": request.method,
        "PATH_INFO": "/webhook",
        "wsgi.input": body,
    }
    if request.chunked:
        environ["wsgi.input_terminated"] = True
    setup_testing_defaults(environ)
    for name, value in request.head.items():
        key = name.upper().replace("-", "_")
        environ[key if key.startswith("CONTENT_") else f"HTTP_{key}"] = value
    started: list[tuple[str, list[tuple[str, str]]]] = []
    try:
        parts = application(environ, lambda *start: started.append(start))
        text = b"".join(parts)
        if hasattr(parts, "close"):
            parts.close()
    except Exception as error:
        return _failed(error, body.taken)
    ((status, headers),) = started
    return Answer(int(status[:3]), _lowered(headers), text.decode(), body.taken)


def over_asgi(application: Any, request: Request) -> Answer:
    """What an ASGI server would get as the answer."""
    waiting = request.pieces
    read = 0
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        nonlocal read
        if not waiting:
            await asyncio.Event().wait()  # the sender stays, and waits for its answer
        piece = waiting.pop(0)
        read += len(piece)
        return {"type": "http.request", "body": piece, "more_body": bool(waiting)}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    try:
        asyncio.run(application(http_scope(request), receive, send))
    except Exception as error:
        return _failed(error, read)
    headers = [(name.decode(), value.decode()) for name, value in sent[0]["headers"]]
    text = b"".join(message.get("body", b"") for message in sent[1:])
    return Answer(sent[0]["status"], _lowered(headers), text.decode(), read)


def http_scope(request: Request) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": "http",
        "path": "/webhook",
        "raw_path": b"/webhook",
        "root_path": "",
        "query_string": b"",
        "headers": [
            (name.lower().encode(), value.encode("latin-1")) for name, value in request.head.items()
        ],
        "client": ("127.0.0.1", 50_000),
        "server": ("127.0.0.1", 80),
    }


def _failed(error: Exception, read: int) -> Answer:
    """As servers do: the traceback goes to the log, the sender gets the status."""
    logger.error("the application failed", exc_info=error)
    return Answer(500, {}, "", read)


def _lowered(headers: list[tuple[str, str]]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers}
