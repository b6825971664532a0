"""Connections that go only where they may, and end when they must: urllib3's, with two guards.

The address guard vets every address that a name resolves to and connects to a vetted one, so that
there is no gap between the check and the use. The deadline is kept by the `sockets`.
"""

from __future__ import annotations

import errno
import functools
import http.client
import math
import queue
import socket
import ssl
import time
from collections import deque
from typing import Any

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ProtocolError, SSLError

from cubehook.addresses import AddressPolicy
from cubehook.errors import CubehookError
from cubehook.exchange import Answer, written
from cubehook.sockets import DeadlineSocket

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


class TunnelRefusedError(OSError):
    """The proxy would not, or could not, connect to the receiver."""


class FinalResponse(http.client.HTTPResponse):
    """A proxy's, before the exchange. It passes over every interim answer, not over 100 alone (RFC
    9110 §15.2)."""

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

    def _tunnel(self: Any) -> None:
        self.sock.deadline = self.deadline
        try:
            super()._tunnel()  # type: ignore[misc]
        except OSError as error:
            # http.client's own, whose text is what the proxy answered; those of the system are
            # subclasses or have a number.
            if type(error) is OSError and error.errno is None:
                raise TunnelRefusedError from None
            raise
        # The TLS handshake has what the proxy left of the time.
        self.sock.deadline = math.inf  # the handshake takes its time from what is set
        self.sock.settimeout(max(self.deadline - time.monotonic(), 0.001))

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
        found = resolved(self._dns_host, self.port)
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
    """Mixin of urllib3 pools: hands the guard and each attempt's deadline to the connections.

    fixed: lines of the head that are the same in each request. forwards_to: the header ``Host``
    where a proxy is given the whole URL (RFC 9110 §7.2); None: the pool's own.
    """

    QueueCls: Any = IdleConnections

    def __init__(
        self,
        *args: Any,
        guard: AddressPolicy,
        fixed: str = "",
        forwards_to: str | None = None,
        **kw: Any,
    ) -> None:
        super().__init__(*args, **kw)
        self._guard = guard
        self._fixed = f"Host: {forwards_to or self._own_host()}\n{fixed}"

    def _new_conn(self) -> Any:
        connection = super()._new_conn()  # type: ignore[misc]
        connection.guard = self._guard
        return connection

    def urlopen(
        self: Any,
        method: str,
        url: str,
        body: Any = None,
        headers: Any = None,
        *,
        timeout: Any,
        **inherited: Any,
    ) -> Answer:
        """One exchange: in the place of urllib3's, which does much that a webhook never needs
        (retries, redirects, wrapped errors), and through ``http.client`` costs four times as much.

        ``timeout`` has the ``deadline`` and says what is left for connecting; errors come as they
        are.
        """
        start = f"{method} {url} HTTP/1.1\n{self._fixed}"
        request = written(start, self._all_headers(headers), body)
        conn = self._get_conn()
        try:
            return self._attempt(conn, timeout, request)  # type: ignore[no-any-return]
        except BaseException as error:
            conn.close()
            if isinstance(error, ssl.SSLError):
                raise SSLError(error) from error  # as requests knows it
            if isinstance(error, http.client.HTTPException):
                raise ProtocolError(error) from error
            raise

    def connected(self: Any, timeout: Any) -> Any:
        """A connection that is open, for no request; who asks for it closes it."""
        conn = self._get_conn()
        try:
            self._connect(conn, timeout)
        except BaseException:
            conn.close()
            raise
        return conn

    def _own_host(self: Any) -> str:
        host = f"[{self.host.partition('%')[0]}]" if ":" in self.host else self.host
        standard = self.port in (None, self.ConnectionCls.default_port)
        return host if standard else f"{host}:{self.port}"

    def _all_headers(self: Any, headers: Any) -> Any:
        # A tunnel gets those for the proxy when it is made.
        return headers if self.scheme == "https" else {**headers, **self.proxy_headers}

    def _attempt(self: Any, conn: Any, timeout: Any, request: bytes) -> Answer:
        # Not every connection that is open was used: a tunnel is made before the request.
        reused = conn.sock if conn.sock is not None and conn.sock.heard else None
        try:
            return self._exchange(conn, timeout, request)  # type: ignore[no-any-return]
        except ConnectionError:
            if reused is None or reused.heard:
                raise
        # A receiver may close an idle connection at the very moment it is used again (RFC 9112
        # §9.3.1). It said nothing to this request, so a fresh connection gets it, in the same time.
        conn.close()
        return self._exchange(conn, timeout, request)  # type: ignore[no-any-return]

    def _exchange(self: Any, conn: Any, timeout: Any, request: bytes) -> Answer:
        if conn.is_closed:
            self._connect(conn, timeout)
        conn.arm(timeout.deadline)
        try:
            conn.sock.sendall(request)
        except BrokenPipeError:
            pass  # it may have answered before it closed
        except OSError as error:
            if error.errno not in (errno.ECONNRESET, errno.EPROTOTYPE):
                raise
        return Answer(conn.sock, functools.partial(self._let_go, conn))

    def _connect(self: Any, conn: Any, timeout: Any) -> None:
        conn.timeout = timeout.connect_left()
        conn.arm(time.monotonic() + conn.timeout)
        if self.proxy is not None:
            self._prepare_proxy(conn)
        if conn.is_closed:
            conn.connect()

    def _let_go(self: Any, conn: Any, reusable: bool) -> None:
        if not reusable:
            conn.close()
        self._put_conn(conn)


class GuardedHTTPConnectionPool(_GuardedPool, HTTPConnectionPool):  # type: ignore[misc]
    """A pool of plain connections to one host."""

    ConnectionCls = GuardedHTTPConnection


class GuardedHTTPSConnectionPool(_GuardedPool, HTTPSConnectionPool):  # type: ignore[misc]
    """A pool of TLS connections to one host."""

    ConnectionCls = GuardedHTTPSConnection


def resolved(host: str, port: int) -> list[Any]:
    """What ``getaddrinfo`` answers. Raises ``socket.gaierror``."""
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
