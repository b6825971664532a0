"""How anything at all becomes plain JSON, with the secrets left behind on the way.

``redaction`` says which names go and ``_values`` which texts; here is the walk through the values.
"""

from __future__ import annotations

import base64
import json
import math
from collections import UserString
from collections.abc import (
    Callable,
    ItemsView,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
    Set,
    ValuesView,
)
from dataclasses import fields
from datetime import date, time, timedelta
from enum import Enum
from types import NoneType, SimpleNamespace
from typing import Any, TypeAlias

from cubehook._models import dump, is_namedtuple
from cubehook._values import REDACTED, redact_text

JSONValue: TypeAlias = "dict[str, JSONValue] | list[JSONValue] | str | int | float | bool | None"

TRUNCATED = "[truncated: maximum nesting depth]"
UNPRINTABLE = "[unprintable]"
CIRCULAR = "[circular]"

MAX_DEPTH = 64
# Nodes visited in one call, 64 characters of text counting as one more. A list that holds one
# list twice, 60 levels deep, is 2^60 nodes; the largest payload (1 MiB) holds half a million.
MAX_NODES = 1_000_000
_REST_KEY = "[truncated]"  # stands for the rest of a mapping

_MAX_INT = 10**4300  # CPython's default limit for int -> str, which json.dumps runs into
_SURE_INT = 10**600  # no limit can be set below 640 digits
_ARGUMENTS_AS_TEXT: tuple[Any, ...] = (BaseException.__str__, KeyError.__str__)
_THE_END = (KeyboardInterrupt, SystemExit, GeneratorExit)
_SCALARS = frozenset({str, int, float, bool, NoneType})


