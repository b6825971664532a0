"""Events: what of a log record becomes one, and what the snapshot keeps from changing."""

from __future__ import annotations

import dataclasses
import datetime
import logging
import math
import os
import re
import string
import sys
import time
import uuid
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable, Mapping
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Any

import loguru
import pytest
import structlog
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cubehook import Event, event
from cubehook.event import TooLargeError, is_event_name, snapshot, tag

# A busy machine is no failure.
RELAXED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

PLANTED = "pl4nted-V4lue"

Pair = namedtuple("Pair", "left right")


class Name(str, Enum):
    CREATED = "sandbox.created"
    PROSE = "all is well"


class Shouting(str):
    """A string that says something else when asked for its text."""

    __slots__ = ()

    def __str__(self) -> str:
        return "SHOUT"


class EarlyRecord(logging.LogRecord):
    """A record class that sets an attribute before those that every record has."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.early = ["before"]
        super().__init__(*args, **kwargs)


def record(msg: object = "a message", **attributes: Any) -> logging.LogRecord:
    """A record with these attributes beside (or in place of) the standard ones."""
    return logging.makeLogRecord({"msg": msg, **attributes})


def logged(extra: dict[str, Any], level: int = logging.INFO) -> logging.LogRecord:
    """A record as `Logger.info(…, extra=…)` makes it."""
    return logging.getLogger("app").makeRecord(
        "app", level, "app.py", 1, "hello %s", ("world",), None, "work", extra
    )


def made(msg: object = "a message", **attributes: Any) -> Event:
    """The event of such a record, which must be one."""
    found = Event.from_record(record(msg, **attributes))
    assert found is not None
    return found


# An object whose every special method raises, apart from those by which it is made and looked up.
_HANDS_OFF = {"__new__", "__init__", "__init_subclass__", "__class__", "__getattribute__"}
_DUNDERS = {
    *dir(object),
    *dir(int),
    *dir(str),
    *dir(dict),
    *("__await__", "__aiter__", "__bytes__", "__call__", "__copy__", "__deepcopy__"),
    *("__enter__", "__exit__", "__fspath__", "__getattr__", "__missing__", "__next__", "__set__"),
}


def _touched(*args: Any, **kwargs: Any) -> Any:
    raise AssertionError("a foreign object was touched")


Untouchable: Any = type(
    "Untouchable",
    (),
    {
        name: _touched
        for name in _DUNDERS
        if name.startswith("__") and name not in _HANDS_OFF and callable(getattr(object, name, len))
    },
)


class Proxy:
    """Stands for another object that it would have to fetch, as Django's and werkzeug's do."""

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        raise RuntimeError("a lazy object was made to fetch what it stands for")


class Guarded:
    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError("a foreign object was asked for an attribute")


class TestName:
    @pytest.mark.parametrize(
        "name",
        [
            "sandbox.created",
            "a",
            "0",
            "_",
            "-",
            "a-b_c.D9",
            "a.b.c.d",
            "x" * 128,
            "sandbox.timeout.updated",
        ],
    )
    def test_legal(self, name: str) -> None:
        assert is_event_name(name)
        assert made(event=name).name == name

    @pytest.mark.parametrize(
        "name",
        [
            pytest.param("", id="empty"),
            pytest.param("x" * 129, id="too long"),
            pytest.param("sandbox.created\n", id="LF at the end"),
            pytest.param("\nsandbox.created", id="LF first"),
            pytest.param("sandbox.created\r\nX-Evil: 1", id="CR LF"),
            pytest.param("sandbox.created\r", id="CR"),
            pytest.param("sandbox created", id="space"),
            pytest.param(".sandbox", id="dot first"),
            pytest.param("sandbox.", id="dot last"),
            pytest.param("sandbox..created", id="two dots"),
            pytest.param(".", id="dot alone"),
            pytest.param("*", id="star"),
            pytest.param("sandbox.*", id="pattern"),
            pytest.param("a/b", id="slash"),
            pytest.param("a:b", id="colon"),
            pytest.param("a,b", id="comma"),
            pytest.param("a\0b", id="NUL"),
            pytest.param("a\x7f", id="DEL"),
            pytest.param("caf\xe9", id="latin-1"),
            pytest.param("\u0441reated", id="cyrillic"),
            pytest.param("a\u0661", id="arabic digit"),
            pytest.param("\u6c99\u76d2", id="CJK"),
            pytest.param("a\ud800", id="lone surrogate"),
            pytest.param("a\u2028b", id="line separator"),
        ],
    )
    def test_illegal(self, name: str) -> None:
        assert not is_event_name(name)
        assert Event.from_record(record(event=name)) is None
        # The attribute is a tag all the same: an illegal name is counted, not passed over.
        assert tag({"event": name, "msg": ""}) == name

    @RELAXED
    @given(st.text(string.ascii_letters[:4] + "09_-..\n \xe9", max_size=9) | st.text())
    @example("x" * 129)
    def test_is_dotted_words_of_ascii(self, name: str) -> None:
        allowed = set(string.ascii_letters + string.digits + "_-")
        words = name.split(".")
        legal = len(name) <= 128 and all(word and set(word) <= allowed for word in words)
        assert is_event_name(name) is legal

    @pytest.mark.parametrize(
        "attributes",
        [
            {"event": Name.CREATED},
            {"msg": {"event": Name.CREATED}},
            {"extra": {"event": Name.CREATED}},
        ],
        ids=["attribute", "message", "extra"],
    )
    def test_of_a_str_enum_is_its_text(self, attributes: dict[str, Any]) -> None:
        name = made(**attributes).name
        assert name == "sandbox.created"
        assert type(name) is str

    def test_of_a_str_subclass_is_the_text_it_holds(self) -> None:
        name = made(event=Shouting("sandbox.created")).name
        assert name == "sandbox.created"
        assert type(name) is str

    def test_prose_in_a_str_enum_is_no_event(self) -> None:
        assert Event.from_record(record({"event": Name.PROSE})) is None


class TestTag:
    @pytest.mark.parametrize(
        "attributes",
        [
            pytest.param({}, id="nothing"),
            pytest.param({"event": None}, id="None"),
            pytest.param({"event": 7}, id="a number"),
            pytest.param({"event": b"sandbox.created"}, id="bytes"),
            pytest.param({"event": ["sandbox.created"]}, id="a list"),
            pytest.param({"msg": {"event": 7}}, id="a number in the message"),
            pytest.param({"msg": {"Event": "a.b"}}, id="another key in the message"),
            pytest.param({"msg": ["event", "a.b"]}, id="a list as the message"),
            pytest.param({"msg": "event=a.b"}, id="a text as the message"),
            pytest.param({"extra": "a.b"}, id="a text as the extra"),
            pytest.param({"extra": {"event": None}}, id="None in the extra"),
            pytest.param({"msg": {"event": "user logged in"}}, id="prose in the message"),
            pytest.param({"extra": {"event": "user logged in"}}, id="prose in the extra"),
            pytest.param({"msg": {"event": ""}}, id="empty in the message"),
            pytest.param({"extra": {"event": "x" * 129}}, id="too long in the extra"),
        ],
    )
    def test_is_not_there(self, attributes: dict[str, Any]) -> None:
        assert tag(vars(record(**attributes))) is None
        assert Event.from_record(record(**attributes)) is None

    @pytest.mark.parametrize(
        ("attributes", "name", "fields"),
        [
            pytest.param(
                {"event": "a.b", "msg": {"event": "c.d", "x": 1}, "extra": {"event": "e.f"}},
                "a.b",
                {"extra": {"event": "e.f"}},
                id="the attribute first",
            ),
            pytest.param(
                {"msg": {"event": "c.d", "x": 1}, "extra": {"event": "e.f", "x": 2}},
                "c.d",
                {"x": 1},
                id="the message before the extra",
            ),
            pytest.param(
                {"event": 5, "msg": {"event": "c.d", "x": 1}},
                "c.d",
                {"x": 1},
                id="an attribute that is no text is passed over",
            ),
            pytest.param(
                {"msg": {"event": 5}, "extra": {"event": "e.f", "x": 2}},
                "e.f",
                {"x": 2},
                id="a message without a text",
            ),
            pytest.param(
                {"msg": {"event": "some prose", "x": 1}, "extra": {"event": "e.f", "x": 2}},
                "e.f",
                {"x": 2},
                id="a message with prose",
            ),
        ],
    )
    def test_place_gives_the_name_and_the_fields(
        self, attributes: dict[str, Any], name: str, fields: dict[str, Any]
    ) -> None:
        found = made(**attributes)
        assert found.name == name
        assert found.fields == fields

    @pytest.mark.parametrize("foreign", [Proxy, Guarded, Untouchable])
    @pytest.mark.parametrize("place", ["event", "msg", "extra"])
    def test_of_a_foreign_object_is_none_and_calls_nothing(
        self, place: str, foreign: Callable[[], Any]
    ) -> None:
        assert tag({"msg": "", place: foreign()}) is None

    def test_structlog(self) -> None:
        rendered = structlog.stdlib.ProcessorFormatter.wrap_for_formatter(
            logging.getLogger("app"),
            "info",
            {"event": "sandbox.created", "sandbox_id": "sb-1", "_record": "x", "level": "info"},
        )
        (message,), options = rendered
        found = Event.from_record(record(message, **options["extra"]))
        assert found is not None
        assert (found.name, found.key) == ("sandbox.created", "sb-1")
        assert found.fields == {"sandbox_id": "sb-1"}

    def test_loguru(self) -> None:
        records: list[logging.LogRecord] = []

        class Keeping(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                records.append(record)

        log = loguru.logger.bind(event="sandbox.created", sandbox_id="sb-1")
        number = loguru.logger.add(Keeping(), filter=lambda item: "sandbox_id" in item["extra"])
        try:
            log.warning("created")
        finally:
            loguru.logger.remove(number)
        found = Event.from_record(records[0])
        assert found is not None
        assert (found.name, found.level, found.key) == ("sandbox.created", "warn", "sb-1")
        assert found.fields == {"sandbox_id": "sb-1"}


class TestLevelAndTime:
    @pytest.mark.parametrize(
        ("number", "level"),
        [
            (0, "debug"),
            (5, "debug"),
            (10, "debug"),
            (19, "debug"),
            (20, "info"),
            (25, "info"),
            (29, "info"),
            (30, "warn"),
            (39, "warn"),
            (40, "error"),
            (50, "error"),
            (99, "error"),
            (-1, "debug"),
            ("INFO", "info"),
            (None, "info"),
            pytest.param(type("Odd", (int,), {"__int__": _touched})(40), "info", id="raises"),
        ],
    )
    def test_level(self, number: object, level: str) -> None:
        assert made(event="a.b", levelno=number).level == level

    @pytest.mark.parametrize(
        ("created", "text"),
        [
            (0, "1970-01-01T00:00:00.000000Z"),
            (1_710_000_000, "2024-03-09T16:00:00.000000Z"),
            (1_710_000_000.5, "2024-03-09T16:00:00.500000Z"),
            (1_782_892_800.123456, "2026-07-01T08:00:00.123456Z"),
            (1_710_000_000.000001, "2024-03-09T16:00:00.000001Z"),
            (253_402_300_799, "9999-12-31T23:59:59.000000Z"),
        ],
    )
    def test_timestamp(self, created: float, text: str) -> None:
        assert made(event="a.b", created=created).timestamp == text

    @RELAXED
    @given(st.floats(0, 253_402_300_800, exclude_max=True))
    def test_timestamp_is_rfc3339_in_utc(self, created: float) -> None:
        text = made(event="a.b", created=created).timestamp
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", text, re.ASCII)
        moment = datetime.datetime.fromisoformat(text[:-1] + "+00:00")
        assert abs(moment.timestamp() - created) <= 1e-4

    @pytest.mark.parametrize(
        "created",
        [
            *(math.nan, math.inf, -math.inf, -1, -0.5, 253_402_300_800, 1e300, "1", None),
            pytest.param(10**400, id="no float"),
            pytest.param(type("Odd", (float,), {"__float__": _touched})(5.0), id="raises"),
        ],
    )
    def test_unusable_time_is_now(self, created: object) -> None:
        before = time.time()
        found = made(event="a.b", created=created)
        assert before <= found.time <= time.time()


class TestId:
    def test_absent_is_a_random_uuid(self) -> None:
        ids = [made(event="a.b", **extra).id for extra in ({}, {"event_id": None})]
        ids += [made(event="a.b", event_id="").id, made({"event": "a.b"}).id]
        assert [uuid.UUID(one).version for one in ids] == [4] * 4
        assert len(set(ids)) == 4
        assert all(str(uuid.UUID(one)) == one for one in ids)

    @pytest.mark.parametrize(
        "given_id",
        [
            "550e8400-e29b-41d4-a716-446655440000",
            "a",
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            "urn:x~y-z_0",
            "x" * 128,
        ],
    )
    def test_own_is_kept(self, given_id: str) -> None:
        assert made(event="a.b", event_id=given_id).id == given_id
        assert made({"event": "a.b", "event_id": given_id}).id == given_id
        assert made(extra={"event": "a.b", "event_id": given_id}).id == given_id

    @pytest.mark.parametrize(
        ("own", "text"),
        [
            pytest.param(uuid.UUID(int=7), str(uuid.UUID(int=7)), id="UUID"),
            pytest.param(1234, "1234", id="number"),
            pytest.param(0, "0", id="zero"),
        ],
    )
    def test_own_that_is_no_text_is_its_text(self, own: object, text: str) -> None:
        assert made(event="a.b", event_id=own).id == text

    @pytest.mark.parametrize(
        "given_id",
        [
            pytest.param("a.b", id="dot"),  # the parts of the signed text are joined by dots
            pytest.param("a\r\nX-Evil: 1", id="CR LF"),
            pytest.param("a\n", id="LF at the end"),
            pytest.param("a b", id="space"),
            pytest.param("a,b", id="comma"),
            pytest.param("x" * 129, id="too long"),
            pytest.param("\xe9", id="latin-1"),
            pytest.param("\u0661", id="arabic digit"),
            pytest.param("\ud800", id="lone surrogate"),
            pytest.param(("a", 1), id="tuple"),
        ],
    )
    def test_own_that_no_header_takes_is_a_stable_uuid(self, given_id: object) -> None:
        first, again = (made(event="a.b", event_id=given_id).id for _ in range(2))
        assert first == again
        assert uuid.UUID(first).version == 5
        assert made(event="a.b", event_id=f"{given_id}.").id != first

    @given(st.text() | st.integers() | st.binary() | st.floats())
    @settings(RELAXED, max_examples=200)
    def test_is_always_safe_in_a_header_and_in_the_signed_text(self, given_id: object) -> None:
        assert re.fullmatch(r"[A-Za-z0-9_:~-]{1,128}", made(event="a.b", event_id=given_id).id)

    @pytest.mark.parametrize("methods", [{"__str__": _touched}, {}], ids=["raises", "plain object"])
    def test_of_an_object_without_a_text_is_random(self, methods: dict[str, Any]) -> None:
        # The text of a plain object is its place in memory, which another one gets later.
        thing = type("Thing", (), methods)()
        assert uuid.UUID(made(event="a.b", event_id=thing).id).version == 4

    def test_of_an_object_that_cannot_be_compared(self) -> None:
        # As numpy's arrays: `== ""` gives no truth.
        hostile = type(
            "Hostile", (), {"__eq__": _touched, "__hash__": None, "__str__": lambda self: "the-id"}
        )()
        assert made(event="a.b", event_id=hostile).id == "the-id"


class TestFields:
    def test_are_the_extras(self) -> None:
        extra = {"event": "sandbox.created", "sandbox_id": "sb-1", "template_id": None, "n": [1]}
        found = Event.from_record(logged(extra))
        assert found is not None
        assert found.fields == {"sandbox_id": "sb-1", "template_id": None, "n": [1]}

    def test_are_none_for_a_bare_event(self) -> None:
        assert made(event="a.b").fields == {}

    @pytest.mark.parametrize("place", ["attribute", "message", "extra"])
    def test_reserved_extras_never_overwrite(self, place: str) -> None:
        own = {"id": "mine", "timestamp": "mine", "level": "mine", "event_id": "the-id", "x": 1}
        extra = {"event": "a.b", **own}
        found = {
            "attribute": lambda: made(created=5, levelno=30, **extra),
            "message": lambda: made(extra, created=5, levelno=30),
            "extra": lambda: made(created=5, levelno=30, extra=extra),
        }[place]()
        assert found.fields == {"x": 1}
        assert (found.id, found.time, found.level, found.name) == ("the-id", 5.0, "warn", "a.b")

    def test_leave_out_what_every_record_has(self) -> None:
        found = made(event="a.b", message="formatted", asctime="now", taskName="Task-1", x=1)
        assert found.fields == {"x": 1}
        failing = record(event="a.b")
        try:
            raise ValueError(PLANTED)
        except ValueError:
            failing.exc_info = sys.exc_info()
        found_failing = Event.from_record(failing)
        assert found_failing is not None
        assert found_failing.fields == {}

    @pytest.mark.parametrize("name", ["_private", "__x", "_"])
    def test_leave_out_names_with_an_underscore_first(self, name: str) -> None:
        assert made(event="a.b", **{name: 1, "x_": 2}).fields == {"x_": 2}
        assert made({"event": "a.b", name: 1, "x_": 2}).fields == {"x_": 2}
        assert made(extra={"event": "a.b", name: 1, "x_": 2}).fields == {"x_": 2}

    @pytest.mark.parametrize("name", ["name", "module", "process", "args"])
    def test_of_a_nested_dict_may_have_names_that_records_use(self, name: str) -> None:
        # In a dict of the application's these are no attributes of the record.
        assert made({"event": "a.b", name: "mine"}).fields == {name: "mine"}
        assert made(extra={"event": "a.b", name: "mine"}).fields == {name: "mine"}

    def test_of_a_nested_dict_may_have_any_key(self) -> None:
        found: Mapping[Any, object] = made({"event": "a.b", 5: 1, None: 2}).fields
        assert found == {5: 1, None: 2}

    @pytest.mark.parametrize(
        ("sandbox_id", "key"),
        [
            pytest.param("sb-1", "sb-1", id="text"),
            pytest.param("", "", id="empty"),
            pytest.param(7, "7", id="number"),
            pytest.param(None, None, id="None"),
            # Without a key its events would have no order.
            pytest.param(uuid.UUID(int=7), str(uuid.UUID(int=7)), id="UUID"),
            pytest.param(type("Mute", (), {"__str__": _touched})(), None, id="without a text"),
            pytest.param(10**5000, None, id="too long for a text"),
            pytest.param(type("Text", (str,), {"__str__": _touched})(), None, id="raises"),
        ],
    )
    def test_key_is_the_sandbox(self, sandbox_id: object, key: str | None) -> None:
        assert made(event="a.b", sandbox_id=sandbox_id).key == key
        assert made({"event": "a.b", "sandbox_id": sandbox_id}).key == key
        assert made(extra={"event": "a.b", "sandbox_id": sandbox_id}).key == key

    def test_key_is_none_without_a_sandbox(self) -> None:
        assert made(event="a.b", snapshot_id="s").key is None


class TestEvent:
    def test_is_frozen(self) -> None:
        with pytest.raises(dataclasses.FrozenInstanceError):
            made(event="a.b").name = "c.d"  # type: ignore[misc]

    def test_repr_shows_no_field(self) -> None:
        found = made(event="a.b", event_id="the-id", sandbox_id=PLANTED, other={PLANTED: PLANTED})
        assert repr(found) == "Event(id='the-id', name='a.b')"
        assert str(found) == repr(found)

    def test_to_record_is_one_that_any_formatter_reads(self) -> None:
        found = made(event="a.b", event_id="the-id", created=5.0, levelno=30, x=1, sandbox_id="s")
        back = found.to_record()
        assert logging.Formatter("%(name)s %(levelname)s %(message)s %(x)s").format(back) == (
            "cubehook.event WARNING a.b 1"
        )
        assert Event.from_record(back) == found

    def test_to_record_is_not_overwritten_by_fields(self) -> None:
        fields = {"msg": "x", "event": "x", "created": "x", "levelno": "x", "levelname": "x"}
        back = Event("the-id", "a.b", 5.0, "error", fields | {"event_id": "x"}).to_record()
        assert (back.msg, back.created, back.levelno) == ("a.b", 5.0, logging.ERROR)
        assert (back.levelname, vars(back)["event_id"]) == ("ERROR", "the-id")

    def test_untagged_has_no_name(self) -> None:
        found = Event.untagged(record("hello", created=5, levelno=40, x=1))
        assert (found.name, found.time, found.level, found.fields) == ("", 5.0, "error", {"x": 1})
        assert uuid.UUID(found.id).version == 4


def _clear(value: Any) -> None:
    """Spoil every container in ``value`` that can change."""
    if isinstance(value, dict):
        for item in list(value.values()):
            _clear(item)
        value.clear()
        value["spoilt"] = True
    elif isinstance(value, list | deque):
        for item in list(value):
            _clear(item)
        value.clear()
        value.append("spoilt")
    elif isinstance(value, tuple):
        for item in value:
            _clear(item)
    elif isinstance(value, set):
        value.clear()
    elif isinstance(value, bytearray):
        value[:] = b"spoilt"


def _plain(value: Any) -> Any:
    """``value`` with other containers throughout, to compare before and after."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | deque | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return frozenset(value)
    return bytes(value) if isinstance(value, bytearray) else value


