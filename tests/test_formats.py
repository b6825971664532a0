"""How bodies are written: format ``cube`` byte by byte, and formats of the application's own."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from enum import Enum
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cubehook import Event, WebhookFormatter, formats
from cubehook.formats._base import RedactedFormat
from cubehook.redaction import Redactor

ID = "550e8400-e29b-41d4-a716-446655440000"
MOMENT = datetime(2026, 7, 1, 8, 0, 0, 123456, tzinfo=timezone.utc).timestamp()
OWN = ("id", "timestamp", "level", "event")


def record(level: int = logging.INFO, /, **attributes: Any) -> logging.LogRecord:
    return logging.makeLogRecord(
        {"name": "app", "msg": "a message", "levelno": level, "created": MOMENT, **attributes}
    )


def tagged(level: int = logging.INFO, /, **fields: Any) -> logging.LogRecord:
    return record(level, event="sandbox.created", event_id=ID, **fields)


def strict(text: str) -> dict[str, Any]:
    """The JSON object in ``text``; NaN, infinities and repeated names are none."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        assert len(names) == len(set(names)), names
        return dict(pairs)

    parsed = json.loads(text, parse_constant=refuse, object_pairs_hook=once)
    assert isinstance(parsed, dict)
    return parsed


# --- The bytes ---


def test_the_example_of_the_contract_byte_by_byte() -> None:
    body = WebhookFormatter().format(tagged(sandbox_id="sandbox-123", template_id="template-456"))
    assert body == (
        '{"id":"550e8400-e29b-41d4-a716-446655440000","timestamp":"2026-07-01T08:00:00.123456Z",'
        '"level":"info","event":"sandbox.created","sandbox_id":"sandbox-123",'
        '"template_id":"template-456"}'
    )


def test_fields_keep_the_order_they_were_logged_in() -> None:
    body = strict(WebhookFormatter().format(tagged(zulu=1, alpha=2, mike={"z": 1, "a": 2})))
    assert list(body) == [*OWN, "zulu", "alpha", "mike"]
    assert list(body["mike"]) == ["z", "a"]


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("漢字 ü €", '"漢字 ü €"'),
        ("😀", '"😀"'),
        ('"\\/', '"\\"\\\\/"'),
        ("\n\t\x00\x7f", '"\\n\\t\\u0000\x7f"'),
        ("\u2028", '"\u2028"'),
        ("\ud800", '"\ufffd"'),
        (True, "true"),
        (None, "null"),
        (10**30, "1" + "0" * 30),
        (0.1, "0.1"),
        (math.nan, "null"),
        (-math.inf, "null"),
        ([1, {"a": []}], '[1,{"a":[]}]'),
        ((1, 2), "[1,2]"),
        ({}, "{}"),
        ({"deep": math.nan}, '{"deep":null}'),
    ],
)
def test_values_are_compact_utf8_without_nan(value: object, written: str) -> None:
    body = WebhookFormatter().format(tagged(value=value))
    assert body.endswith(f',"value":{written}}}')
    strict(body)


@pytest.mark.parametrize(
    ("level", "written"),
    [
        (logging.DEBUG, "debug"),
        (logging.INFO, "info"),
        (25, "info"),
        (logging.WARNING, "warn"),
        (logging.ERROR, "error"),
        (logging.CRITICAL, "error"),
        (1, "debug"),
    ],
)
def test_level_is_one_of_four(level: int, written: str) -> None:
    assert strict(WebhookFormatter().format(tagged(level)))["level"] == written


@pytest.mark.parametrize(
    ("moment", "written"),
    [
        (0.0, "1970-01-01T00:00:00.000000Z"),
        (1751356800.0, "2025-07-01T08:00:00.000000Z"),
        (1751356800.5, "2025-07-01T08:00:00.500000Z"),
    ],
)
def test_timestamp_has_microseconds_even_where_they_are_zero(moment: float, written: str) -> None:
    assert strict(WebhookFormatter().format(tagged(created=moment)))["timestamp"] == written


def test_the_message_is_no_part_of_the_body() -> None:
    text = WebhookFormatter().format(
        tagged(msg="planted %s", args=("planted",), exc_text="planted", stack_info="planted")
    )
    assert "planted" not in text


# --- Reserved names ---


class Named(Enum):
    ID = "id"


class Text(str):
    """A subclass, as of Django's lazy strings."""


class Spelled:
    def __str__(self) -> str:
        return "id"


