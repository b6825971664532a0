"""Format e2b: the body that E2B's own services write, version v2."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from format_samples import ID, RELAXED, body, event_names, fields, formatter, levels, record
from hypothesis import given

from cubehook import ConfigError, Endpoint
from cubehook.formats import BatchFormat

NO_TEAM = "00000000-0000-0000-0000-000000000000"
# The members of E2B's SandboxEvent, as its Go code names them, in its order.
MEMBERS = [
    *("id", "version", "type", "timestamp", "event_category", "event_label", "event_data"),
    *("sandbox_id", "sandbox_execution_id", "sandbox_template_id", "sandbox_build_id"),
    "sandbox_team_id",
]


def test_the_bytes() -> None:
    text = formatter("e2b").format(
        record(event="sandbox.deleted", sandbox_id="sb-1", template_id="t-1", reason="timeout")
    )
    assert text == (
        '{"id":"550e8400-e29b-41d4-a716-446655440000","version":"v2",'
        '"type":"sandbox.lifecycle.killed","timestamp":"2026-07-01T08:00:00.123456Z",'
        '"event_category":"lifecycle","event_label":"kill","event_data":{"reason":"timeout"},'
        '"sandbox_id":"sb-1","sandbox_execution_id":"","sandbox_template_id":"t-1",'
        f'"sandbox_build_id":"","sandbox_team_id":"{NO_TEAM}"}}'
    )


@pytest.mark.parametrize(
    ("event", "kind", "category", "label"),
    [
        # https://e2b.dev/docs/sandbox/lifecycle-events-webhooks, and the labels of version v1.
        ("sandbox.created", "sandbox.lifecycle.created", "lifecycle", "create"),
        ("sandbox.deleted", "sandbox.lifecycle.killed", "lifecycle", "kill"),
        ("sandbox.paused", "sandbox.lifecycle.paused", "lifecycle", "pause"),
        ("sandbox.resumed", "sandbox.lifecycle.resumed", "lifecycle", "resume"),
        ("sandbox.timeout.updated", "sandbox.lifecycle.updated", "lifecycle", "update"),
        ("sandbox.refreshed", "sandbox.lifecycle.updated", "lifecycle", "update"),
        ("snapshot.created", "snapshot.created", "snapshot", "created"),
        ("a.b.c", "a.b.c", "a.b", "c"),
        ("restart", "restart", "restart", "restart"),
    ],
)
def test_types(event: str, kind: str, category: str, label: str) -> None:
    written = body("e2b", record(event=event))
    assert (written["type"], written["event_category"], written["event_label"]) == (
        kind,
        category,
        label,
    )


def test_what_e2b_has_a_place_for() -> None:
    written = body(
        "e2b",
        record(
            sandbox_id="s", template_id="t", build_id="b", execution_id="x", team_id=ID, other=[1]
        ),
    )
    assert written["sandbox_id"] == "s"
    assert written["sandbox_template_id"] == "t"
    assert written["sandbox_build_id"] == "b"
    assert written["sandbox_execution_id"] == "x"
    assert written["sandbox_team_id"] == ID
    assert written["event_data"] == {"other": [1]}


@pytest.mark.parametrize(("value", "text"), [(7, "7"), (True, ""), (["x"], ""), (None, "")])
def test_ids_are_texts(value: object, text: str) -> None:
    assert body("e2b", record(sandbox_id=value))["sandbox_id"] == text


def test_no_batches() -> None:
    assert not isinstance(formatter("e2b"), BatchFormat)
    with pytest.raises(ConfigError) as caught:
        Endpoint(url="https://hooks.example/", format="e2b", batch={})
    assert caught.value.problems == ("batch: the format has none",)


def test_the_scheme_is_e2b_where_none_is_named() -> None:
    assert Endpoint(url="https://hooks.example/", format="e2b", secret="x").schemes == ("e2b",)


@RELAXED
@given(fields=fields, level=levels, event=event_names)
def test_whatever_the_fields_hold(fields: dict[str, Any], level: int, event: str) -> None:
    one = logging.makeLogRecord(fields | {"event": event, "levelno": level})
    written = body("e2b", one)
    assert list(written) == MEMBERS
    assert all(isinstance(written[name], str) for name in MEMBERS if name != "event_data")
