"""The formatter and the handler under any record: valid JSON within the cap, or a counted drop."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from anything import BASES, RELAXED, SECRET, ClassRaises, anything, hostile, keys, strict, texts
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cubehook import Event, WebhookFormatter, WebhookHandler, courier
from cubehook.message import Message
from cubehook.outcome import Reply

OWN = ["id", "timestamp", "level", "event"]
CAP = 600
PATIENCE = 10.0

# Attributes that the package reads itself, beside any others.
READ = ["created", "levelno", "msg", "extra", "event_id", "sandbox_id", "name", "args", "exc_info"]
attributes = st.dictionaries(st.sampled_from(READ + OWN[:3]) | texts, anything, max_size=5)
nested = st.dictionaries(keys, anything, max_size=4)
event_names = st.sampled_from(["a.b", "sandbox.created", "_-.0"])


def tagged(found: dict[str, Any], name: str) -> logging.LogRecord:
    return logging.makeLogRecord(found | {"event": name})


@given(attributes, event_names)
@example({"sandbox_id": 10**5000}, "a.b")
@settings(RELAXED, max_examples=100)
def test_any_attributes_become_valid_json(found: dict[str, Any], name: str) -> None:
    text = WebhookFormatter().format(tagged(found, name))
    body = strict(text)
    assert list(body)[:4] == OWN
    assert body["event"] == name
    assert body["level"] in ("debug", "info", "warn", "error")
    assert SECRET not in text
    assert text.encode("utf-8").decode("utf-8") == text


@given(nested, event_names, st.sampled_from(["msg", "extra"]))
@settings(RELAXED, max_examples=150)
def test_any_nested_event_becomes_valid_json(found: dict[Any, Any], name: str, place: str) -> None:
    record = logging.makeLogRecord({place: found | {"event": name}})
    text = WebhookFormatter().format(record)
    body = strict(text)
    assert list(body)[:4] == OWN
    assert body["event"] == name
    assert SECRET not in text


WORST = {"__str__", "__repr__", "__eq__", "__lt__", "__le__", "__gt__", "__ge__", "__int__"}
WORST |= {"__float__", "__iter__", "__len__", "__bool__", "__getattribute__", "startswith"}


@pytest.mark.parametrize("attribute", [*READ, "event", "other"])
@pytest.mark.parametrize("make", [*BASES, ClassRaises], ids=str)
def test_what_raises_wherever_it_is_touched(attribute: str, make: Any) -> None:
    worst = make() if make is ClassRaises else hostile(make, WORST, ValueError)
    found = {"event": "a.b", attribute: worst}
    text = WebhookFormatter().format(logging.makeLogRecord(found))
    assert list(strict(text))[:4] == OWN
    assert SECRET not in text


@pytest.fixture(scope="module")
def sent() -> Iterator[list[Message]]:
    """What handlers sent while the test ran: nothing goes out."""
    messages: list[Message] = []

    class Sender:
        def __init__(self, *_: object) -> None:
            pass

        def __call__(self, message: Message, limit: float | None = None) -> Reply:
            messages.append(message)
            return Reply(204)

        def close(self) -> None:
            pass

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(courier, "Sender", Sender)
        yield messages


@pytest.fixture(scope="module")
def small(sent: list[Message]) -> Iterator[WebhookHandler]:
    """A handler with a low cap."""
    made = WebhookHandler([{"url": "https://a.example/", "events": ["*"]}], max_payload_bytes=CAP)
    yield made
    made.close()


@given(
    attributes | nested.map(lambda found: {"msg": found | {"event": "a.b"}}),
    st.none() | event_names | texts | anything,
)
@example({"text": "x" * CAP}, "a.b")
@settings(RELAXED, max_examples=100)
def test_a_record_arrives_within_the_cap_or_is_counted(
    small: WebhookHandler, sent: list[Message], found: dict[str, Any], name: object
) -> None:
    before = small.stats()
    sent.clear()
    record = logging.makeLogRecord(found if name is None else found | {"event": name})
    taken = bool(small.handle(record))
    assert small.flush(PATIENCE)
    after = small.stats()
    dropped = sum(after.dropped.values()) - sum(before.dropped.values())
    assert after.received - before.received == len(sent) + dropped <= 1
    # What is turned away was no event of this handler's, or could not be looked at: then counted.
    assert not taken or len(sent) + dropped == 1
    for message in sent:
        assert len(message.body) <= CAP
        body = strict(message.body.decode("utf-8"))
        assert list(body)[:4] == OWN
        assert body["event"] == message.event
        assert body["id"] == message.id
        assert SECRET.encode() not in message.body


@given(attributes, event_names)
@settings(RELAXED, max_examples=50)
def test_what_an_event_says_of_itself_can_stand_in_a_header(
    found: dict[str, Any], name: str
) -> None:
    event = Event.from_record(tagged(found, name))
    assert event is not None
    assert event.name == name
    assert event.id.isascii()
    assert event.id.isprintable()
    assert " " not in event.id
    assert "." not in event.id
