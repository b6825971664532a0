"""Sockets with a deadline, plain and TLS: each operation gets the time that is left.

So a drip of bytes cannot stretch it, and what is taken in of one answer is bounded.
"""

from __future__ import annotations

import http.client
import math
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from urllib3.util.wait import wait_for_read, wait_for_write

from cubehook import forks

MAX_ANSWER_BYTES = 2 * 65_536
"""What is taken in of one answer: 64 KiB for the head, and as much for the body."""


SLACK, MOST_SLACK = 0.02, 0.05
"""How far off the deadline an operation may end: a part of the time left, and seconds."""


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

    def settimeout(self, value: float | None) -> None:
        """As ``socket.settimeout`` while there is no deadline; else that alone counts."""
        if self.deadline == math.inf:
            super().settimeout(value)

    def _arm(self) -> None:
        left = self._left()
        if left is None:
            return
        armed = self.gettimeout()
        # To set it is a call of the kernel, which a few milliseconds are not worth.
        if armed is None or abs(armed - left) > min(left * SLACK, MOST_SLACK):
            super().settimeout(left)

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
    """Makes `DeadlineTLSSocket`s. ``files``: the contents of those it was made from."""

    sslsocket_class = DeadlineTLSSocket
    files: Mapping[str, bytes] = MappingProxyType({})

    def _wrap_socket(self, *args: Any, **kw: Any) -> Any:
        with forks.kept_out:
            return super()._wrap_socket(*args, **kw)  # type: ignore[misc]
