"""One request at the fault receiver and the connection it came on: what behaviours work with."""

from __future__ import annotations

import http
import socket
import threading
from dataclasses import dataclass, field
from email.message import Message
from typing import Protocol

KEPT, CLOSED = True, False
"""What becomes of the connection."""


@dataclass(frozen=True)
class Request:
    """A request as received.

    server: which of the receiver's servers took it. path: without the leading slash.
    time: on the monotonic clock. connection: counts the connections accepted, from 1.
    """

    server: str
    method: str
    path: str
    headers: Message = field(repr=False)
    body: bytes = field(repr=False)
    time: float
    connection: int


class Site(Protocol):
    """What a behaviour needs of the receiver."""

    stopped: threading.Event
    drip: float
    patience: float

    def url(self, path: str) -> str:
        """The URL for a path such as ``ok``."""

    def count(self, path: str) -> int:
        """How many requests for that path came so far."""


@dataclass(frozen=True)
class Exchange:
    """One request, and the connection that it came on.

    argument: what follows the behaviour's name in the path.
    """

    request: Request
    argument: str
    connection: socket.socket
    site: Site

    def send(self, data: bytes) -> None:
        """Send these bytes."""
        self.connection.sendall(data)

    def answer(self, status: int, body: bytes = b"", *headers: str) -> bool:
        """A whole and correct answer; the connection is kept."""
        lines = list(headers)
        if status != http.HTTPStatus.NO_CONTENT:
            lines.append(f"Content-Length: {len(body)}")
        self.send(head(status, *lines) + body)
        return KEPT

    def pause(self) -> None:
        """The time between two drips."""
        if self.site.stopped.wait(self.site.drip):
            raise ConnectionAbortedError("the receiver stops")

    def hang(self) -> bool:
        """Say nothing until the client closes."""
        hang(self.connection)
        return CLOSED

    def drip(self, data: bytes) -> bool:
        """The same data time after time until the client closes."""
        while True:
            self.pause()
            self.send(data)

    def flood(self, data: bytes) -> bool:
        """The same data, as fast as it goes, until the client closes."""
        while True:
            self.send(data)


def hang(connection: socket.socket) -> None:
    """Read, and say nothing, until the client closes."""
    while connection.recv(65536):
        pass


def head(status: int, *headers: str) -> bytes:
    """Status line and headers."""
    phrases = {item.value: item.phrase for item in http.HTTPStatus}
    lines = [f"HTTP/1.1 {status} {phrases.get(status, 'Unknown')}", *headers]
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode("latin-1")
