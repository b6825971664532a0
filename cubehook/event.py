"""What happened, taken from a log record: the tag, the snapshot and the ``Event`` made of it.

The snapshot is made in the application's thread and is therefore cheap and does no I/O; the
``Event`` is made of it later, in the listener's thread.
"""

from __future__ import annotations

import logging
import os
import re
import time
import uuid
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import lru_cache
from typing import Any, TypeAlias

Attributes: TypeAlias = "dict[str, Any]"
"""The ``__dict__`` of a log record, or a snapshot of it."""

LIFECYCLE_EVENTS = ("sandbox.created", "sandbox.deleted", "sandbox.paused", "sandbox.resumed")

KNOWN_EVENTS = (
    *LIFECYCLE_EVENTS,
    "sandbox.timeout.updated",
    "sandbox.refreshed",
    "sandbox.rolled_back",
    "snapshot.created",
    "snapshot.deleted",
    "api.request",
    "api.response",
    "api.error",
)
"""What CubeSandbox tells of. Any other dotted name is legal, too."""

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
_LAST_STANDARD = _STANDARD[-1]
_RECORDS_OWN = frozenset({*_STANDARD, "message", "asctime", "taskName"})
# The body's own names are never overwritten, and the id has its place already.
BODYS_OWN = frozenset({"id", "timestamp", "level", "event", "event_id"})
_OWN = BODYS_OWN | _RECORDS_OWN
_LEVELS = {
    "error": logging.ERROR,
    "warn": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
}
_DRAWN_AT_ONCE = 256
_random: deque[str] = deque()  # 32 hexadecimal digits each
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_random.clear)  # the parent uses them, too
_SCALARS = frozenset({str, int, float, bool, type(None), bytes})
YEAR_10000 = 253_402_300_800  # in Unix seconds; RFC 3339 has four digits for the year
_MAX_DEPTH = 66  # one more than is ever written (64 levels and the fields themselves)


@lru_cache(maxsize=16)  # events come many in a second
def _to_the_second(second: int) -> str:
    return datetime.fromtimestamp(second, timezone.utc).replace(tzinfo=None).isoformat()


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
        second = int(self.time)
        microseconds = round((self.time - second) * 1_000_000)
        if microseconds == 1_000_000 and second + 1 < YEAR_10000:
            second, microseconds = second + 1, 0
        microseconds = min(microseconds, 999_999)
        return f"{_to_the_second(second)}.{microseconds:06d}Z"

    def having(self, fields: Mapping[str, object]) -> Event:
        """The same event with other fields."""
        return Event(self.id, self.name, self.time, self.level, fields, self.key)

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
        found = _tagged(attributes)
        if found is None or not is_event_name(found[0]):
            return None
        return cls._build(*found, attributes)

    @classmethod
    def untagged(cls, record: logging.LogRecord) -> Event:
        """An event without a name, for a formatter that is given an ordinary record."""
        return cls._build("", vars(record), vars(record))

    @classmethod
    def _build(cls, name: str, source: Attributes, attributes: Attributes) -> Event:
        left_out = _OWN if source is attributes else BODYS_OWN
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


@lru_cache(maxsize=1024)
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
    found = _tagged(attributes)
    return found[0] if found else None


def snapshot(record: logging.LogRecord) -> Attributes:
    """The record's attributes, in a copy that later changes to the application's objects miss.

    Containers (dict, list, tuple, set, deque, bytearray) are copied, at every depth; scalars are
    kept. Other objects are kept as they are: nothing of theirs is called in the application's
    thread.

    Raises `TooLargeError` for a record with over `MAX_SNAPSHOT_ITEMS` container items.
    """
    copied = record.__dict__.copy()
    # No part of an event, and they would keep the application's frames and objects alive.
    copied["args"] = copied["exc_info"] = None
    # Extras come after the standard attributes, which need no look apart from the message; unless
    # a subclass of LogRecord or a filter has changed the order.
    extras = 0
    for name in reversed(copied):
        if name == _LAST_STANDARD:
            break
        # The look at str alone is there for its speed.
        if type(copied[name]) is not str and type(copied[name]) not in _SCALARS:
            return _deep(copied)
        extras += 1
    if len(copied) - extras != _STANDARD_COUNT or type(copied.get("msg")) is not str:
        return _deep(copied)
    return copied


def _deep(copied: Attributes) -> Attributes:
    copier = _Copier()
    for name, value in copied.items():
        if type(value) not in _SCALARS:
            copied[name] = copier.copy(value)
    return copied


