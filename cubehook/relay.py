"""From the outbox to the dispatcher and back: what is due is leased, what came of it is written.

One thread of its own, which holds no lock while it talks to the database. Several relays, in this
process or on other machines, may work from one outbox.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Mapping
from itertools import groupby

from cubehook import threads
from cubehook.dispatcher import Dispatcher
from cubehook.errors import CubehookError
from cubehook.lane import Delivery
from cubehook.notices import notice
from cubehook.outbox import Lease, Outbox, OutboxUnavailableError, Result
from cubehook.outcome import Outcome, RetryAt
from cubehook.retry import WebhookRetry

logger = logging.getLogger(__name__)

LEASE_SECONDS = 30.0
"""How long a worker that has died keeps others from what it had leased."""

POLL_SECONDS = 0.5
"""How soon what other processes have stored is noticed."""

RETRY_SECONDS = 1.0
"""The pause after the database could not be used."""

WARNING_INTERVAL = 30.0
MOST_RESULTS = 500
"""In one transaction."""


class Relay:
    """Keeps the lanes of a dispatcher supplied from an outbox, until it is stopped."""

    def __init__(
        self, outbox: Outbox, dispatcher: Dispatcher, lease_seconds: float = LEASE_SECONDS
    ) -> None:
        self._outbox = outbox
        self._dispatcher = dispatcher
        self._lease_seconds = lease_seconds
        self._owner = f"{socket.gethostname()[:64]}:{os.getpid()}:{secrets.token_hex(4)}"
        self._policies: Mapping[str, WebhookRetry] = {}
        self._leases: dict[int, Lease] = {}  # of what the lanes have
        self._results: list[Result] = []  # not yet written
        self._released: list[Lease] = []  # not yet given back
        self._woken = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._warned_at = -WARNING_INTERVAL
        self.lost = 0

    def configure(self, policies: Mapping[str, WebhookRetry]) -> None:
        """The endpoints to deliver to from now on, each with its policy."""
        self._policies = policies
        self.wake()

    def wake(self) -> None:
        """There is something to lease, or to write back."""
        self._woken.set()

    def start(self) -> None:
        """Start the thread. Raises RuntimeError where none can be started any more."""
        if self._thread is None:
            self._thread = threads.start("relay", self._run)

    def stop(self, timeout: float) -> None:
        """Lease no more, give back what no attempt was made of, and write what attempts under way
        bring within ``timeout`` seconds. What is left is leased out to others later."""
        self._stopping.set()
        self.wake()
        if self._thread is not None:
            self._thread.join(timeout)
        self._dispatcher.give_back()
        ends = time.monotonic() + timeout
        while self._dispatcher.pending and (left := ends - time.monotonic()) > 0:
            self._dispatcher.wait(left)
        with threads.own():
            self._try(self._write_back)

    @property
    def idle(self) -> bool:
        """Whether nothing that is leased is unfinished, and nothing unwritten."""
        return not (self._leases or self._results or self._released)

    # In its thread.

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._woken.clear()
            pause = self._try(self._round)
            if pause > 0:
                self._woken.wait(pause)

    def _try(self, work: object) -> float:
        """Seconds to the next round."""
        try:
            return work()  # type: ignore[operator,no-any-return]
        except CubehookError as error:
            # Unavailable: it passes. ConfigError: a damaged file, or newer tables.
            if time.monotonic() - self._warned_at >= WARNING_INTERVAL:
                self._warned_at = time.monotonic()
                notice(logger, logging.WARNING, "deliveries wait: %s", error)
            return RETRY_SECONDS if isinstance(error, OutboxUnavailableError) else POLL_SECONDS * 20

    def _round(self) -> float:
        self._write_back()
        self._extend()
        if self._lease():
            return 0.0
        due = min(self._outbox.wanted(self._hungry()).values(), default=time.time() + POLL_SECONDS)
        return min(max(due - time.time(), 0.0), POLL_SECONDS) or POLL_SECONDS / 10

    def _hungry(self) -> dict[str, int]:
        appetites = self._dispatcher.appetites()
        return {name: appetites.get(name, 0) for name in self._policies if appetites.get(name, 0)}

    def _lease(self) -> bool:
        """Lease what the lanes can take; whether there was anything."""
        hungry = sorted(self._hungry().items(), key=lambda item: item[1])
        leased: list[Lease] = []
        for appetite, items in groupby(hungry, key=lambda item: item[1]):
            names = [name for name, _ in items]
            leased += self._outbox.lease(names, appetite, self._lease_seconds, self._owner)
        self._leases |= {lease.id: lease for lease in leased}
        self._dispatcher.lend((lease.endpoint, self._delivery(lease)) for lease in leased)
        return bool(leased)

    def _delivery(self, lease: Lease) -> Delivery:
        policy = self._policies.get(lease.endpoint, WebhookRetry())
        delivery = Delivery(lease.message, policy.resumed(lease.attempts))
        delivery.lease = lease
        return delivery

    def _write_back(self) -> float:
        for lease, outcome in self._dispatcher.returned():
            assert isinstance(lease, Lease)
            current = self._leases.pop(lease.id, lease)
            if outcome is None:
                self._released.append(current)
            else:
                self._results.append(Result(current, _on_wall_clock(outcome), time.time()))
        while self._results:
            lost = self._outbox.settle(self._results[:MOST_RESULTS])
            del self._results[:MOST_RESULTS]
            if lost:
                self.lost += lost
                notice(logger, logging.WARNING, "%d results came after their lease was lost", lost)
        if self._released:
            self._outbox.release(self._released)
            self._released.clear()
        return 0.0

    def _extend(self) -> None:
        """Keep what lanes still have; a lease that is lost is forgotten when its result comes."""
        ends = time.time() + self._lease_seconds / 2
        ending = [lease for lease in self._leases.values() if lease.expires < ends]
        for lease in self._outbox.extend(ending, self._lease_seconds) if ending else ():
            self._leases[lease.id] = lease


def _on_wall_clock(outcome: Outcome) -> Outcome:
    """The outbox's clock is that of all machines, the dispatcher's is its own."""
    if not isinstance(outcome, RetryAt):
        return outcome
    ahead = time.time() - time.monotonic()
    return dataclasses.replace(outcome, when=outcome.when + ahead, floor=outcome.floor + ahead)
