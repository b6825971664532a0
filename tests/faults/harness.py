"""How the tests put the transport under fire: limits, attempts, an eye on the sockets it opens."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from typing import Any, TypeAlias

from receiver import THREAD_NAME

from cubehook.outcome import Failure, Reply
from cubehook.transport import WebhookAdapter

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

AdapterFor: TypeAlias = Callable[..., WebhookAdapter]


class Watched:
    """Every socket that the package has opened. Held here, so no collector closes one of them."""

    def __init__(self) -> None:
        self.opened: list[socket.socket] = []

    @property
    def still_open(self) -> list[socket.socket]:
        """Those whose file descriptor is in use."""
        return [sock for sock in self.opened if sock.fileno() != -1]

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


def attempt(
    adapter: WebhookAdapter, body: bytes = b"{}", within: float = TIMEOUT
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


def reply(adapter: WebhookAdapter, body: bytes = b"{}") -> Reply:
    """The reply there has to be."""
    result, _ = attempt(adapter, body)
    assert isinstance(result, Reply)
    return result
