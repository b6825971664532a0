"""The parts behind one handler, joined: queue, listener, formats, lanes.

The first event starts its threads. A pipeline is thrown away as a whole: after a fork the child
makes a new one, and one that ``dictConfig`` has replaced drains on its own threads.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections import Counter
from types import MappingProxyType
from typing import TYPE_CHECKING

from cubehook import formats, lifecycle, threads
from cubehook.config import Settings
from cubehook.courier import Courier
from cubehook.endpoint import DEFAULT_FORMAT, Endpoint
from cubehook.event import Attributes, Event
from cubehook.formats import BodyFormat
from cubehook.intake import (
    ERROR,
    TOO_LARGE,
    EventQueueHandler,
    EventQueueListener,
    Mark,
    Subscriptions,
)
from cubehook.message import Message
from cubehook.notices import WARNING_INTERVAL, notice, words
from cubehook.schedule import Formatted
from cubehook.stats import Stats

if TYPE_CHECKING:
    from cubehook.depot import Depot

logger = logging.getLogger(__name__)

STRAGGLERS_SECONDS = 1.0
"""How long a closed handler looks out for events that were being queued when it was closed."""

UNDER_WAY_SECONDS = 1.0
"""With an outbox, how long the end waits for attempts under way: what is cut off is sent again."""

MOST_AT_ONCE = 32
"""So many events are fanned out together at most."""

MOST_READS = 10
"""So often the counts are read, until no event has come in between."""

FORMAT_ERROR = "format_error"
INVALID_NAME = "invalid_name"
UNSUBSCRIBED = "unsubscribed"


class Pipeline:
    """See the module. ``default``: the format of endpoints that name none."""

    def __init__(
        self, settings: Settings, endpoints: tuple[Endpoint, ...], default: BodyFormat
    ) -> None:
        self.flush_timeout = settings.flush_timeout
        self._settings = settings
        self._queue: queue.SimpleQueue[object] = queue.SimpleQueue()
        self.intake = EventQueueHandler(self._queue, settings.queue_capacity, self._wake)
        self.listener = EventQueueListener(self._queue, self)
        self._formats: dict[str, BodyFormat] = {DEFAULT_FORMAT: default}
        self._formatted: list[Formatted] = []  # and not yet fanned out
        self._courier = Courier(
            max_concurrency=settings.max_concurrency,
            queue_capacity=settings.queue_capacity,
            max_payload_bytes=settings.max_payload_bytes,
            formats=self._formats,
            on_return=self._returned,
        )
        self.dispatcher = self._courier.dispatcher
        self._depot = self._make_depot()
        self._dropping = False  # something was dropped that no warning has told
        self._warned_at = -WARNING_INTERVAL
        self._warned_of: Counter[str] = Counter()
        self._leaving = self._stopped = False
        self._starting = threading.Lock()
        self.configure(endpoints)

    @property
    def stopped(self) -> bool:
        """Whether the end has come."""
        return self._stopped

    @property
    def closed(self) -> bool:
        """Whether nothing more is taken."""
        return self.intake.closed

    def configure(self, endpoints: tuple[Endpoint, ...]) -> None:
        """The endpoints from now on."""
        for endpoint in endpoints:
            if endpoint.format not in self._formats:
                self._formats[endpoint.format] = formats.make(
                    endpoint.format, self._settings.redact, self._settings.keep
                )
        self._courier.configure(endpoints)
        if self._depot is not None:
            self._depot.configure(endpoints)
        self.subscribed = bool(endpoints)
        self.subscriptions = Subscriptions(endpoints)

    def resume(self) -> None:
        """Deliver what a former process has left in the outbox; the first event does it otherwise.

        Not for a forked child: that may be about to become another program, and its parent does.
        """
        if self._depot is None or not self.subscribed or self._leaving or self._stopped:
            return
        lifecycle.add(self)
        with contextlib.suppress(RuntimeError):  # no thread to be had: perhaps later
            self._depot.start()

    def use_default(self, default: BodyFormat) -> None:
        """The format of endpoints that name none, from now on."""
        self._formats[DEFAULT_FORMAT] = default

    def committed(self, timeout: float) -> bool:
        """Wait until what was taken before is stored, at most ``timeout`` seconds."""
        if self._stopped or threads.is_own() or lifecycle.holds_logging_lock():
            return False  # nothing comes any more, or it would wait for itself
        return self._fan_out_all(timeout)

    # In the application's thread.

    def _wake(self) -> None:
        # Not by ``closed``: this very event may have slipped in before the handler was closed.
        if self._stopped or self._queue.empty():
            return
        # Not a wait: whoever comes second leaves the start to the first.
        if not self._starting.acquire(blocking=False):
            return
        try:
            if self.intake.asleep:
                lifecycle.add(self)
                self.listener.start()
                self.intake.asleep = False
                if self._depot is not None:
                    self._depot.start()
        except RuntimeError:
            pass  # the interpreter is shutting down: `flush` does the work in its own thread
        finally:
            self._starting.release()

    # In the listener's thread.

    def handle(self, attributes: Attributes) -> None:
        """Format an event's messages, to be fanned out to the lanes."""
        messages: list[tuple[str, Message | str]] = []
        try:
            event = Event.from_attributes(attributes)
            endpoints = self.subscriptions[event.name] if event else ()
            messages = self._messages(event, endpoints) if event else []
            # Else its name is no legal one, or update_endpoints took the last subscriber away.
            reason = None if messages else UNSUBSCRIBED if event else INVALID_NAME
        except Exception as error:  # none is known; the thread has to live
            notice(logger, logging.ERROR, "an event was lost (%s)", type(error).__name__)
            reason = ERROR
        self._formatted.append(Formatted(messages, reason))
        if len(self._formatted) >= MOST_AT_ONCE:
            self.pause()

    def pause(self) -> None:
        """Fan out what was formatted. Under load it is many events at once: each time costs a lock
        and wakes a worker."""
        if not self._formatted:
            return
        formatted, self._formatted = self._formatted, []
        take = self.dispatcher.submit if self._depot is None else self._depot.store
        if take(formatted) or self.intake.dropping:
            self.intake.dropping, self._dropping = False, True
        if self._dropping and time.monotonic() - self._warned_at >= WARNING_INTERVAL:
            self._dropping = False
            self._warn_of_drops()

    def _messages(
        self, event: Event, endpoints: tuple[Endpoint, ...]
    ) -> list[tuple[str, Message | str]]:
        """A message, or why there is none, for each endpoint; formatted once for each format."""
        made: dict[str, Message | str] = {}
        for endpoint in endpoints:
            if endpoint.format not in made:
                made[endpoint.format] = self._message(event, self._formats[endpoint.format])
        return [
            (endpoint.name, self._fitting(made[endpoint.format], endpoint))
            for endpoint in endpoints
        ]

    def _message(self, event: Event, body_format: BodyFormat) -> Message | str:
        try:
            body = body_format.format_event(event)
        except BaseException as error:
            # A format of the application's, which may even try to exit; ours do not fail.
            names = type(error).__name__, type(body_format).__name__
            notice(logger, logging.ERROR, "%s cannot be written (%s in %s)", event, *names)
            return FORMAT_ERROR
        return Message(event.id, event.name, event.key, body_format.content_type, body)

    def _fitting(self, message: Message | str, endpoint: Endpoint) -> Message | str:
        if isinstance(message, str) or len(message.body) <= self._courier.longest(endpoint):
            return message
        return TOO_LARGE

    def _warn_of_drops(self) -> None:
        dropped = Counter(self.stats().dropped)
        recent = dropped - self._warned_of
        self._warned_at, self._warned_of = time.monotonic(), dropped
        if recent:
            notice(
                logger, logging.WARNING, "dropped since the last such warning: %s", words(recent)
            )

    # In the threads of who flushes, closes and asks.

    def flush(self, timeout: float) -> bool:
        """Wait until what was taken before has ended, at most ``timeout`` seconds."""
        ends = time.monotonic() + timeout
        if threads.is_own():
            return False  # the thread would wait for itself
        if not self._fan_out_all(timeout):
            return False
        if self._depot is not None:
            return True  # what is stored is safe
        return self.dispatcher.wait(max(ends - time.monotonic(), 0.0))

    def shut(self) -> None:
        """Take nothing more."""
        self.intake.closed = True

    def drain(self) -> None:
        """Take nothing more; what was taken is delivered as long as the process lives."""
        self.shut()
        if not self._leaving:
            self._leaving = True
            self._queue.put(Mark(self._last_fanned_out))
            if self._depot is not None and self.intake.asleep:
                self._wake()  # without an event there is no listener yet, but the outbox's thread

    def stop(self) -> None:
        """The end: say what is left, and let the threads go."""
        self.shut()
        if self._stopped:
            return
        self._stopped = self._leaving = True
        self.listener.leave()
        if self._depot is not None:
            self._depot.give_up()
            self.listener.join(UNDER_WAY_SECONDS)  # it counts what cannot be stored
            self._depot.stop(min(self.flush_timeout, UNDER_WAY_SECONDS))
        self.report()
        self.dispatcher.stop()
        self._end()

    def busy(self) -> bool:
        """Whether something is left undone."""
        return self.stats().pending > 0

    def last_chance(self) -> None:
        """Try what waits for a retry now: there may be no later."""
        if self._depot is None:  # what is stored has time
            self.dispatcher.hurry()

    def report(self) -> None:
        """Say in one line what is left undelivered, if anything is."""
        self._warn_of_drops()
        stats = self.stats()
        if self._depot is not None:  # else it is safe, and sent later
            lanes = sum(one.queued for one in stats.endpoints.values())
            if stats.queued > lanes:
                notice(logger, logging.ERROR, "closed with %d not stored", stats.queued - lanes)
        elif stats.pending:
            notice(
                logger,
                logging.ERROR,
                "closed with %d undelivered: %d queued, %d in flight, %d waiting for a retry",
                *(stats.pending, stats.queued, stats.in_flight, stats.waiting),
            )

    def stats(self) -> Stats:
        """The counts at this moment."""
        for _ in range(MOST_READS):  # of counts that no lock holds still
            offered = self.intake.offered.value()
            census = self.dispatcher.stats()
            dropped = self.intake.drops()
            if self.intake.offered.value() == offered:
                break
        queued = max(offered - dropped.total() - census.fanned_out, 0)
        dropped += Counter(census.dropped)
        undelivered = dropped.total() + queued + census.stored
        lanes = [*census.endpoints.values(), census.removed]
        for lane in lanes:
            dropped += Counter(lane.dropped)
        return Stats(
            received=undelivered + sum(lane.received for lane in lanes),
            delivered=sum(lane.delivered for lane in lanes),
            retried=sum(lane.retried for lane in lanes),
            dead=sum(lane.dead for lane in lanes),
            dropped=MappingProxyType(dict(dropped)),
            queued=queued + sum(lane.queued for lane in lanes),
            in_flight=sum(lane.in_flight for lane in lanes),
            waiting=sum(lane.waiting for lane in lanes),
            endpoints=MappingProxyType(dict(census.endpoints)),
            stored=census.stored + sum(lane.stored for lane in lanes),
        )

    def _fan_out_all(self, timeout: float) -> bool:
        if self.intake.asleep:
            with self._starting:  # a thread that is being started right now is running
                running = self.listener.running
        else:  # no lock: a signal handler may log an event while this thread has it
            running = self.listener.running
        if not running:
            if self._depot is not None:
                self._depot.wait_no_longer_than(timeout)
            self.listener.drain()
            return True
        if self._leaving:
            return self.listener.join(timeout)
        reached = threading.Event()
        self._queue.put(Mark(reached.set))
        return reached.wait(timeout)

    def _make_depot(self) -> Depot | None:
        if self._settings.outbox is None:
            return None
        from cubehook.depot import Depot  # noqa: PLC0415  # SQLAlchemy is an extra

        return Depot(self._settings.outbox, self._courier, deliver=self._settings.deliver)

    def _returned(self) -> None:
        if self._depot is not None:
            self._depot.wake()

    def _last_fanned_out(self) -> None:
        """In the listener's thread: nothing more is taken, and all before was fanned out."""
        ends = time.monotonic() + STRAGGLERS_SECONDS
        while self._in_queue() > 0 and time.monotonic() < ends:
            # A thread was in the middle of logging when the handler was closed.
            with contextlib.suppress(queue.Empty):
                self.listener.handle(self._queue.get(timeout=0.01))
        self.listener.leave()
        if self._depot is not None:
            self._depot.stop(self.flush_timeout)
        self.dispatcher.drain(self._end)

    def _in_queue(self) -> int:
        # Offered is read last: whoever closes is to miss nothing.
        left = self.dispatcher.stats().fanned_out + self.intake.drops().total()
        return self.intake.offered.value() - left

    def _end(self) -> None:
        lifecycle.remove(self)
        self._courier.close()
