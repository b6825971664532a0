"""Format ``standard``: the payload that Standard Webhooks recommends: type, timestamp, data.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import cast

from cubehook.event import Event
from cubehook.formats._base import WebhookFormatter
from cubehook.formats._text import UNTAGGED
from cubehook.redaction import JSONValue


class StandardFormatter(WebhookFormatter):
    """``{"type": …, "timestamp": …, "data": {the fields}}``.

    The id is in the header ``webhook-id`` only, where the scheme ``standard`` puts it: who reads
    this body checks that signature, so it is the scheme where an endpoint names none.
    """

    scheme = "standard"

    def payload(self, event: Event) -> JSONValue:
        """The fields under ``data``; the level is not said."""
        return {
            "type": event.name or UNTAGGED,
            "timestamp": event.timestamp,
            "data": cast(JSONValue, event.fields),  # plain JSON after redaction
        }

    def join(self, batch_id: str, bodies: Sequence[bytes]) -> bytes:
        """A body of the same form, of type ``cubehook.batch``; its time is the last event's."""
        timestamp = json.dumps(json.loads(bodies[-1])["timestamp"]).encode("ascii")
        events = b",".join(bodies)
        return b'{"type":"cubehook.batch","timestamp":%b,"data":{"id":%b,"events":[%b]}}' % (
            timestamp,
            json.dumps(batch_id).encode("ascii"),
            events,
        )
