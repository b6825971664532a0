"""What happened, taken from a log record: the tag, the snapshot and the ``Event`` made of it.

The snapshot is made in the application's thread and is therefore cheap and does no I/O; the
``Event`` is made of it later, in the listener's thread.
"""

from __future__ import annotations

import logging
import math
import re
import time
import uuid
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import islice
from typing import Any, TypeAlias

Attributes: TypeAlias = "dict[str, Any]"
"""The ``__dict__`` of a log record, or a snapshot of it."""

LIFECYCLE_EVENTS = ("sandbox.created", "sandbox.deleted", "sandbox.paused", "sandbox.resumed")

MAX_NAME_LENGTH = 128
MAX_SNAPSHOT_ITEMS = 524_288
"""Container items one snapshot may hold: each costs two bytes of JSON or more, so a record with
more of them cannot fit the highest ``max_payload_bytes`` (1 MiB)."""

_NAME = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")
_ID = re.compile(r"[A-Za-z0-9_:~-]{1,128}")
_ID_NAMESPACE = uuid.UUID("6d9c1f8e-5a0b-5c0e-9c55-2f5a1a0c7c11")

# What every record has; everything else on a record is the application's.
_STANDARD = tuple(vars(logging.makeLogRecord({})))
_STANDARD_COUNT = len(_STANDARD)
_RECORDS_OWN = frozenset({*_STANDARD, "message", "asctime", "taskName"})
# The body's own names are never overwritten, and the id has its place already.
_BODYS_OWN = frozenset({"id", "timestamp", "level", "event", "event_id"})
_LEVELS = {
    "error": logging.ERROR,
    "warn": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
}
_SCALARS = frozenset({str, int, float, bool, type(None), bytes})
_YEAR_10000 = 253_402_300_800  # in Unix seconds; RFC 3339 has four digits for the year
_MAX_DEPTH = 66  # one more than is ever written (64 levels and the fields themselves)


class TooLargeError(Exception):
    """The record holds more than any payload can carry."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event: the same for every endpoint and every attempt.

    id: the receiver's idempotency key: the record's ``event_id`` or a random UUID (version 4).
    name: the dotted event name, such as ``sandbox.created``.
    time: when it was logged, in seconds since the Unix epoch.
    level: ``debug``, ``info``, ``warn`` or ``error``.
    fields: the record's own extras, as logged: not yet redacted.
    key: the ordering key (``sandbox_id``), or None for an event that has none.
    """

    id: str
    name: str
    time: float
    level: str
    fields: Mapping[str, object]
    key: str | None = None

    @property
    def timestamp(self) -> str:
        """The event's time as RFC 3339 text in UTC with microseconds."""
        moment = datetime.fromtimestamp(self.time, timezone.utc)
        return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")

    def __repr__(self) -> str:
        # Fields are payload: they have no place in a log line or a traceback.
        return f"Event(id={self.id!r}, name={self.name!r})"

    @classmethod
    def from_record(cls, record: logging.LogRecord) -> Event | None:
        """The event that ``record`` carries, or None when it carries none."""
        return cls.from_attributes(vars(record))

    @classmethod
    def from_attributes(cls, attributes: Attributes) -> Event | None:
        """The same for the attributes of a record (see `snapshot`)."""
        name = tag(attributes)
        if name is None or not is_event_name(name):
            return None
        return cls._build(name, _source(attributes), attributes)

    @classmethod
    def untagged(cls, record: logging.LogRecord) -> Event:
        """An event without a name, for a formatter that is given an ordinary record."""
        return cls._build("", vars(record), vars(record))

    @classmethod
    def _build(cls, name: str, source: Attributes, attributes: Attributes) -> Event:
        left_out = _BODYS_OWN | _RECORDS_OWN if source is attributes else _BODYS_OWN
        return cls(
            id=_event_id(source.get("event_id")),
            name=name,
            time=_event_time(attributes.get("created")),
            level=_level(attributes.get("levelno")),
            fields={
                key: value
                for key, value in source.items()
                if key not in left_out and not (isinstance(key, str) and key.startswith("_"))
            },
            key=_key(source.get("sandbox_id")),
        )

    def to_record(self) -> logging.LogRecord:
        """A log record of this event, for formatters that know nothing of events."""
        return logging.makeLogRecord(
            {
                **self.fields,
                "name": "cubehook.event",
                "msg": self.name,
                "created": self.time,
                "levelno": _LEVELS[self.level],
                "levelname": logging.getLevelName(_LEVELS[self.level]),
                "event": self.name,
                "event_id": self.id,
            }
        )


def is_event_name(name: str) -> bool:
    """Whether ``name`` is a legal event name: dotted words of ASCII letters, digits, ``_``, ``-``.

    The name becomes a header value, so nothing else can be let through.
    """
    return len(name) <= MAX_NAME_LENGTH and _NAME.fullmatch(name) is not None


