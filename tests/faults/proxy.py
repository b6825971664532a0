"""A small real HTTP proxy on loopback: it forwards, it tunnels, and it fails as it is told."""

from __future__ import annotations

import contextlib
import http.client
import io
import select
import socket
import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.message import Message

from exchange import hang, head
from receiver import HOST, THREAD_NAME

Fault = Callable[["Proxy", socket.socket], None]
"""What is said in place of the answer of a proxy that works."""

_HOP_BY_HOP = ("proxy-authorization", "connection", "proxy-connection")  # RFC 9110 §7.6.1
_PATIENCE = 10.0


@dataclass(frozen=True)
class Asked:
    """A request as the proxy got it. connection: counts those accepted, from 1."""

    method: str
    target: str
    headers: Message = field(repr=False)
    connection: int


class Proxy:
    """A proxy. Names are looked up in ``hosts`` and nowhere else; for others it answers 502.

    fault: what becomes of requests; None: they are granted.
    cut: how many connections are closed as the next bytes come on them from the client.
    """

    def __init__(self, hosts: Mapping[str, str]) -> None:
        self.fault: Fault | None = None
        self.cut = 0
        self.stopped = threading.Event()
        self.unexpected: list[BaseException] = []
        self._hosts = hosts
        self._changed = threading.Condition()
        self._asked: list[Asked] = []
        self._open: set[socket.socket] = set()
        self._onward: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._accepted = 0
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self._run(self._accept_all)

    def url(self, userinfo: str = "", host: str = HOST) -> str:
        """What an endpoint is told."""
        return f"http://{userinfo and userinfo + '@'}{host}:{self.port}"

    @property
    def asked(self) -> list[Asked]:
        """The requests so far; what goes through a tunnel is none."""
        with self._changed:
            return list(self._asked)

    @property
    def accepted(self) -> int:
        """How many connections were accepted so far."""
        with self._changed:
            return self._accepted

    def close_connections(self) -> None:
        """Close every connection, from both sides, and wait until they are."""
        with self._changed:
            for connection in (*self._open, *self._onward):
                _shut(connection)
            assert self._changed.wait_for(lambda: not self._open, _PATIENCE)

    def close(self) -> None:
        """The end of all its threads."""
        self.stopped.set()
        _shut(self._listener)
        self._threads[0].join(_PATIENCE)
        self._listener.close()
        self.close_connections()
        for thread in self._threads:
            thread.join(_PATIENCE)
            assert not thread.is_alive(), "a connection does not end"

    # --- Its threads ---

    def _run(self, target: Callable[..., None], *args: object) -> None:
        name = f"{THREAD_NAME}-proxy-{len(self._threads)}"
        thread = threading.Thread(target=target, args=args, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept_all(self) -> None:
        while not self.stopped.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:  # it was shut
                return
            with self._changed:
                self._accepted += 1
                self._open.add(connection)
            self._run(self._serve, connection, self._accepted)

    def _serve(self, connection: socket.socket, number: int) -> None:
        try:
            with contextlib.closing(connection), connection.makefile("rb") as stream:
                self._converse(connection, stream, number)
        except OSError:
            pass  # one of the three has closed
        except BaseException as error:
            self.unexpected.append(error)
        finally:
            with self._changed:
                self._open.discard(connection)
                self._changed.notify_all()

    def _converse(self, connection: socket.socket, stream: io.BufferedReader, number: int) -> None:
        while first := stream.readline(65537).decode("latin-1"):
            method, target, _ = first.split()
            headers = http.client.parse_headers(stream)
            if self._cuts():
                return
            with self._changed:
                self._asked.append(Asked(method, target, headers, number))
            if method == "CONNECT":
                self._tunnel(connection, target)
                return
            if self.fault is not None:
                stream.read(int(headers["Content-Length"]))
                self.fault(self, connection)
                return
            body = stream.read(int(headers["Content-Length"]))
            connection.sendall(self._forwarded(method, target, headers, body))

    def _cuts(self) -> bool:
        if self.cut == 0:
            return False
        self.cut -= 1
        return True

    def _connected(self, authority: str) -> socket.socket | None:
        name, _, port = authority.rpartition(":")
        if name not in self._hosts:
            return None
        there = socket.socket()
        there.connect((self._hosts[name], int(port)))
        with self._changed:
            self._onward.add(there)
        return there

    def _forwarded(self, method: str, target: str, headers: Message, body: bytes) -> bytes:
        authority, slash, path = target.removeprefix("http://").partition("/")
        kept = {name: value for name, value in headers.items() if name.lower() not in _HOP_BY_HOP}
        there = http.client.HTTPConnection("unused")
        there.sock = self._connected(authority)
        if there.sock is None:
            return head(502, "Content-Length: 0")
        with contextlib.closing(there):
            there.request(method, slash + path, body, kept)
            answer = there.getresponse()
            content = answer.read()
        lines = [f"{name}: {value}" for name, value in answer.getheaders()]
        return head(answer.status, *lines) + content

    def _tunnel(self, connection: socket.socket, authority: str) -> None:
        if self.fault is not None:
            self.fault(self, connection)
            return
        there = self._connected(authority)
        if there is None:
            connection.sendall(head(502, "Content-Length: 0"))
            return
        with there:
            connection.sendall(head(200))
            other = {connection: there, there: connection}
            while True:
                ready, _, _ = select.select(list(other), [], [])
                for side in ready:
                    data = side.recv(65536)
                    if not data or (side is connection and self._cuts()):
                        return
                    other[side].sendall(data)


def answers(status: int, *headers: str) -> Fault:
    """An answer that is none of success."""
    return lambda proxy, connection: connection.sendall(
        head(status, *headers, "Content-Length: 6") + b"body\r\n"
    )


def says(data: bytes) -> Fault:
    """These bytes, and the end of the connection."""
    return lambda proxy, connection: connection.sendall(data)


def hangs(proxy: Proxy, connection: socket.socket) -> None:
    """Nothing, until the client closes."""
    hang(connection)


def drips(first: bytes, drop: bytes, pause: float) -> Fault:
    """First, and then a drop at a time until the client closes."""

    def drip(proxy: Proxy, connection: socket.socket) -> None:
        connection.sendall(first)
        while not proxy.stopped.wait(pause):
            connection.sendall(drop)

    return drip


def _shut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
