"""The ends of a process and its forks: who has to be flushed at exit, who starts afresh in a child.

At exit all handlers share the time of one, however many there are. ``multiprocessing`` children end
without running ``atexit`` hooks, so they are told through its own finalizers.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import time
import weakref
from collections.abc import Callable
from typing import Protocol

from cubehook import threads
from cubehook.notices import notice

logger = logging.getLogger(__name__)


class Living(Protocol):
    """What has work that must not be lost at exit."""

    flush_timeout: float

    def last_chance(self) -> None:
        """Exit is near: what waits for a retry should be tried now."""

    def flush(self, timeout: float) -> bool:
        """Wait for the work that there is."""

    def busy(self) -> bool:
        """Whether there is work."""

    def stop(self) -> None:
        """Give back what others could do, and say what is left."""


class Renewable(Protocol):
    """What has to start afresh in a forked child."""

    def renew(self) -> None:
        """Forget the parent's threads, locks, connections and events."""


_living: set[Living] = set()
_renewables: weakref.WeakSet[Renewable] = weakref.WeakSet()


class _Process:
    """What is true of this process.

    exit_left: seconds that may still be spent on waiting at exit; None before. finalizer_pid: the
    process that has a finalizer.
    """

    exit_left: float | None = None
    finalizer_pid = 0


def add(living: Living) -> None:
    """To be flushed at exit, until it is removed."""
    _living.add(living)
    _add_finalizer()


def remove(living: Living) -> None:
    """It has nothing left to lose."""
    _living.discard(living)


def renew_after_fork(renewable: Renewable) -> None:
    """To start afresh in a forked child, as long as it lives."""
    _renewables.add(renewable)


def wait(timeout: float, waiting: Callable[[float], bool]) -> bool:
    """Wait for at most ``timeout`` seconds; at exit, within what is left of one budget for all.

    The budget is one of waiting, not a moment: an exit hook that takes its time and logs an event
    in the end still gets it delivered.
    """
    if _Process.exit_left is None:
        return waiting(timeout)
    started = time.monotonic()
    # Where no thread can be started any more, they work one after the other, here: each gets its
    # part, and what it leaves goes to the next.
    part = _Process.exit_left / max(sum(one.busy() for one in list(_living)), 1)
    try:
        return waiting(min(timeout, part))
    finally:
        _Process.exit_left = max(_Process.exit_left - (time.monotonic() - started), 0.0)


def holds_logging_lock() -> bool:
    """Whether this thread holds logging's module lock, as ``dictConfig`` does.

    Whoever waits for a worker then waits in vain: it needs that lock for its own debug lines.
    """
    lock = getattr(logging, "_lock", None)
    is_owned = getattr(lock, "_is_owned", None)
    return bool(is_owned and is_owned())


def _flush_all() -> None:
    """Give everything that lives its last chance, in the time of one."""
    living = list(_living)
    if not living:
        return
    _Process.exit_left = max(one.flush_timeout for one in living)
    for one in living:
        one.last_chance()
    for one in living * 2:  # the second time for those that their part was too short for
        if one.busy():
            wait(one.flush_timeout, one.flush)


def _end_of_child() -> None:
    """What ``atexit`` and ``logging.shutdown`` do in other processes."""
    _flush_all()
    for one in list(_living):
        one.stop()


def _add_finalizer() -> None:
    """In a child of ``multiprocessing``, which ends by ``os._exit``: ask it to call us."""
    process = sys.modules.get("multiprocessing.process")
    if process is None or _Process.finalizer_pid == os.getpid() or process.parent_process() is None:
        return
    from multiprocessing.util import Finalize  # noqa: PLC0415  # imported there already

    _Process.finalizer_pid = os.getpid()
    Finalize(None, _end_of_child, exitpriority=-1)


def _renew_all() -> None:
    _Process.exit_left = None
    _living.clear()
    threads.forget_all()
    for renewable in list(_renewables):
        try:
            renewable.renew()
        except Exception as error:  # the others must be renewed too
            notice(logger, logging.ERROR, "not renewed after a fork (%s)", type(error).__name__)


atexit.register(_flush_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)