@pytest.mark.parametrize("name", OWN)
def test_a_nested_event_never_overwrites_the_own_names(name: str) -> None:
    nested = {name: "forged", "event": "sandbox.created", "event_id": ID, "sandbox_id": "s"}
    body = strict(WebhookFormatter().format(record(msg=nested)))
    assert list(body) == [*OWN, "sandbox_id"]
    assert "forged" not in body.values()


@pytest.mark.parametrize("name", ["id", "timestamp", "level"])
def test_extras_never_overwrite_the_own_names(name: str) -> None:
    body = strict(WebhookFormatter().format(tagged(logging.INFO, **{name: "forged"})))
    assert list(body) == list(OWN)
    assert "forged" not in body.values()


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("kind", [bytes, memoryview])
def test_keys_that_become_an_own_name_never_overwrite_it(
    name: str, kind: Callable[[bytes], object]
) -> None:
    body = _with_key(kind(name.encode()))
    assert list(body) == [*OWN, "sandbox_id"]
    assert "forged" not in body.values()


@pytest.mark.parametrize("name", ["id", "timestamp", "level"])
def test_a_key_of_a_subclass_of_str_never_overwrites_an_own_name(name: str) -> None:
    body = _with_key(Text(name))
    assert list(body) == [*OWN, "sandbox_id"]
    assert "forged" not in body.values()


@pytest.mark.parametrize("key", [Named.ID, Spelled()], ids=["enum", "object"])
def test_keys_whose_text_is_an_own_name_never_overwrite_it(key: object) -> None:
    body = _with_key(key)
    assert list(body) == [*OWN, "sandbox_id"]
    assert body["id"] == ID


def _with_key(key: object) -> dict[str, Any]:
    nested = {"event": "sandbox.created", "event_id": ID, key: "forged", "sandbox_id": "s"}
    body = strict(WebhookFormatter().format(record(msg=nested)))
    assert (body["id"], body["event"], body["level"]) == (ID, "sandbox.created", "info")
    assert body["timestamp"] == "2026-07-01T08:00:00.123456Z"
    return body


# --- Records without an event ---


def test_an_untagged_record_is_valid_json_without_an_event() -> None:
    body = strict(WebhookFormatter().format(record(colour="blue")))
    assert body["event"] is None
    assert body["colour"] == "blue"
    assert body["timestamp"] == "2026-07-01T08:00:00.123456Z"
    assert len(body["id"]) == 36


@pytest.mark.parametrize("name", ["", "no spaces", "ü", "a..b", 5, None])
def test_a_record_with_an_illegal_event_is_valid_json(name: object) -> None:
    assert strict(WebhookFormatter().format(record(event=name)))["event"] is None


# --- Redaction ---


def test_sensitive_fields_are_gone_and_texts_are_cleaned() -> None:
    body = WebhookFormatter(redact=["customer_email"]).format(
        tagged(
            password="planted-1",
            nested={"dbPassword": "planted-2", "kept": "yes"},
            customerEmail="planted-3",
            note="Authorization: Bearer planted-4-abcdef",
            env={"A": "planted-5"},
        )
    )
    assert "planted" not in body
    assert strict(body)["nested"] == {"kept": "yes"}


def test_names_to_keep_are_kept() -> None:
    assert (
        strict(WebhookFormatter(keep=["session"]).format(tagged(session="s1")))["session"] == "s1"
    )


def test_what_a_subclass_sees_is_redacted() -> None:
    seen: list[Event] = []

    class Mine(WebhookFormatter):
        def payload(self, event: Event) -> Any:
            seen.append(event)
            return {"type": event.name, **event.fields}

    text = Mine().format(tagged(sandbox_id="s", password="planted"))
    assert text == '{"type":"sandbox.created","sandbox_id":"s"}'
    assert "planted" not in repr(seen[0].fields)


def test_logging_config_may_pass_what_it_passes_to_any_formatter() -> None:
    formatter = WebhookFormatter("%(message)s", None, "%", redact=["colour"])
    assert "blue" not in formatter.format(tagged(colour="blue"))


# --- The application's own formatters ---


