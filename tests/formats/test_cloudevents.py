"""Format cloudevents: the bytes, and what the SDK for Python reads in them."""

from __future__ import annotations

import json
import logging
import re
from datetime import datetime, timezone
from typing import Any

import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_structured
from cloudevents.core.formats.json import JSONFormat
from format_samples import (
    ID,
    RELAXED,
    body,
    event_names,
    fields,
    formatter,
    joined,
    levels,
    record,
)
from hypothesis import given

from cubehook import Endpoint
from cubehook.formats.cloudevents import CloudEventsFormatter

# The String of the specification, and the URI-reference of RFC 3986 as far as our source goes.
STRING = re.compile("[^\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]+")
REQUIRED = {"id", "source", "specversion", "type"}
OPTIONAL = {"datacontenttype", "dataschema", "subject", "time"}


def sdk_reads(raw: bytes) -> Any:
    content_type = CloudEventsFormatter.content_type
    return from_structured(HTTPMessage({"content-type": content_type}, raw), JSONFormat())


def conforms(event: dict[str, Any]) -> None:
    assert set(event) >= REQUIRED
    for name in set(event) - {"data"}:
        assert re.fullmatch("[a-z0-9]{1,20}", name)
        if isinstance(event[name], str):
            assert STRING.fullmatch(event[name]), name
        else:
            assert type(event[name]) is int
            assert name not in REQUIRED | OPTIONAL


def test_the_bytes() -> None:
    text = formatter("cloudevents").format(record(sandbox_id="sb-1", template_id="t-1"))
    assert text == (
        '{"specversion":"1.0","id":"550e8400-e29b-41d4-a716-446655440000","source":"cubehook",'
        '"type":"sandbox.created","time":"2026-07-01T08:00:00.123456Z","subject":"sb-1",'
        '"severitytext":"INFO","severitynumber":9,"datacontenttype":"application/json",'
        '"data":{"sandbox_id":"sb-1","template_id":"t-1"}}'
    )


def test_the_content_types() -> None:
    made = formatter("cloudevents")
    assert made.content_type == "application/cloudevents+json; charset=utf-8"
    assert made.batch_content_type == "application/cloudevents-batch+json; charset=utf-8"
    assert Endpoint(url="https://events.example/", format="cloudevents").schemes == ("cube",)


def test_the_sdk_reads_it() -> None:
    event = sdk_reads(formatter("cloudevents").format(record(logging.WARNING, n=1)).encode())
    assert event.get_id() == ID
    assert event.get_source() == "cubehook"
    assert event.get_type() == "sandbox.created"
    assert event.get_time() == datetime(2026, 7, 1, 8, 0, 0, 123456, tzinfo=timezone.utc)
    assert event.get_subject() is None
    assert event.get_extension("severitytext") == "WARN"
    assert event.get_extension("severitynumber") == 13
    assert event.get_data() == {"n": 1}


@pytest.mark.parametrize(
    ("level", "severity"),
    [(10, ("DEBUG", 5)), (20, ("INFO", 9)), (30, ("WARN", 13)), (40, ("ERROR", 17))],
)
def test_severities_are_those_of_opentelemetry(level: int, severity: tuple[str, int]) -> None:
    event = body("cloudevents", record(level))
    assert (event["severitytext"], event["severitynumber"]) == severity


@pytest.mark.parametrize(
    ("sandbox_id", "subject"),
    [
        ("sb-1", "sb-1"),
        (17, "17"),
        ("a\nb\x00\ufffe\ud800", "ab\ufffd"),
        ("", None),
        ("\n", None),
        (True, None),
        (None, None),
        (["sb-1"], None),
    ],
)
def test_subjects(sandbox_id: object, subject: str | None) -> None:
    event = body("cloudevents", record(sandbox_id=sandbox_id))
    assert event.get("subject") == subject
    conforms(event)


def test_the_subject_is_redacted_like_the_data() -> None:
    event = body("cloudevents", record(sandbox_id="Bearer planted-abcdef"))
    assert "planted" not in json.dumps(event)


def test_a_record_without_an_event_has_a_type() -> None:
    event = body("cloudevents", logging.makeLogRecord({"msg": "x"}))
    assert event["type"] == "log.record"
    conforms(event)


def test_the_source_of_a_subclass() -> None:
    class Ours(CloudEventsFormatter):
        source = "https://cube.example/clusters/7"

    assert json.loads(Ours().format(record()))["source"] == "https://cube.example/clusters/7"


def test_a_batch_is_an_array() -> None:
    events = joined("cloudevents", [record(sandbox_id="sb-1"), record(sandbox_id="sb-2")])
    assert [event["subject"] for event in events] == ["sb-1", "sb-2"]
    for event in events:
        assert sdk_reads(json.dumps(event).encode()).get_type() == "sandbox.created"


@RELAXED
@given(fields=fields, level=levels, event=event_names)
def test_whatever_the_fields_hold(fields: dict[str, Any], level: int, event: str) -> None:
    one = logging.makeLogRecord(fields | {"event": event, "levelno": level})
    raw = formatter("cloudevents").format(one).encode("utf-8")
    written = json.loads(raw)
    conforms(written)
    assert sdk_reads(raw).get_data() == written["data"]
