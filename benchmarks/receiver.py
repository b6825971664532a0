"""Who gets the events of a measurement: a small server in a process of its own.

It notes when each event arrives, on the monotonic clock, which all processes of a machine share.
An event is known by ``event-NUMBER`` somewhere in the body.
"""

from __future__ import annotations

import json
import re
import selectors
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from typing import NamedTuple

from benchmarks.peers import HOST, environment, plain

EVENT = "event-{}"

_EVENT = re.compile(rb"event-(\d+)")
_LENGTH = re.compile(rb"^content-length: *(\d+)", re.IGNORECASE | re.MULTILINE)
_END_OF_HEAD = b"\r\n\r\n"
_PATIENCE = 30.0  # seconds, for what takes milliseconds


class Receiver:
    """The server, seen from outside. status: what it answers; 204 has no body, others ``{}``."""

    def __init__(self, status: int = 204) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.receiver", str(status)],
            stdout=subprocess.PIPE,
            env=environment(tempfile.gettempdir()),
        )
        assert self._process.stdout is not None
        with self._process.stdout as stdout:
            self.port = int(stdout.readline())

    def __enter__(self) -> Receiver:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.kill()
        self._process.wait()


def arrivals(port: int) -> dict[int, float]:
    """When each event arrived at the receiver there, in monotonic seconds, by its number."""
    return {int(number): when for number, when in json.loads(_ask(port, "arrivals")).items()}


def wait(port: int, count: int, timeout: float) -> bool:
    """Wait until so many events have arrived there. Returns whether they have."""
    ends = time.monotonic() + timeout
    while int(_ask(port, "count")) < count:
        if time.monotonic() > ends:
            return False
        time.sleep(0.01)
    return True


def _ask(port: int, what: str) -> bytes:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(f"http://{HOST}:{port}/{what}", timeout=_PATIENCE) as answer:
        body: bytes = answer.read()
    return body


class _Request(NamedTuple):
    head: bytes
    body: bytes


class _Server:
    """One thread, many connections."""

    def __init__(self, status: int) -> None:
        self._answer = b"HTTP/1.1 204 No Content\r\n\r\n" if status == 204 else _json(b"{}", status)
        self._arrivals: dict[int, float] = {}
        self._selector = selectors.DefaultSelector()
        self._listening = socket.create_server((HOST, 0), backlog=128)
        self._selector.register(self._listening, selectors.EVENT_READ)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._listening.getsockname()[1])

    def serve(self) -> None:
        """Answer, for ever."""
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._listening:
                    connection, _ = self._listening.accept()
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    self._selector.register(connection, selectors.EVENT_READ, bytearray())
                else:
                    self._read(key)

    def _read(self, key: selectors.SelectorKey) -> None:
        connection, buffer = key.fileobj, key.data
        assert isinstance(connection, socket.socket)
        try:
            received = connection.recv(262_144)
            now = time.monotonic()
            buffer += received
            while (request := _cut(buffer)) is not None:
                self._take(connection, request, now)
        except OSError:
            received = b""
        if not received:
            self._selector.unregister(connection)
            connection.close()

    def _take(self, connection: socket.socket, request: _Request, now: float) -> None:
        if request.head.startswith(b"GET /arrivals "):
            connection.sendall(_json(json.dumps(self._arrivals).encode()))
        elif request.head.startswith(b"GET /count "):
            connection.sendall(_json(b"%d" % len(self._arrivals)))
        else:
            connection.sendall(self._answer)
            for number in _EVENT.findall(plain(request.body)):
                self._arrivals.setdefault(int(number), now)


def _cut(buffer: bytearray) -> _Request | None:
    """Take the first request out of what was read; None while it is not complete."""
    end = buffer.find(_END_OF_HEAD)
    if end < 0:
        return None
    head = bytes(buffer[:end])
    length = _LENGTH.search(head)
    start = end + len(_END_OF_HEAD)
    end = start + (int(length[1]) if length else 0)
    if len(buffer) < end:
        return None
    body = bytes(buffer[start:end])
    del buffer[:end]
    return _Request(head, body)


def _json(body: bytes, status: int = 200) -> bytes:
    return b"HTTP/1.1 %d OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
        status,
        len(body),
        body,
    )


def main() -> None:
    """Serve; the port is printed first."""
    server = _Server(int(sys.argv[1]))
    print(server.port, flush=True)
    server.serve()


if __name__ == "__main__":
    main()
