"""What an entry of the lifecycle stream becomes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cubehook.event import Event
from cubehook.sources import SourceEvent
from cubehook.sources._lifecycle import event_of

STREAM = "cube:v1:shared:sandbox:lifecycle:events"
ID = "1700000000999-7"
META = {
    "sandbox_id": "sb-1",
    "template_id": "tpl-1",
    "host_id": "planted-host",
    "host_ip": "planted-address",
    "instance_type": "planted-type",
    "timeout_seconds": 300,
    "auto_pause": True,
    "auto_resume": True,
    "created_at": 1700000000000,
    "end_at": 1700000300000,
}


def event(op: str, payload: object = None, **fields: str) -> SourceEvent | None:
    entry = {"op": op, "sandbox_id": "sb-1", "ts": "1700000000123", **fields}
    if payload is not None:
        entry["payload"] = payload if isinstance(payload, str) else json.dumps(payload)
    return event_of(STREAM, ID, entry)


def said(*arguments: Any, **fields: str) -> tuple[str, dict[str, object]] | None:
    found = event(*arguments, **fields)
    return found and (found.name, dict(found.fields))


class TestMapping:
    @pytest.mark.parametrize(
        ("op", "payload", "name", "fields"),
        [
            ("create", META, "sandbox.created", {"template_id": "tpl-1"}),
            ("delete", None, "sandbox.deleted", {}),
            (
                "delete",
                {"template_id": "tpl-1", "source": "api", "reason": "orphaned"},
                "sandbox.deleted",
                {"template_id": "tpl-1", "source": "api", "reason": "orphaned"},
            ),
            ("update", META, "sandbox.timeout.updated", {"timeout": 300}),
            ("update", {"timeout_seconds": 0}, "sandbox.timeout.updated", {"timeout": 0}),
            (
                "state",
                {"state": "paused", "actor": "cubemaster", "source": "api"},
                "sandbox.paused",
                {"source": "api"},
            ),
            (
                "state",
                {"state": "paused", "source": "auto_pause", "reason": "timeout"},
                "sandbox.paused",
                {"source": "auto_pause", "reason": "timeout"},
            ),
            (
                "state",
                {"state": "paused", "actor": "clm"},
                "sandbox.paused",
                {"source": "auto_pause"},
            ),
            (
                "state",
                {"state": "running", "actor": "clm", "source": "sweeper"},
                "sandbox.resumed",
                {"source": "auto_resume"},
            ),
            ("state", {"state": "running", "actor": "cubemaster"}, "sandbox.resumed", {}),
            ("state", {"state": "running", "source": "a note"}, "sandbox.resumed", {}),
        ],
    )
    def test_of_every_op(
        self, op: str, payload: object, name: str, fields: dict[str, object]
    ) -> None:
        assert said(op, payload) == (name, {"sandbox_id": "sb-1", **fields})

    @pytest.mark.parametrize("payload", [None, "", "{", "[1]", "7", "[" * 100_000, "9" * 5000])
    def test_a_payload_that_is_missing_or_broken(self, payload: str | None) -> None:
        assert said("create", payload) == ("sandbox.created", {"sandbox_id": "sb-1"})
        assert said("update", payload) == ("sandbox.timeout.updated", {"sandbox_id": "sb-1"})
        assert said("state", payload) is None  # which state, nobody can tell

    @pytest.mark.parametrize("wrong", [None, 7, True, [], {}, ""])
    def test_values_of_another_kind(self, wrong: object) -> None:
        assert said("create", {"template_id": wrong}) == ("sandbox.created", {"sandbox_id": "sb-1"})
        assert said("state", {"state": "paused", "source": wrong, "actor": wrong}) == (
            "sandbox.paused",
            {"sandbox_id": "sb-1"},
        )
        assert said("state", {"state": wrong}) is None

    def test_a_timeout_that_is_no_number(self) -> None:
        for wrong in ("300", True, 1.5, None):
            assert said("update", {"timeout_seconds": wrong}) == (
                "sandbox.timeout.updated",
                {"sandbox_id": "sb-1"},
            )

    def test_what_tells_of_no_event(self) -> None:
        assert event("future-op") is None
        assert event("") is None
        assert event("state", {"state": "pausing"}) is None
        assert event_of(STREAM, ID, {}) is None
        assert event("create", sandbox_id="") is None

    def test_the_sandbox_may_be_named_by_the_payload_alone(self) -> None:
        assert said("create", META, sandbox_id="") == (
            "sandbox.created",
            {"sandbox_id": "sb-1", "template_id": "tpl-1"},
        )


class TestTime:
    def test_is_what_was_written(self) -> None:
        found = event("create")
        assert found is not None
        assert found.time == 1700000000.123

    @pytest.mark.parametrize("ts", ["", "0", "-5", "soon", "1e3", "9" * 20, "9" * 5000, "12.5"])
    def test_is_else_when_redis_took_it(self, ts: str) -> None:
        found = event("create", ts=ts)
        assert found is not None
        assert found.time == 1700000000.999

    def test_is_never_the_clock(self) -> None:
        found = event_of(STREAM, "18446744073709551615-0", {"op": "create", "sandbox_id": "sb-1"})
        assert found is not None
        assert found.time == 0.0


class TestId:
    def test_is_that_of_the_entry(self) -> None:
        first, again = event("create", META), event("delete")
        assert first is not None
        assert again is not None
        assert first.id == again.id == "a5529844-f3c8-5aff-a99a-230aff335256"

    def test_differs_between_entries_and_streams(self) -> None:
        entry = {"op": "delete", "sandbox_id": "sb-1"}
        places = [(STREAM, ID), (STREAM, "1700000000999-8"), (STREAM + "2", ID)]
        found = [event_of(*place, entry) for place in places]
        assert len({one.id for one in found if one is not None}) == 3


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
payloads = st.dictionaries(
    st.sampled_from([*META, "state", "actor", "source", "reason", "other"]), anything
)
entries = st.fixed_dictionaries(
    {},
    optional={
        "op": st.sampled_from(["create", "delete", "update", "state", "rename", ""]) | st.text(),
        "sandbox_id": st.text(),
        "ts": st.integers().map(str) | st.text(),
        "payload": payloads.map(json.dumps) | anything.map(json.dumps) | st.text(),
        "host_ip": st.text(),
    },
)
ALLOWED = {"sandbox_id", "template_id", "source", "reason", "timeout"}


@given(entries, st.text())
def test_anything_gives_an_event_or_none(entry: dict[str, str], entry_id: str) -> None:
    found = event_of(STREAM, entry_id, entry)
    assert found == event_of(STREAM, entry_id, entry)
    if found is not None:
        assert set(found.fields) <= ALLOWED
        assert found.fields["sandbox_id"]
        made = Event.from_record(found.to_record("cube.source"))
        assert made is not None
        assert (made.id, made.name, made.time) == (found.id, found.name, found.time)


@given(payloads, st.sampled_from(["create", "delete", "update", "state"]))
def test_host_and_network_stay_out(payload: dict[str, object], op: str) -> None:
    state = {"state": "paused"} if op == "state" else {}
    found = event(op, {**payload, **META, **state})
    assert found is not None
    assert "planted" not in repr(dict(found.fields))
