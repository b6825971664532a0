"""Connections that go only where they may, and end when they must: urllib3's, with two guards.

The address guard vets every address that a name resolves to and connects to a vetted one, so that
there is no gap between the check and the use. The deadline is kept by the sockets: each operation
gets the time that is left, so a drip of bytes cannot stretch it.
"""

from __future__ import annotations

import http.client
import math
import queue
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.util.wait import wait_for_read, wait_for_write

from cubehook import forks
from cubehook.addresses import AddressPolicy
from cubehook.errors import CubehookError

MAX_ANSWER_BYTES = 2 * 65_536
"""What is taken in of one answer: 64 KiB for the head, and as much for the body."""


LEAST_SHARE = 1.0
"""Seconds that one of several addresses has at least (if that is not over half of the time): a
receiver may be far away."""


class AddressRefusedError(CubehookError):
    """The address guard does not let the connection be made. ``reason`` is a fixed phrase."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class ConnectTimeoutError(TimeoutError):
    """No connection in the time for connecting."""


class _Deadline:
    """Mixin of sockets: every operation ends at ``deadline`` (monotonic seconds).

    heard: how many bytes came in since that was last set to 0. ended: whether the other side has
    closed, as far as was read.
    """

    deadline: float = math.inf
    heard = 0
    ended = False

    def _note(self, received: int) -> int:
        self.heard += received
        self.ended = not received
        if self.heard > MAX_ANSWER_BYTES:
            raise http.client.HTTPException("the answer is too long")
        return received

    def _left(self) -> float | None:
        if self.deadline == math.inf:
            return None
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


class DeadlineSocket(_Deadline, socket.socket):
    """A plain socket with a deadline. ``sendall`` treats a timeout as a total already."""

    def _arm(self) -> None:
        left = self._left()
        if left is not None:
            self.settimeout(left)

    def recv_into(self, *args: Any, **kw: Any) -> int:
        """As ``socket.recv_into``."""
        self._arm()
        return self._note(super().recv_into(*args, **kw))

    def sendall(self, *args: Any, **kw: Any) -> None:
        """As ``socket.sendall``."""
        self._arm()
        super().sendall(*args, **kw)


class DeadlineTLSSocket(_Deadline, ssl.SSLSocket):
    """A TLS socket with a deadline; its ``sendall`` goes through ``send``.

    Its file descriptor never blocks: what waits does so outside of OpenSSL (see `forks`).
    """

    _stepwise = False  # from the handshake on

    def settimeout(self, value: float | None) -> None:
        """As ``socket.settimeout`` before the handshake; after it the deadline alone counts."""
        super().settimeout(0.0 if self._stepwise else value)

    def do_handshake(self, block: bool = False) -> None:
        """As ``ssl.SSLSocket.do_handshake``, within the time that was set, as a total."""
        timeout = self.gettimeout()
        if timeout is not None:
            self.deadline = time.monotonic() + timeout
        self._stepwise = True
        self.settimeout(0.0)
        self._step(super().do_handshake)

    def recv_into(self, *args: Any, **kw: Any) -> int:
        """As ``ssl.SSLSocket.recv_into``."""
        return self._note(self._step(super().recv_into, *args, **kw))

    def send(self, *args: Any, **kw: Any) -> int:
        """As ``ssl.SSLSocket.send``, with the error of a plain socket when the other side closed.

        That one urllib3 passes over, to read the answer that may have come before the end.
        """
        try:
            return int(self._step(super().send, *args, **kw))
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            raise BrokenPipeError from None

    def _step(self, operation: Callable[..., Any], *args: Any, **kw: Any) -> Any:
        while True:
            left = self._left()
            try:
                with forks.kept_out:
                    return operation(*args, **kw)
            except ssl.SSLWantReadError:
                ready = wait_for_read(self, left)
            except ssl.SSLWantWriteError:
                ready = wait_for_write(self, left)
            if not ready:
                raise TimeoutError

    def _real_close(self) -> None:
        with forks.kept_out:  # it frees what OpenSSL holds
            super()._real_close()  # type: ignore[misc]


class TLSContext(ssl.SSLContext):
    """Makes `DeadlineTLSSocket`s."""

    sslsocket_class = DeadlineTLSSocket

    def _wrap_socket(self, *args: Any, **kw: Any) -> Any:
        with forks.kept_out:
            return super()._wrap_socket(*args, **kw)  # type: ignore[misc]


class FinalResponse(http.client.HTTPResponse):
    """Passes over every interim answer, not over 100 alone (RFC 9110 §15.2)."""

    def _read_status(self) -> Any:
        while True:
            version, status, reason = super()._read_status()  # type: ignore[misc]
            if not 100 < status < 200 or status == http.HTTPStatus.SWITCHING_PROTOCOLS:
                return version, status, reason
            http.client.parse_headers(self.fp)


class _Guarded:
    """Mixin of urllib3 connections: the guard at connect, the deadline on the socket."""

    guard: AddressPolicy
    secure: bool
    response_class: Any = FinalResponse
    deadline: float = math.inf
    wire: DeadlineSocket | DeadlineTLSSocket | None = None

    def arm(self: Any, deadline: float) -> None:
        """Everything up to the end of the next answer has to be over at ``deadline``."""
        self.deadline = deadline
        if self.sock is not None:
            self.sock.deadline = deadline
            self.sock.heard = 0

    def connect(self: Any) -> None:
        """Connect, with TLS where the URL says so."""
        try:
            super().connect()  # type: ignore[misc]
        except ConnectTimeoutError:
            raise
        except TimeoutError:  # in the handshake
            raise ConnectTimeoutError from None
        self.sock.deadline = self.deadline
        self.wire = self.sock  # http.client lets go of ``sock`` when the answer is the last

    @property
    def is_connected(self: Any) -> bool:
        """Whether the connection can be used again: open, and with nothing left to read."""
        # What TLS has decrypted already, a look at the file descriptor does not see.
        unread = self.sock.pending() if isinstance(self.sock, ssl.SSLSocket) else 0
        return not unread and bool(super().is_connected)  # type: ignore[misc]

    def _new_conn(self: Any) -> socket.socket:
        """A connected socket. urllib3 leaves this to subclasses; it wraps TLS around it after."""
        started = time.monotonic()
        ends = min(self.deadline, started + (self.timeout or math.inf))
        found = _resolved(self._dns_host, self.port)
        for *_, target in found:
            refusal = self.guard.refusal(str(target[0]), secure=self.secure)
            # One refused address refuses the name: an attacker's answer mixes both kinds.
            if refusal is not None:
                raise AddressRefusedError(refusal)
        error: OSError = socket.gaierror("no addresses")
        for tried, (family, kind, protocol, _, target) in enumerate(found):
            # One address that hangs shall not take the time of all.
            now = time.monotonic()
            left = ends - now
            share = now + max(left / (len(found) - tried), min(LEAST_SHARE, left / 2))
            try:
                return _connected(family, kind, protocol, target, min(share, ends), ends)
            except OSError as failed:
                error = failed
        raise error


class GuardedHTTPConnection(_Guarded, HTTPConnection):
    """Plain HTTP."""

    secure = False


class GuardedHTTPSConnection(_Guarded, HTTPSConnection):
    """HTTP over TLS."""

    secure = True


class IdleConnections:
    """The idle connections of a pool, the one used last first; without a lock.

    ``queue.LifoQueue``, urllib3's own choice, has one. In a forked child a worker of the parent may
    hold it for ever; and urllib3 empties each pool that is dropped, in whichever thread.
    """

    def __init__(self, maxsize: int = 0) -> None:
        self._most = maxsize
        self._connections: deque[Any] = deque()

    def get(self, block: bool = False, timeout: float | None = None) -> Any:
        """The connection used last. Raises ``queue.Empty``; it never waits."""
        try:
            return self._connections.pop()
        except IndexError:
            raise queue.Empty from None

    def put(self, item: Any, block: bool = False, timeout: float | None = None) -> None:
        """Keep a connection. Raises ``queue.Full``; it never waits."""
        if len(self._connections) >= self._most:
            raise queue.Full
        self._connections.append(item)

    def qsize(self) -> int:
        """How many there are."""
        return len(self._connections)


class _GuardedPool:
    """Mixin of urllib3 pools: hands the guard and each attempt's deadline to the connections."""

    QueueCls: Any = IdleConnections

    def __init__(self, *args: Any, guard: AddressPolicy, **kw: Any) -> None:
        super().__init__(*args, **kw)
        self._guard = guard

    def _new_conn(self) -> Any:
        connection = super()._new_conn()  # type: ignore[misc]
        connection.guard = self._guard
        return connection

    def _make_request(self, conn: Any, *args: Any, **kw: Any) -> Any:
        reused = conn.sock
        conn.arm(kw["timeout"].deadline)
        try:
            return self._exchange(conn, *args, **kw)
        except ConnectionError:
            if reused is None or reused.heard:
                raise
        # A receiver may close an idle connection at the very moment it is used again (RFC 9112
        # §9.3.1). It said nothing to this request, so a fresh connection gets it, in the same time.
        conn.close()
        return self._exchange(conn, *args, **kw)

    def _exchange(self, conn: Any, *args: Any, **kw: Any) -> Any:
        response = super()._make_request(conn, *args, **kw)  # type: ignore[misc]
        if conn.wire is not None and conn.wire.ended:
            # http.client takes the end of the connection for the end of the head (RFC 9112 §8).
            response.close()
            raise ConnectionAbortedError("the head of the answer broke off")
        return response


class GuardedHTTPConnectionPool(_GuardedPool, HTTPConnectionPool):
    """A pool of plain connections to one host."""

    ConnectionCls = GuardedHTTPConnection


class GuardedHTTPSConnectionPool(_GuardedPool, HTTPSConnectionPool):
    """A pool of TLS connections to one host."""

    ConnectionCls = GuardedHTTPSConnection


def _resolved(host: str, port: int) -> list[Any]:
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError:  # a name that no DNS label can spell
        raise socket.gaierror(socket.EAI_NONAME, "not a host name") from None


def _connected(
    family: int, kind: int, protocol: int, target: Any, share: float, ends: float
) -> DeadlineSocket:
    left = share - time.monotonic()
    if left <= 0:
        raise ConnectTimeoutError
    sock = DeadlineSocket(family, kind, protocol)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.settimeout(left)
        sock.connect(target)
        # What follows in connecting, the TLS handshake, has the rest of the time.
        sock.settimeout(max(ends - time.monotonic(), 0.001))
    except TimeoutError:
        sock.close()
        raise ConnectTimeoutError from None
    except BaseException:
        sock.close()
        raise
    return sock
