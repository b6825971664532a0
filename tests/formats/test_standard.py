"""Format standard: the bytes, and that a receiver of Standard Webhooks takes them."""

from __future__ import annotations

import json
import logging
import time
from typing import Any

import pytest
import standardwebhooks
from format_samples import ID, RELAXED, body, fields, formatter, joined, levels, record
from hypothesis import given

from cubehook import ConfigError, Endpoint, signing

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def test_the_bytes() -> None:
    text = formatter("standard").format(record(sandbox_id="sb-1", template_id="t-1"))
    assert text == (
        '{"type":"sandbox.created","timestamp":"2026-07-01T08:00:00.123456Z",'
        '"data":{"sandbox_id":"sb-1","template_id":"t-1"}}'
    )


def test_names_of_fields_do_not_matter() -> None:
    written = body("standard", record(type="a", data="b"))
    assert written["type"] == "sandbox.created"
    assert written["data"] == {"type": "a", "data": "b"}


def test_a_record_without_an_event_has_a_type() -> None:
    assert body("standard", logging.makeLogRecord({"msg": "x"}))["type"] == "log.record"


def test_a_batch_has_the_same_form() -> None:
    batch = joined("standard", [record(n=1), record(n=2, created=0.0)])
    assert list(batch) == ["type", "timestamp", "data"]
    assert batch["type"] == "cubehook.batch"
    assert batch["timestamp"] == "1970-01-01T00:00:00.000000Z"
    assert batch["data"]["id"] == "a-batch"
    assert [event["data"] for event in batch["data"]["events"]] == [{"n": 1}, {"n": 2}]


def test_the_scheme_is_standard_where_none_is_named() -> None:
    endpoint = Endpoint(url="https://hooks.example/", format="standard", secret=SECRET)
    assert endpoint.schemes == ("standard",)
    other = Endpoint(url="https://hooks.example/", format="standard", scheme="cube", secret="x")
    assert other.schemes == ("cube",)


def test_a_secret_of_another_form_is_refused_at_configuration() -> None:
    with pytest.raises(ConfigError, match="must be 'whsec_' and the Base64"):
        Endpoint(url="https://hooks.example/", format="standard", secret="some text")


def test_a_receiver_of_standard_webhooks_takes_it() -> None:
    raw = formatter("standard").format(record(sandbox_id="sb-1")).encode()
    scheme = signing.find("standard")
    headers = scheme.sign(
        message_id=ID,
        event="sandbox.created",
        timestamp=int(time.time()),
        body=raw,
        keys=[scheme.key(SECRET)],
    )
    assert standardwebhooks.Webhook(SECRET).verify(raw, headers) == json.loads(raw)


@RELAXED
@given(fields=fields, level=levels)
def test_whatever_the_fields_hold(fields: dict[str, Any], level: int) -> None:
    one = logging.makeLogRecord(fields | {"event": "a.b", "levelno": level})
    assert list(body("standard", one)) == ["type", "timestamp", "data"]
