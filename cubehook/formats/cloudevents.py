"""Format ``cloudevents``: CloudEvents 1.0 as JSON, one in structured mode or several as a batch.

https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import cast

from cubehook.event import Event
from cubehook.formats._base import WebhookFormatter
from cubehook.formats._text import UNTAGGED
from cubehook.redaction import JSONValue

# As OpenTelemetry numbers them, and the extension "severity" of CloudEvents with it.
_SEVERITIES = {"debug": 5, "info": 9, "warn": 13, "error": 17}

# What a String of the specification must not hold: controls, surrogates, noncharacters.
_NO_STRING = re.compile(
    "[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef"
    + "".join(chr(plane << 16 | end) for plane in range(17) for end in (0xFFFE, 0xFFFF))
    + "]"
)


class CloudEventsFormatter(WebhookFormatter):
    """An event with its fields as ``data``, and its level as ``severitytext``.

    source: the context in which the event happened, a URI reference. A subclass says its own.
    """

    content_type = "application/cloudevents+json; charset=utf-8"
    batch_content_type = "application/cloudevents-batch+json; charset=utf-8"
    source = "cubehook"

    def payload(self, event: Event) -> JSONValue:
        """The attributes, those that are empty left out, and the data."""
        subject = _subject(event.fields.get("sandbox_id"))
        return {
            "specversion": "1.0",
            "id": event.id,
            "source": self.source,
            "type": event.name or UNTAGGED,
            "time": event.timestamp,
            **({"subject": subject} if subject else {}),
            "severitytext": event.level.upper(),
            "severitynumber": _SEVERITIES[event.level],
            "datacontenttype": "application/json",
            "data": cast(JSONValue, event.fields),  # plain JSON after redaction
        }

    def join(self, batch_id: str, bodies: Sequence[bytes]) -> bytes:
        """A JSON array: a batch of CloudEvents has no id of its own."""
        return b"[%b]" % b",".join(bodies)


def _subject(sandbox_id: object) -> str:
    if isinstance(sandbox_id, bool) or not isinstance(sandbox_id, str | int):
        return ""
    return _NO_STRING.sub("", str(sandbox_id))
