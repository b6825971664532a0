"""A user's file: type checkers check it, strictly, against what is installed."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from typing_extensions import assert_type

from cubehook import (
    ConfigError,
    Endpoint,
    Event,
    Stats,
    VerificationError,
    WebhookFormatter,
    WebhookHandler,
    signing,
    verify,
)
from cubehook.outcome import Failure, Reply
from cubehook.signing import Key, Scheme


class Enveloped(WebhookFormatter):
    content_type = "application/vnd.example+json"
    rate_limit = "20/60s"

    def payload(self, event: Event) -> dict[str, Any]:
        return {"type": event.name, "time": event.timestamp, "data": dict(event.fields)}

    def judge(self, reply: Reply) -> Reply | Failure:
        return reply if reply.body == b"ok" else Failure("not ok", final=True, wait=1.0)


class Acme(Scheme):
    name = "acme"
    dated = False
    signature_header = "x-acme"

    def key(self, secret: str) -> Key:
        return secret.encode()

    def sign(
        self, *, message_id: str, event: str, timestamp: int, body: bytes, keys: Sequence[Key]
    ) -> dict[str, str]:
        return {"X-Acme": message_id}

    def check(
        self,
        headers: Mapping[str, str],
        body: bytes,
        keys: Sequence[Key],
        now: float,
        tolerance: float,
    ) -> None:
        raise VerificationError("no")


def attach(url: str) -> WebhookHandler:
    signing.register(Acme())
    try:
        endpoint = Endpoint(url=url, name="ops", secret="env:SECRET", batch={"max_events": 10})
    except ConfigError as error:
        assert_type(error.problems, tuple[str, ...])
        raise
    handler = WebhookHandler([endpoint, {"url": url}], queue_capacity=10, level=logging.INFO)
    handler.setFormatter(Enveloped(redact=["customer"]))
    logging.getLogger("app").addHandler(handler)
    handler.update_endpoints([endpoint])
    return handler


def look(handler: WebhookHandler) -> int:
    assert_type(handler.flush(), bool)
    assert_type(handler.flush(timeout=1.0), bool)
    stats = handler.stats()
    assert_type(stats, Stats)
    assert_type(stats.endpoints["ops"].state, str)
    assert_type(stats.dropped["queue_full"], int)
    handler.close()
    return stats.delivered


def receive(body: bytes, headers: Mapping[str, str]) -> str:
    event = verify(body, headers, ["new", "old"], tolerance=60, scheme="cube")
    assert_type(event, dict[str, Any])
    return str(event["event"])
