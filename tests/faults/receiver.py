"""A receiver of webhooks that misbehaves, on real loopback sockets: `FaultReceiver`.

Most faults are a path on its servers ``http`` and ``https`` (see `behaviours`); those that happen
before there is a path are servers of their own (`SERVER_FAULTS`). `FaultReceiver.url` knows which.

    with FaultReceiver(drip=0.05) as receiver:
        adapter = WebhookAdapter(Endpoint(url=receiver.url("drip-header"), …))
        …
        receiver.wait(1)
"""

from __future__ import annotations

import contextlib
import http.client
import io
import selectors
import socket
import ssl
import threading
import time

from behaviours import BEHAVIOURS, UNREAD
from certificates import EXPIRED, GOOD, WRONG_NAME, Certificates
from exchange import KEPT, Exchange, Request, hang

HOST = "127.0.0.1"
PLAIN, TLS, OTHER, MUTUAL = "http", "https", "other", "mutual"
REFUSE, NEVER_ACCEPT = "refuse", "never-accept"
SLOW_TLS, DRIP_TLS = "slow-tls", "drip-tls"

SERVER_FAULTS = (REFUSE, NEVER_ACCEPT, SLOW_TLS, DRIP_TLS, WRONG_NAME, EXPIRED)
"""refuse: nobody listens. never-accept: the queue of connections is full. slow-tls: the handshake
gets no answer. drip-tls: its answer drips. wrong-name, expired: what the certificate is."""

# mutual: wants a certificate from the client, by the same authority.
_CERTIFICATE_OF = {TLS: GOOD, MUTUAL: GOOD, WRONG_NAME: WRONG_NAME, EXPIRED: EXPIRED}
_WITH_TLS = (*_CERTIFICATE_OF, SLOW_TLS, DRIP_TLS)
THREAD_NAME = "fault-receiver"
_PATIENCE = 10.0  # for what takes milliseconds, in seconds