class Plain(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return repr(sorted(vars(record).items(), key=str))


def test_any_formatter_sees_a_redacted_record() -> None:
    written = RedactedFormat(Plain(), Redactor(["customer"]))
    event = Event.from_record(tagged(password="planted-1", customer="planted-2", colour="blue"))
    assert event is not None
    body = written.format_event(event)
    assert b"planted" not in body
    assert b"blue" in body
    assert b"a message" not in body
    assert written.content_type == "text/plain; charset=utf-8"


def test_a_template_of_the_stdlib_formatter() -> None:
    written = RedactedFormat(
        logging.Formatter("%(message)s|%(sandbox_id)s|%(levelname)s"), Redactor()
    )
    event = Event.from_record(tagged(logging.WARNING, sandbox_id="ü-1"))
    assert event is not None
    assert written.format_event(event) == "sandbox.created|ü-1|WARNING".encode()


def test_the_content_type_of_a_formatter_is_used() -> None:
    class Typed(logging.Formatter):
        content_type = "application/cloudevents+json"

    assert RedactedFormat(Typed(), Redactor()).content_type == "application/cloudevents+json"


def test_formats_are_found_by_name_and_by_dotted_path() -> None:
    assert "cube" in formats.known()
    assert all(issubclass(formats.find(name), WebhookFormatter) for name in formats.known())
    assert formats.find("cube") is WebhookFormatter
    assert formats.find(f"{__name__}.Plain") is Plain
    assert isinstance(formats.make("cube", (), ()), WebhookFormatter)
    assert isinstance(formats.make(f"{__name__}.Plain", (), ()), RedactedFormat)


@pytest.mark.parametrize(
    "name", ["cubes", "no_such_module.Thing", "json.NoSuchThing", "json.dumps", "json.JSONEncoder"]
)
def test_what_is_no_format_is_a_lookup_error(name: str) -> None:
    with pytest.raises(LookupError):
        formats.find(name)


# --- Anything at all ---


class Hostile:
    def __init__(self, error: type[Exception]) -> None:
        self._error = error

    def __str__(self) -> str:
        raise self._error("planted")

    __repr__ = __str__

    def __hash__(self) -> int:
        return 1

    def __iter__(self) -> Any:
        raise self._error("planted")


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(10**4290, 10**4310)
    | st.floats()
    | st.text(st.characters(exclude_categories=()))
    | st.binary()
    | st.datetimes()
    | st.timedeltas()
    | st.decimals()
    | st.uuids()
    | st.sampled_from([Named.ID, Text("text"), ValueError("why"), object, range(3), iter([])])
    | st.builds(Hostile, st.sampled_from([ValueError, RecursionError, KeyError]))
)
keys = st.text(st.characters(exclude_categories=())) | st.integers() | st.binary() | st.none()
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(keys, inner, max_size=4)
        | st.tuples(inner, inner)
        | st.frozensets(st.text(max_size=3), max_size=3)
    ),
    max_leaves=12,
)
names = st.text(st.characters(exclude_categories=()), min_size=1).filter(
    lambda name: name not in ("message", "asctime")
)


@settings(max_examples=150, deadline=None)
@given(fields=st.dictionaries(names, values, max_size=5), level=st.integers(), created=st.floats())
def test_any_record_becomes_valid_json(
    fields: dict[str, object], level: int, created: float
) -> None:
    one = logging.makeLogRecord(fields | {"event": "a.b", "levelno": level, "created": created})
    text = WebhookFormatter().format(one)
    body = strict(text)
    assert list(body)[:4] == list(OWN)
    assert body["event"] == "a.b"
    assert text.encode("utf-8").decode("utf-8") == text
    assert "planted" not in text


@settings(max_examples=100, deadline=None)
@given(message=st.dictionaries(keys, values, max_size=5), tag=st.just("a.b") | values)
def test_any_dict_message_becomes_valid_json(message: dict[Any, object], tag: object) -> None:
    one = logging.makeLogRecord({"msg": message | {"event": tag}})
    body = strict(WebhookFormatter().format(one))
    assert list(body)[:4] == list(OWN)
    assert body["event"] == ("a.b" if tag == "a.b" else body["event"])


def test_cycles_and_depth_end() -> None:
    cyclic: dict[str, Any] = {"a": 1}
    cyclic["self"] = cyclic
    deep: list[Any] = []
    for _ in range(10_000):
        deep = [deep]
    body = strict(WebhookFormatter().format(tagged(cyclic=cyclic, deep=deep)))
    assert body["cyclic"] == {"a": 1, "self": "[circular]"}


def test_durations_and_moments_are_plain() -> None:
    body = strict(
        WebhookFormatter().format(
            tagged(took=timedelta(seconds=1.5), at=datetime(2026, 7, 1, tzinfo=timezone.utc))
        )
    )
    assert (body["took"], body["at"]) == (1.5, "2026-07-01T00:00:00+00:00")
