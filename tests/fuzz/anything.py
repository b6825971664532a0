"""Strategies for values of any type and any nesting, those that do their worst included."""

from __future__ import annotations

import json
from collections import ChainMap, OrderedDict, UserDict, UserList, UserString, deque, namedtuple
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from enum import Enum, Flag
from ipaddress import ip_address
from pathlib import PurePosixPath
from types import MappingProxyType, SimpleNamespace
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, SecretBytes, SecretStr

# A busy machine is no failure.
RELAXED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

SECRET = "zq9XplantedX7secret"
"""What must never be told, with no shape of its own."""


# --- Objects that raise ---------------------------------------------------------------------

# What reading an object may call; `ClassRaises` is apart, as Hypothesis itself trips over it.
METHODS = (
    *("__str__", "__repr__", "__iter__", "__len__", "__getattr__"),
    *("__eq__", "__bool__", "__format__", "__int__", "__float__", "__index__", "__contains__"),
    *("__getitem__", "__next__", "__lt__", "__gt__", "__le__", "__ge__"),
    *("keys", "items", "values", "get", "isoformat", "total_seconds", "startswith", "encode"),
    *("model_dump", "dict", "errors", "name", "value", "_fields", "__fields__", "model_fields"),
)
ERRORS = (ValueError, KeyError, AttributeError, StopIteration, RecursionError, UnicodeError)
BASES: tuple[tuple[type, Any], ...] = (
    (object, ()),
    (str, ("text",)),
    (int, (7,)),
    (float, (0.5,)),
    (bytes, (b"bytes",)),
    (bytearray, (b"bytes",)),
    (list, ([1, 2],)),
    (tuple, ((1, 2),)),
    (dict, ({"a": 1},)),
    (set, ({1},)),
    (frozenset, ({1},)),
    (deque, ([1],)),
    (UserDict, ({"a": 1},)),
    (datetime, (2026, 7, 1)),
    (Exception, ("why",)),
)


def hostile(base: tuple[type, Any], methods: set[str], error: type[Exception]) -> Any:
    """Of a subclass of ``base``; its ``methods`` raise ``error``, which tells a secret."""

    def fail(*args: object, **kw: object) -> Any:
        raise error(SECRET)

    names: dict[str, Any] = dict.fromkeys(methods, fail)
    if "__eq__" in methods:
        names["__hash__"] = lambda self: 1
    kind, arguments = base
    made = type("Hostile", (kind,), {})
    one = made(*arguments)
    for name, method in names.items():  # now that it is made
        setattr(made, name, method)
    return one


hostiles = st.builds(
    hostile,
    st.sampled_from(BASES),
    st.sets(st.sampled_from(METHODS), min_size=1, max_size=4),
    st.sampled_from(ERRORS),
)


class ClassRaises:
    """``isinstance`` raises."""

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        raise RuntimeError(SECRET)


class AnswersAll:
    """It has every attribute, and none of them is any good."""

    def __getattr__(self, name: str) -> Any:
        return AnswersAll()


class Endless:
    """An iterator without an end."""

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        return 1


# --- Scalars --------------------------------------------------------------------------------


class Colour(Enum):
    RED = "red"
    NESTED = ("a", {"b": 1})


class Bits(Flag):
    A = 1
    B = 2


class Broken:
    """A value that raises where it is read."""

    def __str__(self) -> str:
        raise ValueError(SECRET)

    __repr__ = __str__


