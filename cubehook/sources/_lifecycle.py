"""What an entry of CubeMaster's lifecycle stream says, as an event.

The same entry gives the same event, to the byte, whoever reads it and whenever. Only what is named
here goes into it: where a sandbox runs (host, addresses, type of machine) stays out.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from cubehook.event import YEAR_10000
from cubehook.sources._feed import SourceEvent

STREAM = "cube:v1:shared:sandbox:lifecycle:events"
RESERVED_GROUP = "cube-proxy-sidecar"
"""The group of CubeSandbox's lifecycle manager: what others read in it, that one misses."""

_NAMESPACE = uuid.UUID("0f0c3c1c-63f5-5d5b-9d5e-6a1f3a9f2b7e")
_STATES = {"paused": "sandbox.paused", "running": "sandbox.resumed"}
_SOURCES = ("api", "auto_pause", "auto_resume")
_REASONS = ("request", "timeout", "orphaned")
# CubeSandbox's lifecycle manager: it pauses and resumes for no other cause.
_MANAGER = "clm"
_MANAGERS_SOURCES = {"paused": "auto_pause", "running": "auto_resume"}

Payload = Mapping[str, Any]


def event_of(stream: str, entry_id: str, entry: Mapping[str, str]) -> SourceEvent | None:
    """The event of an entry (``op``, ``sandbox_id``, ``ts``, ``payload``).

    None for one that tells of none: another ``op``, another state, no sandbox. A payload that is
    missing or broken leaves its fields out. Nothing is raised.
    """
    payload = _parsed(entry.get("payload"))
    name = _name(entry.get("op"), payload)
    sandbox = entry.get("sandbox_id") or _text(payload, "sandbox_id")
    if name is None or sandbox is None:
        return None
    return SourceEvent(
        id=str(uuid.uuid5(_NAMESPACE, f"{stream}\n{entry_id}")),
        name=name,
        time=_time(entry.get("ts"), entry_id),
        fields={"sandbox_id": sandbox, **_FIELDS[name](payload)},
    )


def _name(op: str | None, payload: Payload) -> str | None:
    if op == "state":
        return _STATES.get(_text(payload, "state") or "")
    return _OPS.get(op or "")


def _created(payload: Payload) -> Payload:
    return _known(template_id=_text(payload, "template_id"))


def _changed(payload: Payload) -> Payload:
    return _known(
        template_id=_text(payload, "template_id"),
        source=_source(payload),
        reason=_one_of(_REASONS, payload, "reason"),
    )


def _timeout(payload: Payload) -> Payload:
    seconds = payload.get("timeout_seconds")
    return _known(timeout=seconds if type(seconds) is int else None)


_OPS = {
    "create": "sandbox.created",
    "delete": "sandbox.deleted",
    "update": "sandbox.timeout.updated",
}
_FIELDS: Mapping[str, Callable[[Payload], Payload]] = {
    "sandbox.created": _created,
    "sandbox.deleted": _changed,
    "sandbox.paused": _changed,
    "sandbox.resumed": _changed,
    "sandbox.timeout.updated": _timeout,
}


def _source(payload: Payload) -> str | None:
    said = _one_of(_SOURCES, payload, "source")
    if said is None and payload.get("actor") == _MANAGER:
        return _MANAGERS_SOURCES.get(_text(payload, "state") or "")
    return said


def _one_of(values: tuple[str, ...], payload: Payload, name: str) -> str | None:
    found = _text(payload, name)
    return found if found in values else None


def _text(payload: Payload, name: str) -> str | None:
    found = payload.get(name)
    return found if isinstance(found, str) and found else None


def _known(**fields: object) -> Payload:
    return {name: value for name, value in fields.items() if value is not None}


def _parsed(text: str | None) -> Payload:
    try:
        parsed = json.loads(text or "")
    except (ValueError, RecursionError):
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _time(written: str | None, entry_id: str) -> float:
    """In Unix seconds: what was written, or else when Redis took the entry; never the clock, which
    would make another event of the same entry."""
    for text in (written or "", entry_id.partition("-")[0]):
        try:
            milliseconds = int(text)
        except ValueError:
            continue
        if 0 < milliseconds < YEAR_10000 * 1000:
            return milliseconds / 1000
    return 0.0
