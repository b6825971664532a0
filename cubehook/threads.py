"""The threads that are cubehook's own, and what is held back of what they log.

What is logged from an own thread is never an event, or a handler would feed itself. And urllib3
logs URLs (its debug lines have the path, a warning on malformed headers the whole URL), which may
hold tokens: such records are held back while the thread works for cubehook.
"""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

OWN: set[int] = set()
"""The idents of the threads that work for cubehook; for looking at only."""


def is_own() -> bool:
    """Whether the calling thread works for cubehook."""
    return threading.get_ident() in OWN


@contextmanager
def own() -> Iterator[None]:
    """The calling thread works for cubehook in this block."""
    ident = threading.get_ident()
    nested = ident in OWN
    OWN.add(ident)
    try:
        yield
    finally:
        if not nested:
            OWN.discard(ident)


def start(name: str, target: Callable[[], None]) -> threading.Thread:
    """Run ``target`` in a new daemon thread.

    Raises RuntimeError where none can be started (Python 3.12+: when the interpreter shuts down).
    """

    def run() -> None:
        with own():
            target()

    thread = threading.Thread(target=run, name=f"cubehook-{name}", daemon=True)
    thread.start()
    return thread


def forget_all() -> None:
    """After a fork: the child has none of the parent's threads."""
    OWN.clear()


class NoLock:
    """In the place of a handler's lock, where there is nothing to guard.

    With a real one, a thread that waits in ``flush`` (``logging.shutdown`` calls it with the lock
    held) would stop every thread that logs.
    """

    def acquire(self) -> None:
        """Nothing."""

    def release(self) -> None:
        """Nothing."""

    def __enter__(self) -> None:
        """Nothing."""

    def __exit__(self, *_: object) -> None:
        """Nothing."""

    def _at_fork_reinit(self) -> None:
        """Nothing; logging calls it in a forked child."""


class _NamesNoUrl(logging.Filter):
    """Lets nothing through that urllib3 logs in an own thread."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not is_own()


def _warn_if_patched() -> None:
    """Green threads in the place of threads: what waits for a socket would stop everything."""
    gevent = sys.modules.get("gevent.monkey")
    if gevent is not None and gevent.is_module_patched("threading"):
        warnings.warn(
            "cubehook works with real threads; gevent's monkey-patching is not supported",
            RuntimeWarning,
            stacklevel=2,
        )


def _silence() -> None:
    held_back = _NamesNoUrl()
    for module in ("connection", "connectionpool", "poolmanager", "response", "util.retry"):
        logging.getLogger(f"urllib3.{module}").addFilter(held_back)


_silence()
_warn_if_patched()