# Lone surrogates, and halves of pairs side by side, among all the rest.
texts = st.text(max_size=20) | st.text(st.characters(exclude_categories=()), max_size=8)
ODD: tuple[Callable[[], Any], ...] = (
    *(Broken, AnswersAll, Endless, KeyError, object),
    *(lambda: Colour.RED, lambda: Colour.NESTED, lambda: Bits.A | Bits.B),
    *(lambda: SecretStr(SECRET), lambda: SecretBytes(SECRET.encode()), lambda: ValueError("why")),
    *(lambda: ip_address("::1"), lambda: PurePosixPath("/a"), lambda: range(3), lambda: iter([])),
    *(lambda: memoryview(b"\xff\0"), lambda: type("Text", (str,), {})("id")),
    *(lambda: len, lambda: date, lambda: ...),
)
numbers = (
    st.integers()
    | st.integers(-5, 5).map(lambda digits: 10 ** (4300 + digits))
    | st.floats()
    | st.decimals().filter(lambda number: not number.is_snan())  # has no hash
    | st.fractions()
    | st.complex_numbers()
)
hashable = (
    st.none()
    | st.booleans()
    | numbers
    | texts
    | st.binary(max_size=12)
    | st.dates()
    | st.times()
    | st.datetimes()
    | st.timedeltas()
    | st.uuids()
    | st.sampled_from(ODD).map(lambda make: make())  # not made yet: Hypothesis prints strategies
)
scalars = (
    hashable
    | hostiles
    | st.just(Decimal("sNaN"))
    | st.binary(max_size=8).map(bytearray)
    | texts.map(UserString)
)


# --- Containers -----------------------------------------------------------------------------

Point = namedtuple("Point", "x y")


@dataclass
class Record:
    """A dataclass, one field of it never set."""

    x: Any = None
    y: Any = None
    never_set: int = field(init=False)


@dataclass(frozen=True)
class Frozen:
    """A dataclass that can be a key."""

    x: Any = None


class Model(BaseModel):
    """A model of pydantic's that takes anything."""

    model_config = ConfigDict(extra="allow", arbitrary_types_allowed=True)

    x: Any = None


class Attributes:
    """As the ``attrs`` package makes classes."""

    __attrs_attrs__ = (SimpleNamespace(name="x"), SimpleNamespace(name="missing"))

    def __init__(self, x: Any) -> None:
        self.x = x


def holding_itself(items: list[Any]) -> list[Any]:
    """The list, as an item of its own."""
    items.append({"again": items})
    return items


keys = hashable | st.tuples(hashable, texts) | hashable.map(Frozen) | texts.map(UserString)


def containers(
    inner: st.SearchStrategy[Any], keys: st.SearchStrategy[Any] = keys
) -> st.SearchStrategy[Any]:
    """Everything that holds values, with ``inner`` inside."""
    lists = st.lists(inner, max_size=4)
    mappings = st.dictionaries(keys.filter(_has_hash), inner, max_size=4)
    named = st.dictionaries(st.text("abcxyz_", min_size=1, max_size=4), inner, max_size=3)
    return (
        lists
        | lists.map(tuple)
        | lists.map(deque)
        | lists.map(UserList)
        | lists.map(lambda items: ValueError(*items))
        | lists.map(holding_itself)
        | mappings
        | mappings.map(OrderedDict)
        | mappings.map(UserDict)
        | mappings.map(MappingProxyType)
        | mappings.map(lambda one: ChainMap({}, one))
        | mappings.map(dict.items)
        | mappings.map(dict.values)
        | named.map(lambda one: SimpleNamespace(**one))
        | st.builds(Point, inner, inner)
        | st.builds(Record, inner, inner)
        | st.builds(Frozen, inner)
        | st.builds(Attributes, inner)
        | inner.map(lambda value: Model.model_construct(x=value, extra=1))
        | st.sets(hashable.filter(_has_hash), max_size=4)
        | st.frozensets(hashable.filter(_has_hash), max_size=4)
    )


def _has_hash(key: object) -> bool:
    try:
        return hash(key) is not None
    except TypeError:  # what it holds has none
        return False


anything = st.recursive(scalars, containers, max_leaves=10)


# --- What comes out -------------------------------------------------------------------------


def strict(text: str) -> Any:
    """The JSON value in ``text``; NaN, infinities and repeated names are none."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        assert len(names) == len(set(names)), names
        return dict(pairs)

    return json.loads(text, parse_constant=refuse, object_pairs_hook=once)


def wire(value: object) -> str:
    """What a receiver reads, by way of the strictest encoder."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode().decode()
