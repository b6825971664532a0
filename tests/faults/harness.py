"""How the tests put the transport under fire: limits, attempts, an eye on the sockets it opens."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, TypeAlias

import pytest
from receiver import THREAD_NAME

from cubehook.attempt import Transport
from cubehook.outcome import Failure, Reply

DRIP = 0.05
SETTINGS: dict[str, Any] = {
    "allow_private_urls": True,
    "timeout": 5.0,  # that long only if something hangs that should not
    "connect_timeout": 5.0,
    "max_concurrency": 2,
}
TIMEOUT = 0.5
HASTY: dict[str, Any] = {"timeout": TIMEOUT}
"""Settings for what does hang."""
CONNECT_TIMEOUT = 0.25
HASTY_CONNECT: dict[str, Any] = {"connect_timeout": CONNECT_TIMEOUT}
"""Settings for what hangs before there is a connection."""

GRACE = 1.0
"""How much later than its timeout an attempt may be over, in seconds."""
MEBIBYTE = b"x" * 2**20

AdapterFor: TypeAlias = Callable[..., Transport]

# What libcurl says of it in other words, or cannot tell, by the path or in words.
LIBCURL: dict[str, set[str]] = {
    # It takes no head with a line that is no header, or with a NUL; the other passes over both.
    "garbage-header": {"malformed answer"},
    "retry-after/unparsable": {"malformed answer"},
    # It does not show the beginning of a line. Heard or not: it asks again on another connection.
    "close-mid-answer/status": {"connection closed"},
    # Once it cannot send, it does not read what may have come before the connection was closed.
    "refuse-early, of a large body": {"connection reset"},
    # An interim answer to a request for a tunnel is a refusal to it, and one that is too long the
    # end of the connection.
    "tunnel, 103": {"refused by the proxy"},
    "tunnel, long line": {"connection closed"},
    "tunnel, long head": {"connection closed"},
}

only_requests = pytest.mark.parametrize("transport", ["requests"], indirect=True)
"""For what only one of the transports has."""


class Watched:
    """Every socket that the package has opened. Held here, so no collector closes one of them.

    Apart from those for libcurl, which uses a duplicate: they are known by their inodes.
    """

    def __init__(self) -> None:
        self.opened: list[socket.socket | int] = []

    @property
    def still_open(self) -> list[socket.socket | int]:
        """Those whose file descriptor is in use, or the descriptor that libcurl uses."""
        used = {inode: descriptor for descriptor, inode in _descriptors()}
        return [
            used[one] if isinstance(one, int) else one
            for one in self.opened
            if (one in used if isinstance(one, int) else one.fileno() != -1)
        ]

    def subclass(self, base: Any) -> Any:
        """``base``, whose instances are watched."""
        opened = self.opened

        class Socket(base):  # type: ignore[misc]
            # Not in __init__, which SSLContext.wrap_socket passes over.
            def __new__(cls, *args: Any, **kw: Any) -> Any:
                made = super().__new__(cls, *args, **kw)
                opened.append(made)
                return made

        return Socket

    def libcurls(self, base: Any) -> Any:
        """``base``, what is made of which is watched until libcurl closes its duplicate."""
        opened = self.opened

        class Socket(base):  # type: ignore[misc]
            def __init__(self, *args: Any, **kw: Any) -> None:
                super().__init__(*args, **kw)
                opened.append(os.fstat(self.fileno()).st_ino)

        return Socket


def _descriptors() -> list[tuple[int, int]]:
    """This process's, and their inodes."""
    found = []
    for name in os.listdir("/dev/fd"):
        with contextlib.suppress(OSError):  # that of the listing itself
            found.append((int(name), os.fstat(int(name)).st_ino))
    return found


class Tripwire:
    """A server on loopback that nothing may connect to: it counts who does."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self._listener = socket.create_server((host, 0))
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://{host}:{self.port}"

    def accepted(self) -> int:
        """How many connections there were since this was last asked."""
        count = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                self._listener.accept()[0].close()
                count += 1
        return count

    def close(self) -> None:
        """Stop listening."""
        self._listener.close()


def attempt(
    adapter: Transport, body: bytes = b"{}", within: float = TIMEOUT
) -> tuple[Reply | Failure, float]:
    """The result and the seconds it took; it is never late, and has started no thread."""
    before = {*threading.enumerate()}
    started = time.monotonic()
    result = adapter.post({}, body)
    took = time.monotonic() - started
    assert took < within + GRACE
    new = {thread.name for thread in threading.enumerate() if thread not in before}
    assert not [name for name in new if not name.startswith(THREAD_NAME)]
    return result, took


def reply(adapter: Transport, body: bytes = b"{}") -> Reply:
    """The reply there has to be."""
    result, _ = attempt(adapter, body)
    assert isinstance(result, Reply)
    return result