class Walk:
    """One call: the containers it stands in, and how much it may still visit."""

    __slots__ = ("_left", "_name", "_path")

    def __init__(self, name: Callable[[str], str | None]) -> None:
        self._name = name
        self._left = MAX_NODES
        self._path: set[int] = set()

    def top(self, fields: Mapping[Any, object]) -> dict[str, JSONValue]:
        self._path.add(id(fields))
        try:
            return self._pairs(fields.items(), 1)
        except Exception:  # the mapping is the app's own code
            return {}

    def node(self, value: object, level: int) -> JSONValue:
        # One guard for all: every handler below may run the app's own code.
        try:
            handler = _EXACT.get(type(value)) or _handler(value)
            return handler(self, value, level)
        except _THE_END:
            raise
        except BaseException:  # a panic of code written in Rust, as pydantic's, is no Exception
            self._left -= 1
            return UNPRINTABLE

    # -- leaves

    def plain(self, value: Any, level: int) -> JSONValue:
        self._left -= 1
        return value  # type: ignore[no-any-return]

    def integer(self, value: int, level: int) -> JSONValue:
        self._left -= 1
        number = int.__int__(value)
        return number if is_printable(number) else UNPRINTABLE

    def real(self, value: float, level: int) -> JSONValue:
        self._left -= 1
        number = float.__float__(value)
        return number if math.isfinite(number) else None

    def string(self, value: str, level: int) -> JSONValue:
        text = redact_text(str.__str__(value))
        self._left -= 1 + len(text) // 64
        return text

    def binary(self, value: bytes | bytearray | memoryview, level: int) -> JSONValue:
        """UTF-8 where it is, else Base64; neither that nor UTF-16 lets a secret slip by."""
        data = bytes(value)
        visible = data.replace(b"\0", b"").decode("latin-1")
        try:
            text = data.decode()
            hidden = b"\0" in data and redact_text(visible) != visible
        except UnicodeDecodeError:
            text = base64.b64encode(data).decode("ascii")
            hidden = redact_text(visible) != visible
        return self.string(REDACTED if hidden else text, level)

    def secret(self, value: object, level: int) -> JSONValue:
        return self.string(REDACTED, level)

    def enum(self, value: Enum, level: int) -> JSONValue:
        return self.node(value.value, level)

    def moment(self, value: date | time, level: int) -> JSONValue:
        return self.string(value.isoformat(), level)

    def duration(self, value: timedelta, level: int) -> JSONValue:
        return self.real(value.total_seconds(), level)

    def exception(self, value: BaseException, level: int) -> JSONValue:
        name, message = type(value).__name__, self._message(value, level)
        return self.string(f"{name}: {message}" if message else name, level)

    def _message(self, error: Any, level: int) -> str:
        kind = type(error)
        if callable(getattr(kind, "errors", None)):
            # pydantic's and FastAPI's text quotes the values that it complains about.
            return "; ".join(
                f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()
            )
        own_text = kind.__str__ not in _ARGUMENTS_AS_TEXT
        if own_text or all(type(item) in _SCALARS for item in error.args):
            return str(error)
        # The text would be the repr of what has to be looked through.
        return _text(self.nested(Walk.arguments, error, level))

    def arguments(self, error: BaseException, level: int) -> JSONValue:
        items = [self.node(item, level) for item in error.args]
        return items[0] if len(items) == 1 else items

    def iterator(self, value: object, level: int) -> JSONValue:
        return self.string(f"[{type(value).__name__}]", level)  # consuming it is the app's right

    def other(self, value: object, level: int) -> JSONValue:
        return self.string(str(value), level)

    # -- containers

    def nested(self, build: _Handler, value: object, level: int) -> JSONValue:
        if level > MAX_DEPTH:
            return self.plain(TRUNCATED, level)
        if id(value) in self._path:
            return self.plain(CIRCULAR, level)
        self._left -= 1
        self._path.add(id(value))
        try:
            return build(self, value, level + 1)
        finally:
            self._path.discard(id(value))

    def mapping(self, value: Mapping[Any, object], level: int) -> JSONValue:
        return self._pairs(value.items(), level)

    def pairs(self, value: Iterable[tuple[object, object]], level: int) -> JSONValue:
        return self._pairs(value, level)

    def sequence(self, value: Iterable[object], level: int) -> JSONValue:
        items, complete = self._items(value, level)
        return items if complete else [*items, TRUNCATED]

    def unordered(self, value: Iterable[object], level: int) -> JSONValue:
        items, complete = self._items(value, level)
        items.sort(key=_json)
        return items if complete else [*items, TRUNCATED]

    def _items(self, values: Iterable[object], level: int) -> tuple[list[JSONValue], bool]:
        items: list[JSONValue] = []
        for value in values:
            if self._left <= 0:
                return items, False
            items.append(self.node(value, level))
        return items, True

    def _pairs(self, pairs: Iterable[tuple[object, object]], level: int) -> dict[str, JSONValue]:
        members: dict[str, JSONValue] = {}
        for key, value in pairs:
            if self._left <= 0:
                members[_REST_KEY] = TRUNCATED
                break
            name = self._name(key) if type(key) is str else self._key(key, level)
            if name is None:
                self._left -= 1  # the endless mapping of one sensitive name
            else:
                self._left -= len(name) // 64
                members[name] = self.node(value, level)
        return members

    # -- keys

    def _key(self, key: object, level: int) -> str | None:
        """The name that a key which is no plain string makes; None when it is sensitive.

        One is enough of the ways in which the key may be read.
        """
        names = [self._name(text) for text in self._readings(key, level)]
        return None if None in names else names[0]

    def _readings(self, key: Any, level: int) -> tuple[str, ...]:
        """How the key reads: first as JSON spells it, then otherwise."""
        try:
            if isinstance(key, Enum):
                return (*self._readings(key.value, level), str(key.name))
            if issubclass(type(key), str):
                return (str.__str__(key),)
            text = _text(self.node(key, level))
            if isinstance(key, bytes | bytearray | memoryview):
                return text, bytes(key).decode(errors="replace")
            return (text,)
        except Exception:
            return (UNPRINTABLE,)

    # -- objects with named parts

    def dataclass(self, value: Any, level: int) -> JSONValue:
        return self._attributes(value, (field.name for field in fields(value)), level)

    def attrs(self, value: Any, level: int) -> JSONValue:
        names = (attribute.name for attribute in value.__attrs_attrs__)
        return self._attributes(value, names, level)

    def namedtuple(self, value: Any, level: int) -> JSONValue:
        return self._pairs(zip(value._fields, tuple.__iter__(value), strict=False), level)

    def namespace(self, value: SimpleNamespace, level: int) -> JSONValue:
        return self._pairs(vars(value).items(), level)

    def pydantic(self, value: Any, level: int) -> JSONValue:
        return self.node(dump(value), level - 1)  # the model itself was the container

    def _attributes(self, value: object, names: Iterable[str], level: int) -> JSONValue:
        return self._pairs(((name, _attribute(value, name)) for name in names), level)