def tag(attributes: Attributes) -> str | None:
    """The event name that a record's attributes carry, legal or not; None for an untagged one.

    It stands in the attribute ``event`` (``extra={"event": …}``), or under that key in a
    dict-valued message (structlog's ``wrap_for_formatter``) or in the nested ``extra`` dict
    (loguru). In the latter two it may also be the message of an ordinary log line, so there
    only a legal name counts.
    """
    name = attributes.get("event")
    if isinstance(name, str):
        # An Enum with a str mixin hashes by member, a plain str by text.
        return str.__str__(name)
    for nested in (attributes.get("msg"), attributes.get("extra")):
        if isinstance(nested, dict):
            name = nested.get("event")
            if isinstance(name, str) and is_event_name(text := str.__str__(name)):
                return text
    return None


def snapshot(record: logging.LogRecord) -> Attributes:
    """The record's attributes, in a copy that later changes to the application's objects miss.

    Containers (dict, list, tuple, set, deque, bytearray) are copied, at every depth; scalars are
    kept. Other objects are kept as they are: nothing of theirs is called in the application's
    thread.

    Raises `TooLargeError` for a record with over `MAX_SNAPSHOT_ITEMS` container items.
    """
    copied = vars(record).copy()
    # No part of an event, and they would keep the application's frames and objects alive.
    copied["args"] = copied["exc_info"] = None
    # Extras come after the standard attributes, which need no look, apart from the message.
    # A subclass of LogRecord may have set its own attributes first.
    start = _STANDARD_COUNT if record.__class__ is logging.LogRecord else 0
    copier = None
    for name, value in islice(copied.items(), start, None):
        if value.__class__ not in _SCALARS:
            copier = copier or _Copier()
            copied[name] = copier.copy(value)
    if record.msg.__class__ is not str:
        copied["msg"] = (copier or _Copier()).copy(record.msg)
    return copied


class _Copier:
    """Copies containers, each once (so that cycles end), up to a number of items."""

    def __init__(self) -> None:
        self._items_left = MAX_SNAPSHOT_ITEMS
        self._copies: dict[int, tuple[object, object]] = {}

    def copy(self, value: Any, depth: int = 0) -> Any:
        if value.__class__ in _SCALARS or depth > _MAX_DEPTH:
            return value
        known = self._copies.get(id(value))
        if known is not None:
            return known[1]
        if isinstance(value, dict):
            return self._dict(value, depth)
        if isinstance(value, list | set | frozenset | deque):
            return self._items(value, depth)
        if isinstance(value, tuple) and (type(value) is tuple or hasattr(value, "_fields")):
            return self._tuple(value, depth)
        return bytes(value) if isinstance(value, bytearray) else value

    def _dict(self, value: dict[Any, Any], depth: int) -> dict[Any, Any]:
        self._spend(len(value))
        copied: dict[Any, Any] = dict.copy(value)  # in one step: other threads may be writing
        # The original is kept too: its id must not be given to another object meanwhile.
        self._copies[id(value)] = (value, copied)
        for key, item in copied.items():
            if item.__class__ not in _SCALARS:
                copied[key] = self.copy(item, depth + 1)
        return copied

    def _items(self, value: Any, depth: int) -> Any:
        self._spend(len(value))
        if isinstance(value, set | frozenset):
            return set(value)  # its items are hashable, so they do not change
        copied = list(value)
        self._copies[id(value)] = (value, copied)
        copied[:] = [self.copy(item, depth + 1) for item in copied]
        return copied

    def _tuple(self, value: tuple[Any, ...], depth: int) -> tuple[Any, ...]:
        self._spend(len(value))
        # A named tuple stays one, and its own constructor is not called.
        copied = tuple.__new__(type(value), [self.copy(item, depth + 1) for item in value])
        self._copies[id(value)] = (value, copied)
        return copied

    def _spend(self, items: int) -> None:
        self._items_left -= items
        if self._items_left < 0:
            raise TooLargeError


def _source(attributes: Attributes) -> Attributes:
    """The mapping that carries the tag: the record's attributes or one of the nested dicts."""
    if isinstance(attributes.get("event"), str):
        return attributes
    message = attributes["msg"]
    nested: Attributes = (
        message
        if isinstance(message, dict) and isinstance(message.get("event"), str)
        else attributes["extra"]
    )
    return nested


def _event_id(given: object) -> str:
    """The record's own id where it can stand in a header and in the signed text.

    One that cannot (the signed parts are joined by dots, WIRE.md) gives a UUID made of its text,
    so that the same event logged again still has the same id.
    """
    if given is None or given == "":
        return str(uuid.uuid4())
    try:
        text = str(given)
        if _ID.fullmatch(text):
            return text
        return str(uuid.uuid5(_ID_NAMESPACE, text.encode("utf-8", "replace").decode()))
    except Exception:  # an object whose str() raises still is an event
        return str(uuid.uuid4())


def _event_time(created: object) -> float:
    if isinstance(created, int | float) and math.isfinite(created) and 0 <= created < _YEAR_10000:
        return float(created)
    return time.time()  # a record made by hand, without a usable time


def _level(levelno: object) -> str:
    number = levelno if isinstance(levelno, int) else logging.INFO
    return next((name for name, least in _LEVELS.items() if number >= least), "debug")


def _key(sandbox_id: object) -> str | None:
    return str(sandbox_id) if isinstance(sandbox_id, str | int) else None
