"""`Worker`: delivers from an outbox until it is told to stop. It is what ``cubehook worker`` runs.

Any number of workers, on any number of machines, may work from one outbox.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

from cubehook import formats, threads
from cubehook.config import Settings
from cubehook.courier import Courier, policy_of
from cubehook.dispatcher import Dispatcher
from cubehook.endpoint import Endpoint
from cubehook.errors import CubehookError
from cubehook.formats import BodyFormat
from cubehook.notices import notice
from cubehook.outbox import Outbox, Status
from cubehook.relay import LEASE_SECONDS, Relay
from cubehook.stats import EndpointStats

logger = logging.getLogger(__name__)

HEALTHY_SECONDS = 15.0
"""A worker is healthy if it could use the outbox within so many seconds."""

PRUNE_SECONDS = 300.0
"""Between two prunings, on average: workers that were started together shall not prune together."""

SUMMARY_SECONDS = 60.0
"""So often what was done meanwhile is logged, if anything was."""

COUNTS_SECONDS = 15.0
"""For so long the outbox is not counted again, however often the metrics are asked for."""

WRITE_SECONDS = 0.5
"""Of the time to stop, what is kept for writing outcomes back."""


@dataclass(frozen=True, slots=True)
class Health:
    """How a worker is. state: ``starting``, ``ok``, ``no outbox`` (it could not be used for
    `HEALTHY_SECONDS`) or ``stopping``.

    outbox_seconds: since the outbox could last be used; None: never. endpoints: the state of each;
    an endpoint that fails does not make the worker unhealthy.
    """

    state: str
    outbox_seconds: float | None
    endpoints: Mapping[str, str]

    @property
    def ok(self) -> bool:
        """Whether it delivers."""
        return self.state == "ok"


@dataclass(frozen=True, slots=True)
class Metrics:
    """What is measured. endpoints: of this worker; outbox: all deliveries that are stored, by
    endpoint and status; None where they cannot be counted now."""

    healthy: bool
    endpoints: Mapping[str, EndpointStats]
    outbox: Mapping[str, Mapping[Status, int]] | None
    lost_leases: int
    pruned: int


class _ToldRelay(Relay):
    """A relay that tells after each round how it went: the error or None, and, when somebody waits
    for it, whether nothing is left that could be done now."""

    def __init__(
        self,
        outbox: Outbox,
        dispatcher: Dispatcher,
        lease_seconds: float,
        on_round: Callable[[CubehookError | None, bool], None],
    ) -> None:
        super().__init__(outbox, dispatcher, lease_seconds)
        self._on_round = on_round
        self.draining = False

    def _round(self) -> float:
        try:
            pause = super()._round()
            # Only here, in the relay's thread between two rounds, is what it has complete.
            rests = self.draining and pause > 0 and self.idle and not self.due(self._hungry())
        except Exception as error:
            failure = error
            if not isinstance(failure, CubehookError):  # none is known
                failure = CubehookError(f"internal error ({type(error).__name__})")
            self._on_round(failure, False)
            raise
        self._on_round(None, rests)
        return pause

    def due(self, endpoints: Sequence[str] | Mapping[str, object] | None = None) -> bool:
        """Whether anything could be leased now; of all endpoints where none are given."""
        wanted = self._outbox.wanted(self._policies if endpoints is None else endpoints)
        now = self._clock()
        return any(when <= now for when in wanted.values())


class Worker:
    """See the module.

    url: the outbox's. settings: ``max_concurrency``, ``flush_timeout`` and the like.
    lease_seconds: how long others wait for what a worker had that has died. retain_delivered: the
    age, in seconds, at which what was delivered is deleted; None: never. Dead letters are kept.

    Raises `ConfigError` for what cannot be used. Nothing is connected to before `start`.
    """

    def __init__(
        self,
        url: str,
        endpoints: Sequence[Endpoint],
        settings: Settings | None = None,
        *,
        lease_seconds: float = LEASE_SECONDS,
        retain_delivered: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings = settings or Settings()
        self._endpoints = tuple(endpoints)
        self._retain = retain_delivered
        self._clock = clock
        self._formats: dict[str, BodyFormat] = {}
        self.outbox = Outbox(url)
        self._courier = Courier(
            max_concurrency=settings.max_concurrency,
            queue_capacity=settings.queue_capacity,
            max_payload_bytes=settings.max_payload_bytes,
            formats=self._formats,
            on_return=self._returned,
        )
        self._dispatcher = self._courier.dispatcher
        self._relay = _ToldRelay(self.outbox, self._dispatcher, lease_seconds, self._round_ended)
        self._news = threading.Condition()
        self._finishing = threading.Event()
        self._upkeep: threading.Thread | None = None
        self._worked_at: float | None = None  # the last round that succeeded
        self._failure: CubehookError | None = None  # of the last round
        self._rests = False
        self._pruned = 0
        self._counted: tuple[float, Mapping[str, Mapping[Status, int]]] | None = None

    def start(self) -> None:
        """Begin to deliver, on threads of its own."""
        self.update_endpoints(self._endpoints)
        names = ", ".join(repr(one.name) for one in self._endpoints if one.enabled)
        notice(logger, logging.INFO, "started: delivers to %s from %r", names, self.outbox)
        self._relay.start()
        self._upkeep = threads.start("upkeep", self._keep_up)

    def update_endpoints(self, endpoints: Sequence[Endpoint]) -> None:
        """The endpoints from now on. What others have waiting stays in the outbox."""
        self._endpoints = tuple(endpoints)
        for name in {one.format for one in endpoints} - self._formats.keys():
            # What is stored is written already; but the answers are judged by the format's rules.
            self._formats[name] = formats.make(name, self._settings.redact, self._settings.keep)
        self._courier.configure(self._endpoints)
        self._relay.configure({one.name: policy_of(one) for one in self._endpoints if one.enabled})

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until `finish` is called, or for so many seconds; whether it was."""
        return self._finishing.wait(timeout)

    def drain(self) -> bool:
        """Deliver what is due, until nothing more can be done now or `finish` is called.

        Whether nothing is left due: what waits for a retry later, or is leased by another worker,
        is not. False if `finish` was called. Raises `CubehookError` if the outbox cannot be used.
        """
        self.outbox.prepare()
        self._relay.draining = True
        self.start()
        with self._news:
            self._news.wait_for(lambda: self._rests or self._failure or self._finishing.is_set())
            failure = self._failure
        if failure is not None:
            raise failure
        return not (self._finishing.is_set() or self._relay.due())

    def finish(self) -> None:
        """Let who waits in `wait` or `drain` go on. Any thread may call it."""
        self._finishing.set()
        with self._news:
            self._news.notify_all()

    def stop(self, timeout: float | None = None) -> int:
        """Let attempts under way end, give the rest back, and write what came of them.

        timeout: seconds, the most that it takes whatever hangs; None: ``flush_timeout``. Returns
        how many deliveries it could not wait for: they are sent again when their lease is over.
        """
        seconds = self._settings.flush_timeout if timeout is None else timeout
        self.finish()
        ends = time.monotonic() + seconds
        # The database may hang, and so would its threads: they are daemons, and left behind.
        stopper = threads.start("stopper", lambda: self._stop(seconds))
        stopper.join(max(ends - time.monotonic(), 0.0))
        left = self._dispatcher.pending
        self._dispatcher.stop()
        self._courier.close()
        done = self._sum()
        notice(
            logger,
            logging.INFO if not left else logging.WARNING,
            "stopped: %d delivered, %d retried, %d dead, %d cut off",
            *(done.delivered, done.retried, done.dead, left),
        )
        return left

    def health(self) -> Health:
        """How it is now."""
        worked_at = self._worked_at
        ago = None if worked_at is None else max(self._clock() - worked_at, 0.0)
        if self._finishing.is_set():
            state = "stopping"
        elif ago is None:
            state = "starting" if self._failure is None else "no outbox"
        else:
            state = "ok" if ago <= HEALTHY_SECONDS else "no outbox"
        census = self._dispatcher.stats()
        return Health(state, ago, {name: one.state for name, one in census.endpoints.items()})

    def metrics(self) -> Metrics:
        """What is measured, now; the outbox is counted at most once in `COUNTS_SECONDS`."""
        return Metrics(
            healthy=self.health().ok,
            endpoints=self._dispatcher.stats().endpoints,
            outbox=self._counts(),
            lost_leases=self._relay.lost,
            pruned=self._pruned,
        )

    def prune(self) -> int:
        """Delete what was delivered long enough ago; how much. Raises `CubehookError`."""
        if self._retain is None:
            return 0
        pruned = self.outbox.prune(delivered_before=time.time() - self._retain)
        self._pruned += pruned
        if pruned:
            notice(logger, logging.INFO, "pruned %d delivered", pruned)
        return pruned

    def _returned(self) -> None:
        self._relay.wake()

    def _round_ended(self, failure: CubehookError | None, rests: bool) -> None:
        """In the relay's thread."""
        if failure is None:
            self._worked_at = self._clock()
        with self._news:
            self._failure, self._rests = failure, rests
            self._news.notify_all()

    def _stop(self, seconds: float) -> None:
        self._relay.stop(max(seconds - WRITE_SECONDS, seconds / 2))
        if self._upkeep is not None:
            self._upkeep.join(seconds)
        self.outbox.close()

    # In the thread of upkeep.

    def _keep_up(self) -> None:
        prune_at = time.monotonic()
        told = self._sum()
        while not self._finishing.is_set():
            if time.monotonic() >= prune_at:
                self._try_to_prune()
                prune_at = time.monotonic() + PRUNE_SECONDS * random.uniform(0.5, 1.5)  # noqa: S311  # no secret
            self._finishing.wait(SUMMARY_SECONDS)
            told = self._tell(told)

    def _try_to_prune(self) -> None:
        try:
            self.prune()
        except CubehookError as error:
            notice(logger, logging.WARNING, "not pruned: %s", error)

    def _tell(self, told: EndpointStats) -> EndpointStats:
        """Log what was done since; where there is nothing to tell, nothing."""
        now = self._sum()
        delivered, retried = now.delivered - told.delivered, now.retried - told.retried
        dead = now.dead - told.dead
        if (delivered or retried or dead) and not self._finishing.is_set():
            words = "%d delivered, %d retried, %d dead"
            notice(logger, logging.INFO, words, delivered, retried, dead)
        return now

    def _sum(self) -> EndpointStats:
        census = self._dispatcher.stats()
        return reduce(EndpointStats.plus, census.endpoints.values(), census.removed)

    def _counts(self) -> Mapping[str, Mapping[Status, int]] | None:
        counted = self._counted
        if counted is None or self._clock() - counted[0] >= COUNTS_SECONDS:
            try:
                counted = self._counted = self._clock(), self.outbox.counts()
            except CubehookError:
                return None
        return counted[1]