_Handler: TypeAlias = "Callable[[Walk, Any, int], JSONValue]"


def _container(build: _Handler) -> _Handler:
    return lambda walk, value, level: walk.nested(build, value, level)


def _is(*kinds: type) -> Callable[[object], bool]:
    return lambda value: isinstance(value, kinds)


def _is_truly(*kinds: type) -> Callable[[object], bool]:
    # Not what a lazy proxy claims to be: its methods are not those of a str.
    return lambda value: issubclass(type(value), kinds)


def _has(*marks: str) -> Callable[[object], bool]:
    # On the class: a mock that answers to every name is none of these.
    return lambda value: all(hasattr(value.__class__, mark) for mark in marks)


_mapping = _container(Walk.mapping)
_sequence = _container(Walk.sequence)
_unordered = _container(Walk.unordered)

# The common kinds by their exact type; everything else by the first line that is true of it.
_EXACT: dict[type, _Handler] = {
    str: Walk.string,
    int: Walk.integer,
    float: Walk.real,
    bool: Walk.plain,
    NoneType: Walk.plain,
    dict: _mapping,
    list: _sequence,
    tuple: _sequence,
}
_KINDS: tuple[tuple[Callable[[object], bool], _Handler], ...] = (
    (_has("get_secret_value"), Walk.secret),
    (_is(Enum), Walk.enum),
    (_is_truly(str), Walk.string),
    (_is_truly(int), Walk.integer),
    (_is_truly(float), Walk.real),
    (_is_truly(bytes, bytearray, memoryview), Walk.binary),
    (_is(date, time), Walk.moment),
    (_is(timedelta), Walk.duration),
    (_has("__dataclass_fields__"), _container(Walk.dataclass)),
    (_has("__attrs_attrs__"), _container(Walk.attrs)),
    (_has("model_fields", "model_dump"), _container(Walk.pydantic)),
    (_has("__fields__", "dict"), _container(Walk.pydantic)),
    (_is(SimpleNamespace), _container(Walk.namespace)),
    (_is(BaseException), Walk.exception),
    (_is(Mapping), _mapping),
    (_is(ItemsView), _container(Walk.pairs)),
    (_is(Set), _unordered),
    (_is(str, range, UserString), Walk.other),  # sequences that read better as text
    (is_namedtuple, _container(Walk.namedtuple)),
    (_is(Sequence, ValuesView), _sequence),
    (_is(Iterator), Walk.iterator),
)


def _handler(value: object) -> _Handler:
    return next((handler for is_kind, handler in _KINDS if is_kind(value)), Walk.other)


def is_printable(number: int) -> bool:
    if -_SURE_INT < number < _SURE_INT:
        return True
    if not -_MAX_INT < number < _MAX_INT:
        return False
    try:  # the limit may have been set lower
        return bool(repr(number))
    except ValueError:
        return False


def _attribute(value: object, name: str) -> object:
    try:
        return getattr(value, name)
    except Exception:  # a slot never set, a property that raises
        return UNPRINTABLE


def _json(value: JSONValue) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def _text(value: JSONValue) -> str:
    return value if isinstance(value, str) else _json(value)