SCALARS = st.none() | st.booleans() | st.integers() | st.text() | st.binary()
CONTAINERS = st.recursive(
    SCALARS | st.binary().map(bytearray) | st.sets(st.integers(), max_size=3),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(deque),
        st.lists(inner, max_size=4).map(tuple),
        st.tuples(inner, inner).map(lambda two: Pair(*two)),
        st.dictionaries(SCALARS, inner, max_size=4),
        st.dictionaries(st.text(), inner, max_size=4).map(OrderedDict),
    ),
    max_leaves=20,
)


class TestSnapshot:
    @pytest.mark.parametrize(
        "make",
        [
            pytest.param(lambda: {"a": 1}, id="dict"),
            pytest.param(lambda: defaultdict(int, a=1), id="defaultdict"),
            pytest.param(lambda: OrderedDict(a=1), id="OrderedDict"),
            pytest.param(lambda: Counter(a=1), id="Counter"),
            pytest.param(lambda: [1, 2], id="list"),
            pytest.param(lambda: type("Listing", (list,), {})([1]), id="list subclass"),
            pytest.param(lambda: {1, 2}, id="set"),
            pytest.param(lambda: frozenset({1, 2}), id="frozenset"),
            pytest.param(lambda: deque([1, 2]), id="deque"),
            pytest.param(lambda: bytearray(b"ab"), id="bytearray"),
            pytest.param(lambda: Pair([1], {"a": 1}), id="namedtuple"),
            pytest.param(lambda: ([1], {"a": 1}), id="tuple"),
            pytest.param(lambda: {"a": [{"b": ({"c": [1]},)}]}, id="nested"),
            pytest.param(lambda: [bytearray(b"x"), {2}, deque([[1]])], id="nested, others"),
        ],
    )
    @pytest.mark.parametrize("place", ["attribute", "message", "extra"])
    def test_is_immune_to_what_happens_later(self, place: str, make: Callable[[], Any]) -> None:
        value, expected = make(), _plain(make())
        attributes = {
            "attribute": {"event": "a.b", "value": value},
            "message": {"msg": {"event": "a.b", "value": value}},
            "extra": {"extra": {"event": "a.b", "value": value}},
        }[place]
        taken = snapshot(record(**attributes))
        _clear(value)
        found = Event.from_attributes(taken)
        assert found is not None
        assert _plain(found.fields["value"]) == expected

    @given(CONTAINERS)
    @settings(RELAXED, max_examples=150)
    def test_keeps_every_container_as_it_was(self, value: Any) -> None:
        expected = _plain(value)
        taken = snapshot(record(event="a.b", value=value))
        assert _plain(taken["value"]) == expected
        _clear(value)
        assert _plain(taken["value"]) == expected

    def test_leaves_the_applications_objects_as_they_are(self) -> None:
        value = {"a": [1, bytearray(b"x"), ({"b": {2}},)]}
        expected = _plain(value)
        original = record({"event": "a.b", "value": value}, args=(1,), value=value)
        attributes = dict(vars(original))
        taken = snapshot(original)
        _clear(taken["value"])
        _clear(taken["msg"])
        assert _plain(value) == expected
        assert vars(original) == attributes

    def test_is_of_the_record_not_the_record(self) -> None:
        original = record(event="a.b", x=1)
        taken = snapshot(original)
        original.x = 2
        original.event = "c.d"
        assert (taken["x"], taken["event"]) == (1, "a.b")

    def test_has_all_attributes_but_args_and_exc_info(self) -> None:
        original = logged({"event": "a.b", "x": 1})
        original.exc_info = (ValueError, ValueError(PLANTED), None)
        taken = snapshot(original)
        assert taken == vars(original) | {"args": None, "exc_info": None}

    def test_gives_the_same_event_as_the_record(self) -> None:
        original = logged({"event": "a.b", "event_id": "i", "x": {"y": [1]}, "sandbox_id": "s"})
        assert Event.from_attributes(snapshot(original)) == Event.from_record(original)

    def test_namedtuple_stays_one(self) -> None:
        taken = snapshot(record(event="a.b", value=Pair(1, [2])))["value"]
        assert type(taken) is Pair
        assert taken == Pair(1, [2])

    def test_bytearray_becomes_bytes(self) -> None:
        assert snapshot(record(value=bytearray(b"ab")))["value"] == b"ab"
        assert type(snapshot(record(value=bytearray(b"ab")))["value"]) is bytes

    def test_list_that_holds_itself(self) -> None:
        value: list[Any] = [1]
        value.append(value)
        taken = snapshot(record(event="a.b", value=value))["value"]
        assert taken is not value
        assert taken[0] == 1
        assert taken[1] is taken

    def test_cycle_through_dict_deque_and_tuple(self) -> None:
        value: dict[str, Any] = {"deque": deque()}
        value["deque"].append((value, "end"))
        taken = snapshot(record(event="a.b", value=value))["value"]
        value["deque"].clear()
        value["more"] = 1
        assert list(taken) == ["deque"]
        (inner,) = taken["deque"]
        assert inner[0] is taken
        assert inner[1] == "end"

    def test_cycle_across_extras(self) -> None:
        left: list[Any] = []
        right = [left]
        left.append(right)
        taken = snapshot(record(event="a.b", left=left, right=right))
        left.clear()
        right.clear()
        for name in ("left", "right"):
            inner = taken[name]
            for _ in range(9):
                (inner,) = inner

    @pytest.mark.parametrize(
        "double",
        [
            pytest.param(lambda value: [value, value], id="list"),
            pytest.param(lambda value: (value, value), id="tuple"),
            pytest.param(lambda value: {"a": value, "b": value}, id="dict"),
            pytest.param(lambda value: deque([value, value]), id="deque"),
        ],
    )
    def test_what_is_shared_is_copied_once(self, double: Callable[[Any], Any]) -> None:
        value: Any = ["leaf"]
        for _ in range(40):  # 2**40 leaves, were each copied for itself
            value = double(value)
        taken = snapshot(record(event="a.b", value=value, again=value))
        assert taken["again"] is taken["value"]
        assert taken["value"] is not value

    def test_what_is_shared_is_immune_where_it_stands_less_deep(self) -> None:
        leaf = ["leaf"]
        shallow: Any = leaf
        for _ in range(10):
            shallow = [shallow]
        deep = shallow
        for _ in range(60):
            deep = [deep]
        taken = snapshot(record(event="a.b", deep=deep, shallow=shallow))["shallow"]
        leaf.append("later")
        for _ in range(10):
            taken = taken[0]
        assert taken == ["leaf"]

    def test_64_levels_are_immune(self) -> None:
        leaf = ["leaf"]
        value: Any = leaf
        for _ in range(63):
            value = [value]
        taken = snapshot(record(event="a.b", value=value))["value"]
        leaf.append("later")
        for _ in range(63):
            taken = taken[0]
        assert taken == ["leaf"]

    def test_nesting_without_end_is_no_recursion_error(self) -> None:
        value: Any = []
        for _ in range(5 * sys.getrecursionlimit()):
            value = [value]
        assert snapshot(record(event="a.b", value=value))["value"] is not value
        while value:  # piece by piece: the interpreter would free it recursively
            value = value.pop()

    @pytest.mark.parametrize("make", [lambda n: [n], lambda n: {n: n}, lambda n: ([n],)])
    def test_an_object_is_not_taken_for_one_that_is_gone(self, make: Callable[[int], Any]) -> None:
        # The copies are found by the id of the original, and a freed object's is given out again.
        copier = event._Copier()
        assert [copier.copy(make(n)) for n in range(50)] == [make(n) for n in range(50)]

    @pytest.mark.parametrize(
        "value",
        [
            Decimal("1.5"),
            datetime.datetime(2026, 7, 1, tzinfo=datetime.timezone.utc),
            uuid.UUID(int=1),
            Name.CREATED,
            IntEnum("Number", "ONE").ONE,  # type: ignore[attr-defined]
            complex(1, 2),
            time.gmtime(0),  # a tuple by type, but no tuple of the application's
            object(),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_other_objects_are_kept(self, value: object) -> None:
        assert snapshot(record(event="a.b", value=value))["value"] is value
        assert snapshot(record(event="a.b", value=[value]))["value"][0] is value

    @pytest.mark.parametrize("foreign", [Untouchable, Proxy, Guarded])
    def test_nothing_of_a_foreign_object_is_called(self, foreign: Callable[[], Any]) -> None:
        thing = foreign()
        taken = snapshot(
            record(
                event="a.b",
                alone=thing,
                listed=[thing],
                named={"a": thing},
                tuple_=(thing, Pair(thing, 1)),
                queued=deque([thing]),
            )
        )
        assert taken["alone"] is thing
        assert taken["listed"][0] is thing
        assert taken["named"]["a"] is thing
        assert taken["tuple_"][0] is thing
        assert taken["tuple_"][1].left is thing
        assert taken["queued"][0] is thing

    @pytest.mark.parametrize("foreign", [Untouchable, Proxy, Guarded])
    def test_nothing_of_a_foreign_message_is_called(self, foreign: Callable[[], Any]) -> None:
        thing = foreign()
        assert snapshot(record(thing, event="a.b", args=(thing,)))["msg"] is thing

    def test_items_of_a_set_are_neither_hashed_nor_compared(self) -> None:
        class Item:
            armed = False

            def __hash__(self) -> int:
                assert not self.armed
                return 1

            def __eq__(self, other: object) -> bool:
                assert not self.armed
                return self is other

        items = [Item(), Item()]
        value = set(items)
        Item.armed = True
        taken = snapshot(record(event="a.b", value=value, frozen=frozenset()))["value"]
        Item.armed = False
        assert taken == value
        assert taken is not value


class TestSnapshotOfOtherRecords:
    def test_attributes_set_before_the_standard_ones(self) -> None:
        original = EarlyRecord("app", 20, "app.py", 1, "msg", (), None)
        late = ["after"]
        vars(original).update(event="a.b", late=late)
        taken = snapshot(original)
        original.early.append("later")
        late.append("later")
        assert (taken["early"], taken["late"]) == (["before"], ["after"])

    @pytest.mark.parametrize("name", ["stack_info", "msg"])
    def test_a_standard_attribute_was_taken_away(self, name: str) -> None:
        value = ["x"]
        original = record()
        kept = vars(original).pop(name)
        vars(original).update(value=value, event="a.b")
        if name == "msg":
            original.msg = kept  # put last: without any, it is no record
        taken = snapshot(original)
        value.append("later")
        assert taken["value"] == ["x"]


class TestTooLarge:
    @pytest.mark.parametrize(
        "make",
        [
            pytest.param(lambda n: {"value": [0] * n}, id="list"),
            pytest.param(lambda n: {"value": (0,) * n}, id="tuple"),
            pytest.param(lambda n: {"value": set(range(n))}, id="set"),
            pytest.param(lambda n: {"value": deque(range(n))}, id="deque"),
            pytest.param(lambda n: {"value": dict.fromkeys(range(n))}, id="dict"),
            pytest.param(lambda n: {"value": [[0] * (n - 1)]}, id="nested"),
            pytest.param(lambda n: {"one": [0] * (n - 7), "two": [0] * 7}, id="two extras"),
            pytest.param(lambda n: {"msg": {"event": [0] * (n - 1)}}, id="message"),
            pytest.param(lambda n: {"value": [b"x"] * (n - 2) + [[], []]}, id="empty ones"),
        ],
    )
    def test_counts_the_items_of_all_containers(
        self, monkeypatch: pytest.MonkeyPatch, make: Callable[[int], dict[str, Any]]
    ) -> None:
        monkeypatch.setattr(event, "MAX_SNAPSHOT_ITEMS", 20)
        snapshot(record(**make(20)))
        with pytest.raises(TooLargeError):
            snapshot(record(**make(21)))

    def test_a_shared_container_counts_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(event, "MAX_SNAPSHOT_ITEMS", 20)
        shared = [0] * 18
        snapshot(record(value=[shared, shared]))

    def test_limit_is_what_a_payload_of_1_mib_can_hold(self) -> None:
        assert event.MAX_SNAPSHOT_ITEMS * 2 == 1_048_576
        with pytest.raises(TooLargeError):
            snapshot(record(event="a.b", value=[None] * (event.MAX_SNAPSHOT_ITEMS + 1)))

    def test_says_nothing_of_the_value(self) -> None:
        with pytest.raises(TooLargeError) as caught:
            snapshot(record(value=[PLANTED] * (event.MAX_SNAPSHOT_ITEMS + 1)))
        assert str(caught.value) == ""


# --- Random ids ---


def made_ids(count: int) -> list[str]:
    found = (Event.from_attributes({"event": "a.b"}) for _ in range(count))
    return [event.id for event in found if event is not None]


def test_random_ids_are_uuids_of_version_4() -> None:
    ids = made_ids(1000)
    assert len(set(ids)) == 1000
    for text in ids:
        parsed = uuid.UUID(text)
        assert (str(parsed), parsed.version, parsed.variant) == (text, 4, uuid.RFC_4122)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_random_ids_of_a_forked_child_are_its_own() -> None:
    made_ids(1)  # some more are in store
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, ",".join(made_ids(300)).encode())
        os._exit(0)
    os.close(writing)
    with open(reading) as answer:
        theirs = answer.read().split(",")
    os.waitpid(child, 0)
    assert len({*theirs, *made_ids(300)}) == 600
