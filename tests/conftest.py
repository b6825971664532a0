"""What many tests share: a receiver on loopback, handlers that are closed, a clock to turn."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from loopback import PATIENCE, Clock, Received, Receiver

from cubehook import WebhookHandler

__all__ = ["Clock", "Received", "Receiver"]


@pytest.fixture(autouse=True)
def loggers_stay_enabled() -> Iterator[None]:
    """``dictConfig`` disables the loggers that are there, unless it is told not to: what another
    test listens to is not to hang on that."""
    yield
    for one in logging.root.manager.loggerDict.values():
        if isinstance(one, logging.Logger):
            one.disabled = False


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver that answers 204 and wants every request to be signed."""
    server = Receiver()
    yield server
    server.close()
    assert server.problems == []


@pytest.fixture
def dead_url() -> Iterator[str]:
    """A URL on loopback where every connection is refused."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody else gets the port
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/dead"


@pytest.fixture
def logger() -> logging.Logger:
    """An application's logger, with nothing above it."""
    return logging.Logger("app", logging.DEBUG)


@pytest.fixture
def handler(
    logger: logging.Logger, request: pytest.FixtureRequest
) -> Iterator[Callable[..., WebhookHandler]]:
    """Makes handlers, attaches them to ``logger`` and closes them when the test ends.

    Without endpoints given, the handler's one endpoint is ``receiver``.
    """
    made: list[WebhookHandler] = []

    def make(endpoints: Any = None, **options: Any) -> WebhookHandler:
        if endpoints is None:
            endpoints = [request.getfixturevalue("receiver").endpoint()]
        new = WebhookHandler(endpoints, **{"flush_timeout": 0.3, **options})
        made.append(new)
        logger.addHandler(new)
        return new

    yield make
    for one in made:
        one.close()


@pytest.fixture(params=["requests", "curl"])
def transport(request: pytest.FixtureRequest) -> str:
    """Which transport it is; skips where the extra of one is missing."""
    if request.param == "curl":
        pytest.importorskip("pycurl")
    return str(request.param)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def eventually() -> Callable[..., None]:
    """Waits for what another thread does and announces nowhere; fails the test if it does not."""

    def wait(condition: Callable[[], object], timeout: float = PATIENCE) -> None:
        pause = threading.Event()  # never set: the condition is looked at, not slept for
        ends = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < ends, "it did not happen in time"
            pause.wait(0.002)

    return wait


@pytest.fixture
def root_raises() -> Iterator[None]:
    """A handler on the root logger that raises for every record, as an application's may."""

    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise RuntimeError("an application's handler may be broken")

    root, broken = logging.getLogger(), Broken()
    level = root.level
    root.addHandler(broken)
    root.setLevel(logging.DEBUG)
    yield
    root.setLevel(level)
    root.removeHandler(broken)
