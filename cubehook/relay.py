"""From the outbox to the dispatcher and back: what is due is leased, what came of it is written.

One thread of its own, which holds no lock while it talks to the database. Several relays, in this
process or on other machines, may work from one outbox.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping
from itertools import groupby
from typing import NamedTuple

from cubehook import threads
from cubehook.dispatcher import Dispatcher
from cubehook.errors import CubehookError
from cubehook.lane import Delivery
from cubehook.notices import SeldomWarning, notice
from cubehook.outbox import Lease, Outbox, OutboxUnavailableError, Result
from cubehook.outcome import Outcome, RetryAt
from cubehook.retry import WebhookRetry

logger = logging.getLogger(__name__)

LEASE_SECONDS = 30.0
"""How long a worker that has died keeps others from what it had leased."""

POLL_SECONDS = 0.5
"""How soon what other processes have stored is noticed."""

CONTENDED_SECONDS = 0.05
"""The pause when something is due, and another worker is about to take it."""

RETRY_SECONDS = 1.0
"""The pause after the database could not be used."""

BROKEN_SECONDS = 10.0
"""The pause after what does not pass by itself: a damaged file, or newer tables."""

MOST_RESULTS = 500
"""In one transaction."""


class _Lent(NamedTuple):
    """What a lane has."""

    lease: Lease
    delivery: Delivery


class Relay:
    """Keeps the lanes of a dispatcher supplied from an outbox, until it is stopped.

    lease_seconds: None: `LEASE_SECONDS`. clock: the outbox's, seconds since the Unix epoch. How
    long a lease holds is measured by the dispatcher's instead, which does not jump.
    """

    def __init__(
        self,
        outbox: Outbox,
        dispatcher: Dispatcher,
        lease_seconds: float | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._outbox = outbox
        self._dispatcher = dispatcher
        self._lease_seconds = LEASE_SECONDS if lease_seconds is None else lease_seconds
        self._poll_seconds = min(
            POLL_SECONDS, self._lease_seconds / 4
        )  # it is also when leases are kept
        self._clock = clock
        self._owner = f"{socket.gethostname()[:64]}:{os.getpid()}:{secrets.token_hex(4)}"
        self._policies: Mapping[str, WebhookRetry] = {}
        # By id and token: one that was lost may be leased again while its attempt is under way.
        self._lent: dict[tuple[int, bytes], _Lent] = {}
        self._results: list[Result] = []  # not yet written
        self._released: list[Lease] = []  # not yet given back
        self._woken = threading.Event()
        self._stopping = threading.Event()
        self._ends = 0.0  # of the time that attempts under way have in the end
        self._thread: threading.Thread | None = None
        self._warn = SeldomWarning(logger)
        self.lost = 0

    def configure(self, policies: Mapping[str, WebhookRetry]) -> None:
        """The endpoints to deliver to from now on, each with its policy."""
        self._policies = policies
        self.wake()

    def wake(self) -> None:
        """There is something to lease, or to write back."""
        self._woken.set()

    def start(self) -> None:
        """Start the thread, unless it was started or stopped before.

        Raises RuntimeError where none can be started any more.
        """
        if self._thread is None and not self._stopping.is_set():
            self._thread = threads.start("relay", self._run)

    def stop(self, timeout: float) -> None:
        """Lease no more, give back what no attempt was made of, and write what attempts under way
        bring within ``timeout`` seconds. What is left is leased out to others later."""
        self._ends = time.monotonic() + timeout
        self._stopping.set()
        self.wake()
        # In its thread alone: two that write back at once would mix up what is written.
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout + RETRY_SECONDS)

    @property
    def idle(self) -> bool:
        """Whether nothing that is leased is unfinished, and nothing unwritten."""
        return not (self._lent or self._results or self._released)

    # In its thread.

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._woken.clear()
            pause = self._try(self._round)
            if pause > 0:
                self._woken.wait(pause)
        self._dispatcher.give_back()
        self._try(self._write_back)  # others need not wait for what is under way here
        while self._lent and (left := self._ends - time.monotonic()) > 0:
            self._woken.clear()
            self._take_back()
            if self._lent:
                self._woken.wait(left)
        self._try(self._write_back)

    def _try(self, work: Callable[[], float]) -> float:
        """Seconds to the next round. Nothing is raised: the thread must live."""
        try:
            return work()
        except OutboxUnavailableError as error:  # it passes
            self._warn("deliveries wait: %s", error)
            pause = RETRY_SECONDS
        except CubehookError as error:
            self._warn("deliveries wait: %s", error)
            pause = BROKEN_SECONDS
        except Exception as error:  # none is known
            self._warn("deliveries wait (%s)", type(error).__name__)
            pause = BROKEN_SECONDS
        # Not for what wakes it: each result that comes back would be one more try.
        self._stopping.wait(pause)
        return 0.0

    def _round(self) -> float:
        self._write_back()
        self._extend()
        hungry = self._hungry()
        moments = self._outbox.wanted(hungry) if hungry else {}
        now = self._clock()
        due = {name: hungry[name] for name, moment in moments.items() if moment <= now}
        if due:
            return 0.0 if self._lease(due) else CONTENDED_SECONDS
        return min(min(moments.values(), default=math.inf) - now, self._poll_seconds)

    def _hungry(self) -> dict[str, int]:
        """How many more deliveries each lane can take that can take any."""
        appetites = self._dispatcher.appetites()
        return {name: appetites[name] for name in self._policies if appetites.get(name)}

    def _lease(self, appetites: Mapping[str, int]) -> bool:
        """Lease what the lanes can take; whether there was anything."""
        found = False
        by_appetite = sorted(appetites, key=lambda name: appetites[name])
        for appetite, names in groupby(by_appetite, key=lambda name: appetites[name]):
            until = self._dispatcher.clock() + self._lease_seconds
            leased = self._outbox.lease(list(names), appetite, self._lease_seconds, self._owner)
            self._lend(leased, until)  # at once: the next lease may fail
            found = found or bool(leased)
        return found

    def _lend(self, leased: list[Lease], until: float) -> None:
        if self._stopping.is_set():  # while the database took its time
            self._released += leased
            return
        lent = [_Lent(lease, self._delivery(lease, until)) for lease in leased]
        self._lent |= {_key(one.lease): one for one in lent}
        self._dispatcher.lend((one.lease.endpoint, one.delivery) for one in lent)

    def _delivery(self, lease: Lease, until: float) -> Delivery:
        policy = self._policies.get(lease.endpoint, WebhookRetry())
        delivery = Delivery(lease.message, policy.resumed(lease.attempts))
        delivery.lease = lease
        delivery.until = until
        return delivery

    def _take_back(self) -> None:
        """Take in what came back from the lanes."""
        for lease, outcome in self._dispatcher.returned():
            assert isinstance(lease, Lease)
            self._lent.pop(_key(lease), None)
            if outcome is None:
                self._released.append(lease)
            else:
                self._results.append(Result(lease, self._on_wall_clock(outcome), self._clock()))

    def _write_back(self) -> float:
        self._take_back()
        while self._results:
            lost = self._outbox.settle(self._results[:MOST_RESULTS])
            del self._results[:MOST_RESULTS]
            if lost:
                self.lost += lost
                notice(logger, logging.WARNING, "%d results came after their lease was lost", lost)
        while self._released:
            self._outbox.release(self._released[:MOST_RESULTS])
            del self._released[:MOST_RESULTS]
        return 0.0

    def _extend(self) -> None:
        """Keep what lanes still have. What is lost is not attempted any more; an attempt under
        way goes on, and its result is discarded."""
        now, half = self._dispatcher.clock(), self._lease_seconds / 2
        soon = self._clock() + half  # asked, too: it may have been set forward
        ending = [
            one
            for one in self._lent.values()
            if one.delivery.until and (one.delivery.until < now + half or one.lease.expires < soon)
        ]
        if not ending:
            return
        extended = self._outbox.extend([one.lease for one in ending], self._lease_seconds)
        kept = {_key(lease): lease for lease in extended}
        for lease, delivery in ending:
            key = _key(lease)
            if key in kept:
                delivery.until = now + self._lease_seconds
                self._lent[key] = _Lent(kept[key], delivery)
            else:
                delivery.until = 0.0

    def _on_wall_clock(self, outcome: Outcome) -> Outcome:
        """The outbox's clock is that of all machines, the dispatcher's is its own."""
        if not isinstance(outcome, RetryAt):
            return outcome
        ahead = self._clock() - self._dispatcher.clock()
        return dataclasses.replace(outcome, when=outcome.when + ahead, floor=outcome.floor + ahead)


def _key(lease: Lease) -> tuple[int, bytes]:
    return lease.id, lease.token
