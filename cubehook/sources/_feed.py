"""From a source to the handlers: `Feed` gives them events, and says when those are safe.

A source that goes on from a checkpoint moves it only then. So the source itself is the queue: what
a crash cuts off is read again, with the same ids.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from cubehook.errors import ConfigError, CubehookError
from cubehook.handler import WebhookHandler

_T = TypeVar("_T")

LOOK_SECONDS = 0.5
"""How long one wait for deliveries takes, before it is asked whether the source is to stop."""

STORE_SECONDS = 10.0
"""So long an outbox may store nothing, where it is not waited for without end."""


class OutboxAwayError(CubehookError):
    """An outbox stores nothing."""


@dataclass(frozen=True, slots=True)
class SourceEvent:
    """What a source has read.

    id: the same whenever the same entry is read, and another one for any other entry.
    name: the event's; one that is not a legal name reaches no endpoint. time: Unix seconds.
    level: of `logging`. fields: the payload, not yet redacted.
    """

    id: str
    name: str
    time: float
    fields: Mapping[str, object] = field(repr=False)
    level: int = logging.INFO

    def to_record(self, logger: str) -> logging.LogRecord:
        """A log record that carries the event as its message: so no field can be mistaken for one
        of the record's own attributes."""
        message = {**self.fields, "event": self.name, "event_id": self.id}
        values = {"name": logger, "msg": message, "created": self.time, "levelno": self.level}
        return logging.makeLogRecord(values | {"levelname": logging.getLevelName(self.level)})


class Feed:
    """Gives events to handlers, no more at once than they have room for.

    logger: the name that the records carry. stopping: set by whoever ends the source. ready:
    called before the first events, until it returns True: whether they may be given; False: it is
    to stop. storing: those of the handlers whose outbox is not waited for without end.
    """

    def __init__(
        self,
        handlers: Sequence[WebhookHandler],
        stopping: threading.Event,
        logger: str = "cube.source",
        *,
        ready: Callable[[], bool] = lambda: True,
        storing: Sequence[WebhookHandler] = (),
    ) -> None:
        self._handlers = tuple(handlers)
        self._stopping = stopping
        self._logger = logger
        self._ready = ready
        self._is_ready = False
        self._storing = tuple(storing)
        self.room = min((one.queue_capacity for one in self._handlers), default=1)

    def deliver(self, events: Sequence[SourceEvent]) -> bool:
        """Hand the events over and wait until each of them has ended: is delivered or given up,
        or, where a handler has an outbox, stored.

        False if the source is to stop before: then some of them may be delivered, and some not.
        Raises `OutboxAwayError`, and `ConfigError` where a filter of a handler fails.
        """
        self._is_ready = self._is_ready or self._ready()
        if not self._is_ready:
            return False
        return all(self._deliver(part) for part in parts(events, self.room))

    def _deliver(self, events: Sequence[SourceEvent]) -> bool:
        for event in events:
            if self._stopping.is_set():
                return False
            for handler in self._handlers:
                _handle(handler, event.to_record(self._logger))
        return all(self._ended(handler) for handler in self._handlers)

    def _ended(self, handler: WebhookHandler) -> bool:
        stored, since = -1, time.monotonic()
        while not handler.flush(LOOK_SECONDS):
            if handler in self._storing:
                former, stored = stored, handler.stats().stored
                since = since if stored == former else time.monotonic()
                if time.monotonic() - since >= STORE_SECONDS:
                    raise OutboxAwayError("no event could be stored")
            # It may have said so at once, since all that is left waits for a later retry.
            if self._stopping.wait(LOOK_SECONDS / 2):
                return False
        return True


def parts(items: Sequence[_T], most: int) -> Iterator[Sequence[_T]]:
    """The items, so many at once at most."""
    for start in range(0, len(items), most):
        yield items[start : start + most]


def _handle(handler: WebhookHandler, record: logging.LogRecord) -> None:
    if record.levelno < handler.level:
        return
    try:
        handler.handle(record)
    except Exception as error:  # what it says may be payload
        why = type(error).__name__
        raise ConfigError(f"handler {handler.name!r}: a filter fails ({why})") from None