class _Copier:
    """Copies containers, each once (so that cycles end), up to a number of items."""

    def __init__(self) -> None:
        self._items_left = MAX_SNAPSHOT_ITEMS
        # By id: the original (whose id must not be given to another object meanwhile), the copy,
        # and how deep it was made: what stands less deep is copied further down.
        self._copies: dict[int, tuple[object, object, int]] = {}
        self._cut = False  # something stood too deep to be copied

    def copy(self, value: Any, depth: int = 0) -> Any:
        kind = type(value)
        self._cut |= depth > _MAX_DEPTH
        if kind in _SCALARS or depth > _MAX_DEPTH:
            return value
        known = self._copies.get(id(value))
        if known is not None and (known[2] <= depth or not self._cut):
            return known[1]
        if issubclass(kind, dict):
            return self._dict(value, depth)
        if issubclass(kind, list | set | frozenset | deque):
            return self._items(value, depth)
        if kind is tuple or (issubclass(kind, tuple) and hasattr(kind, "_fields")):
            return self._tuple(value, depth)
        return bytes(value) if issubclass(kind, bytearray) else value

    def _dict(self, value: dict[Any, Any], depth: int) -> dict[Any, Any]:
        self._spend(len(value))
        copied: dict[Any, Any] = dict.copy(value)  # in one step: other threads may be writing
        self._copies[id(value)] = (value, copied, depth)
        for key, item in copied.items():
            if type(item) not in _SCALARS:
                copied[key] = self.copy(item, depth + 1)
        return copied

    def _items(self, value: Any, depth: int) -> Any:
        self._spend(len(value))
        if issubclass(type(value), set | frozenset):
            return set(value)  # its items are hashable, so they do not change
        copied = list.copy(value) if issubclass(type(value), list) else list(value)
        self._copies[id(value)] = (value, copied, depth)
        copied[:] = [self.copy(item, depth + 1) for item in copied]
        return copied

    def _tuple(self, value: tuple[Any, ...], depth: int) -> tuple[Any, ...]:
        self._spend(len(value))
        # A named tuple stays one, and its own constructor is not called.
        copied = tuple.__new__(type(value), [self.copy(item, depth + 1) for item in value])
        self._copies[id(value)] = (value, copied, depth)
        return copied

    def _spend(self, items: int) -> None:
        self._items_left -= items
        if self._items_left < 0:
            raise TooLargeError


def _tagged(attributes: Attributes) -> tuple[str, Attributes] | None:
    """The event name, and the mapping that carries it: the attributes or one of the nested dicts.

    By type(), here and in the snapshot: ``isinstance`` asks a foreign object for its ``__class__``.
    """
    name = attributes.get("event")
    if issubclass(type(name), str):
        # An Enum with a str mixin hashes by member, a plain str by text.
        return str.__str__(name), attributes
    for nested in (attributes.get("msg"), attributes.get("extra")):
        if issubclass(type(nested), dict):
            name = dict.get(nested, "event")  # type: ignore[arg-type]
            if issubclass(type(name), str) and is_event_name(str.__str__(name)):
                return str.__str__(name), nested  # type: ignore[return-value]
    return None


def _event_id(given: object) -> str:
    """The record's own id where it can stand in a header and in the signed text.

    One that cannot (the signed parts are joined by dots, WIRE.md) gives a UUID made of its text,
    so that the same event logged again still has the same id.
    """
    if given is None:
        return random_id()
    try:
        # An object without a text of its own has one with its place in memory.
        kind = type(given)
        nameless = kind.__str__ is object.__str__ and kind.__repr__ is object.__repr__
        text = "" if nameless else str(given)
        if not text:
            return random_id()
        if _ID.fullmatch(text):
            return text
        return str(uuid.uuid5(_ID_NAMESPACE, text.encode("utf-8", "replace").decode()))
    except Exception:  # an object whose str() raises still is an event
        return random_id()


def random_id() -> str:
    """A UUID of version 4 (RFC 9562 §5.4)."""
    try:
        digits = _random.pop()
    except IndexError:
        # Many at once: each call lets go of the interpreter, and busy threads then take turns.
        drawn = os.urandom(16 * _DRAWN_AT_ONCE).hex()
        _random.extend(drawn[at : at + 32] for at in range(32, len(drawn), 32))
        digits = drawn[:32]
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


def _event_time(created: object) -> float:
    try:
        moment = float(created) if isinstance(created, int | float) else -1.0
    except Exception:  # a number that no float holds, or that does strange things
        moment = -1.0
    # The time is not usable (NaN is not) where a record was made by hand.
    return moment if 0 <= moment < YEAR_10000 else time.time()


def _level(levelno: object) -> str:
    try:
        number = int(levelno) if isinstance(levelno, int) else logging.INFO
    except Exception:  # a number that does strange things
        number = logging.INFO
    for name, least in _LEVELS.items():
        if number >= least:
            return name
    return "debug"


def _key(sandbox_id: object) -> str | None:
    try:
        return str(sandbox_id) if isinstance(sandbox_id, str | int | uuid.UUID) else None
    except Exception:  # an int too long for a text, a subclass whose str() raises
        return None
