"""One attempt to send an event ``cubehook.test`` to an endpoint."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from cubehook import formats, threads
from cubehook.attempt import Sender
from cubehook.config import Settings, load_endpoints
from cubehook.event import Event, random_id
from cubehook.message import Message
from cubehook.outcome import Reply

EVENT = "cubehook.test"


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of it. reason: such as ``status 204`` or ``timeout``. seconds: how long it took."""

    event_id: str
    delivered: bool
    reason: str
    seconds: float

    def __str__(self) -> str:
        outcome = "delivered" if self.delivered else "failed"
        return f"{outcome}: {self.reason}, in {self.seconds * 1000:.0f} ms"

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "event_id": self.event_id,
            "outcome": "delivered" if self.delivered else "failed",
            "reason": self.reason,
            "seconds": round(self.seconds, 6),
        }


def send(keys: Mapping[str, Any], settings: Settings, timeout: float | None = None) -> Trial:
    """One attempt, at an endpoint of these keys, over after its own timeout or this one.

    Raises `ConfigError` if the endpoint cannot be used from here.
    """
    (endpoint,) = load_endpoints([keys], replace(settings, outbox=None))
    body_format = formats.make(endpoint.format, settings.redact, settings.keep)
    fields = {"message": "a test of this endpoint"}
    event = Event(random_id(), EVENT, time.time(), "info", fields)
    body = body_format.format_event(event)
    message = Message(event.id, EVENT, None, body_format.content_type, body)
    sender = Sender(endpoint, body_format.judge)
    began = time.monotonic()
    try:
        with threads.own():  # what urllib3 logs has URLs
            answer = sender(message, timeout)
    finally:
        sender.close()
    took = time.monotonic() - began
    if isinstance(answer, Reply):
        return Trial(event.id, 200 <= answer.status < 300, f"status {answer.status}", took)
    return Trial(event.id, False, answer.reason, took)
