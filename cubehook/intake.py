"""Out of the application's thread: a bounded queue between `EventQueueHandler` and its listener.

The handler runs in the application's thread: no I/O, no formatting, no lock. The listener runs in
one of cubehook's own.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from logging.handlers import QueueHandler, QueueListener
from queue import Empty, SimpleQueue
from typing import Any

from cubehook import threads
from cubehook.endpoint import Endpoint
from cubehook.event import MAX_NAME_LENGTH, TooLargeError, snapshot
from cubehook.notices import notice
from cubehook.stats import Tally

logger = logging.getLogger(__name__)

MAX_REMEMBERED_NAMES = 4096

LOOKS, LOOK_SECONDS = 4, 0.001
"""How often, and after which pauses, a listener looks for the next record before it blocks."""

MOST_BEHIND = 128
"""So many items, records and further marks, are taken after a mark while more is queued, before it
is seen to: what many threads wait for is then one transaction."""

QUEUE_FULL = "queue_full"
TOO_LARGE = "too_large"
CLOSED = "closed"
ERROR = "error"


class Subscriptions(dict[str, tuple[Endpoint, ...]]):
    """Which endpoints take an event, by its name. The patterns are tried once for each name."""

    def __init__(self, endpoints: tuple[Endpoint, ...]) -> None:
        super().__init__()
        self._endpoints = endpoints

    def __missing__(self, name: str) -> tuple[Endpoint, ...]:
        found = tuple(endpoint for endpoint in self._endpoints if endpoint.subscribes(name))
        if len(self) < MAX_REMEMBERED_NAMES and len(name) <= MAX_NAME_LENGTH:
            self[name] = found
        return found


class Mark:
    """Something to be done when everything queued before has been handled."""

    def __init__(self, reached: Callable[[], object]) -> None:
        self.reached = reached


class EventQueueHandler(QueueHandler):
    """Puts a snapshot of each record on a ``SimpleQueue``, up to ``capacity`` of them.

    wake: called after each record until ``asleep`` is set to False.

    A ``queue.Queue`` would not do: it takes a lock, and a record logged by a ``__del__`` that runs
    while the lock is held would wait for itself.
    """

    queue: SimpleQueue[Any]

    def __init__(
        self,
        queue: SimpleQueue[Any],
        capacity: int = 1024,
        wake: Callable[[], object] = lambda: None,
    ) -> None:
        super().__init__(queue)
        # What the inherited method would call, and each call costs the application.
        self.enqueue: Any = queue.put_nowait
        self._waiting = queue.qsize
        self._capacity = capacity
        self._wake = wake
        self.asleep = True  # as long as nobody is known to take from the queue
        self.closed = False
        # Counted before the look at ``closed``: who closes knows then what is still to come.
        self.offered = Tally()
        self.dropped = {reason: Tally() for reason in (QUEUE_FULL, TOO_LARGE, CLOSED, ERROR)}
        self.dropping = False

    def createLock(self) -> None:
        """None: a ``SimpleQueue`` takes from many threads at once."""
        self.lock = threads.NoLock()  # type: ignore[assignment]

    # A snapshot: later changes to the application's objects do not reach it.
    prepare = staticmethod(snapshot)

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a snapshot of the record. Nothing is raised.

        Where the queue is full, the newest event is the one dropped.
        """
        self.offered.add()
        try:
            if self.closed:
                self.drop(CLOSED)
            elif self._waiting() >= self._capacity:
                self.drop(QUEUE_FULL)
            else:
                self.enqueue(self.prepare(record))
        except TooLargeError:
            self.drop(TOO_LARGE)
        except Exception:
            self.handleError(record)
        if self.asleep:
            self._wake()

    def refuse(self, reason: str) -> None:
        """Count an event that cannot even be offered."""
        self.offered.add()
        self.drop(reason)

    def drop(self, reason: str) -> None:
        """Count an event that is not taken; the listener warns of it."""
        self.dropped[reason].add()
        self.dropping = True

    def drops(self) -> Counter[str]:
        """How many events were dropped here, by reason."""
        counts = ((reason, tally.value()) for reason, tally in self.dropped.items())
        return Counter({reason: count for reason, count in counts if count})

    def handleError(self, record: logging.LogRecord) -> None:
        """Count the event as dropped.

        The inherited method prints the record and its arguments, which are payload.
        """
        self.drop(ERROR)


class EventQueueListener(QueueListener):
    """Hands each snapshot to its handlers, in the order queued, in a thread of cubehook's own.

    A handler here is anything with a ``handle`` method for what `EventQueueHandler` queues. One
    that has a ``pause`` method, too, is told so when nothing more is queued at the moment.
    """

    queue: SimpleQueue[Any]
    _thread: threading.Thread | None

    def __init__(self, queue: SimpleQueue[Any], *handlers: Any, **options: Any) -> None:
        super().__init__(queue, *handlers, **options)
        self._marks: list[Mark] = []  # come to, while there was more to take
        self._behind = 0  # items since the first of them
        self._pausing = [handler.pause for handler in handlers if hasattr(handler, "pause")]

    @property
    def running(self) -> bool:
        """Whether the thread is there."""
        return self._thread is not None and self._thread.is_alive()

    def dequeue(self, block: bool) -> Any:
        """The next item. Under load the thread looks again a few times before it blocks.

        To wake a thread that is blocked costs the application more than to queue a record does.
        """
        if block:
            for _ in range(LOOKS):
                if not self.queue.empty():
                    break
                time.sleep(LOOK_SECONDS)
        return super().dequeue(block)

    def start(self) -> None:
        """Start the thread. Raises RuntimeError where none can be started any more."""
        self._thread = threads.start("listener", self._listen)

    def handle(self, record: Any) -> None:
        """Hand on a snapshot, or do what a `Mark` says. Nothing is raised: the thread must live."""
        try:
            if isinstance(record, Mark):
                self._marks.append(record)
            else:
                super().handle(record)
            self._behind += bool(self._marks)
            if self.queue.empty() or self._behind >= MOST_BEHIND:
                self._pause()
        except Exception as error:
            notice(logger, logging.ERROR, "an event was lost (%s)", type(error).__name__)

    def drain(self) -> None:
        """Handle what is queued in the calling thread: where there can be no other."""
        with threads.own():
            while True:
                try:
                    item = self.dequeue(False)
                except Empty:
                    self._pause()
                    return
                if item is not None:  # the sentinel
                    self.handle(item)

    def leave(self) -> None:
        """Let the thread end after what is queued; unlike ``stop``, do not wait for it."""
        self.enqueue_sentinel()

    def join(self, timeout: float) -> bool:
        """Wait for the thread's end. Returns whether it has ended."""
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout)
        return not self.running

    def _listen(self) -> None:
        self._monitor()  # type: ignore[attr-defined]
        self._pause()

    def _pause(self) -> None:
        for pause in self._pausing:
            pause()
        marks, self._marks = self._marks, []
        self._behind = 0
        for mark in marks:
            mark.reached()