class FaultReceiver:
    """Servers on ports of their own, which they keep when stopped and started again.

    certificates: without them there is no server with TLS, apart from the two whose
        handshake fails.
    drip: seconds between the bytes that drip. patience: how long a connection hangs at most.
    unexpected: the errors that no fault explains; a test looks that there are none.
    """

    def __init__(
        self, certificates: Certificates | None = None, *, drip: float = 1.0, patience: float = 60.0
    ) -> None:
        self.drip = drip
        self.patience = patience
        self.stopped = threading.Event()
        self.unexpected: list[BaseException] = []
        self._changed = threading.Condition()
        self._requests: list[Request] = []
        self._accepted = 0
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        names = [PLAIN, OTHER, REFUSE, NEVER_ACCEPT, SLOW_TLS, DRIP_TLS]
        contexts: dict[str, ssl.SSLContext] = {}
        if certificates is not None:
            names += _CERTIFICATE_OF
            contexts = {
                server: certificates.server_context(certificate, mutual=server == MUTUAL)
                for server, certificate in _CERTIFICATE_OF.items()
            }
        self._ports = {name: _Port(name, contexts.get(name)) for name in names}
        self._acceptor: threading.Thread | None = None
        self._wake: socket.socket | None = None

    # --- What it is asked ---

    def url(self, path: str, *, tls: bool = False, host: str = HOST) -> str:
        """The URL of a behaviour, such as ``retry-after/date``, or a server, such as ``expired``.

        A server's name may stand before the path: ``other/ok``.
        """
        first, _, rest = path.partition("/")
        if first not in self._ports:
            first, rest = (TLS if tls else PLAIN), path
        scheme = "https" if first in _WITH_TLS else "http"
        return f"{scheme}://{host}:{self._ports[first].number}/{rest or 'ok'}"

    def port(self, server: str = PLAIN) -> int:
        """The port of one of its servers."""
        return self._ports[server].number

    @property
    def requests(self) -> list[Request]:
        """The requests so far, in the order they came."""
        with self._changed:
            return list(self._requests)

    @property
    def accepted(self) -> int:
        """How many connections were accepted so far."""
        with self._changed:
            return self._accepted

    def count(self, path: str) -> int:
        """How many requests for that path came so far."""
        return sum(request.path == path for request in self.requests)

    def wait(self, count: int, timeout: float = _PATIENCE) -> list[Request]:
        """The requests, once there are so many; ``TimeoutError`` if they do not come in time."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._requests) >= count, timeout):
                raise TimeoutError(f"{len(self._requests)} requests, not {count}")
            return list(self._requests)

    def wait_closed(self, timeout: float = _PATIENCE) -> None:
        """Wait until no connection is open; ``TimeoutError`` if one stays."""
        with self._changed:
            if not self._changed.wait_for(lambda: not self._open, timeout):
                raise TimeoutError(f"{len(self._open)} connections are open")

    # --- Its life ---

    def start(self) -> None:
        """Listen."""
        self.stopped.clear()
        self._wake, woken = socket.socketpair()
        for port in self._ports.values():
            port.open()
        self._acceptor = threading.Thread(
            target=self._accept_all, args=(woken,), name=THREAD_NAME, daemon=True
        )
        self._acceptor.start()

    def stop(self) -> None:
        """Close every connection, refuse new ones and end every thread. Requests are kept."""
        if self._acceptor is None or self._wake is None:
            return
        self.stopped.set()
        self._wake.close()
        self._acceptor.join()
        self._acceptor = None
        for port in self._ports.values():
            port.close()
        with self._changed:
            connections = list(self._open)
        for connection in connections:
            # Wakes who is blocked in it. Not SSLSocket's shutdown, which pulls the session away.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(_PATIENCE)
            assert not thread.is_alive(), "a connection does not end"

    def close(self) -> None:
        """Stop, and give up the ports."""
        self.stop()
        for port in self._ports.values():
            port.release()

    def __enter__(self) -> FaultReceiver:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # --- Its threads ---

    def _accept_all(self, woken: socket.socket) -> None:
        with woken, selectors.DefaultSelector() as selector:
            selector.register(woken, selectors.EVENT_READ)
            for port in self._ports.values():
                if port.accepts:
                    selector.register(port.listener, selectors.EVENT_READ, port)
            while not self.stopped.is_set():
                for key, _ in selector.select():
                    if key.data is not None:
                        self._accept(key.data)

    def _accept(self, port: _Port) -> None:
        try:
            connection = port.accept()
        except OSError:  # closed again before it was accepted
            return
        with self._changed:
            self._accepted += 1
            self._open.add(connection)
        thread = threading.Thread(
            target=self._serve,
            args=(port.name, connection, self._accepted),
            name=f"{THREAD_NAME}-{self._accepted}",
            daemon=True,
        )
        self._threads = [*filter(threading.Thread.is_alive, self._threads), thread]
        thread.start()

    def _serve(self, server: str, connection: socket.socket, number: int) -> None:
        try:
            with contextlib.closing(connection):
                if isinstance(connection, ssl.SSLSocket):
                    connection.do_handshake()
                if server == SLOW_TLS:
                    hang(connection)
                elif server == DRIP_TLS:
                    self._drip_handshake(connection)
                else:
                    self._converse(server, connection, number)
        except OSError:
            pass  # the client closed, or the receiver stops
        except BaseException as error:
            self.unexpected.append(error)
        finally:
            with self._changed:
                self._open.discard(connection)
                self._changed.notify_all()

    def _drip_handshake(self, connection: socket.socket) -> None:
        connection.sendall(b"\x16\x03\x03\x40\x00")  # a handshake record of 16 KiB begins
        while not self.stopped.wait(self.drip):
            connection.sendall(b"\x00")

    def _converse(self, server: str, connection: socket.socket, number: int) -> None:
        with connection.makefile("rb") as stream:
            kept = KEPT
            while kept:
                request = _read(stream, server, number)
                if request is None:
                    return
                with self._changed:
                    self._requests.append(request)
                    self._changed.notify_all()
                name, _, argument = request.path.partition("/")
                kept = BEHAVIOURS[name](Exchange(request, argument, connection, self))


class _Port:
    """A port that is ours for as long as we want it, whether anybody listens or not."""

    listener: socket.socket

    def __init__(self, name: str, context: ssl.SSLContext | None) -> None:
        self.name = name
        self._context = context
        # Bound and never listening: connections are refused and nobody else gets the port. Only
        # sockets with SO_REUSEADDR may share it; it is set after the bind, so that the kernel
        # does not choose a port that another receiver holds in the same way.
        self._hold = socket.socket()
        self._hold.bind((HOST, 0))
        self._hold.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.number: int = self._hold.getsockname()[1]
        self._fillers: list[socket.socket] = []

    @property
    def accepts(self) -> bool:
        return self.name not in (REFUSE, NEVER_ACCEPT)

    def open(self) -> None:
        if self.name == REFUSE:
            return
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind((HOST, self.number))
        self.listener.listen(128 if self.accepts else 0)
        self.listener.setblocking(False)
        if self.name == NEVER_ACCEPT:
            self._fill()

    def accept(self) -> socket.socket:
        connection, _ = self.listener.accept()
        connection.settimeout(None)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._context is None:
            return connection
        try:
            return self._context.wrap_socket(
                connection, server_side=True, do_handshake_on_connect=False
            )
        except ValueError as error:  # it sent something and is gone again
            connection.close()
            raise OSError from error

    def close(self) -> None:
        if self.name != REFUSE:
            self.listener.close()
        while self._fillers:
            self._fillers.pop().close()

    def release(self) -> None:
        self._hold.close()

    def _fill(self) -> None:
        # A queue for none holds one or two; what comes after them is not answered.
        for _ in range(3):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex((HOST, self.number))
            self._fillers.append(filler)


def _read(stream: io.BufferedReader, server: str, number: int) -> Request | None:
    """The next request; None when the client closed the connection in place of one."""
    first = stream.readline(65537).decode("latin-1")
    if not first:
        return None
    method, target, _ = first.split()
    headers = http.client.parse_headers(stream)
    path = target.partition("?")[0].removeprefix("/")
    body = b""
    if path.partition("/")[0] not in UNREAD:
        length = int(headers["Content-Length"])
        body = stream.read(length)
        if len(body) < length:
            raise ConnectionError("the request broke off")
    return Request(server, method, path, headers, body, time.monotonic(), number)
