"""Format ``e2b``: the body of E2B's webhooks for the life of a sandbox, version ``v2``.

https://e2b.dev/docs/sandbox/lifecycle-events-webhooks
"""

from __future__ import annotations

from typing import cast

from cubehook.event import Event
from cubehook.formats._base import WebhookFormatter
from cubehook.formats._text import UNTAGGED
from cubehook.redaction import JSONValue

# E2B's name for each event, and the two older words for it.
_TYPES = {
    "sandbox.created": ("sandbox.lifecycle.created", "create"),
    "sandbox.deleted": ("sandbox.lifecycle.killed", "kill"),
    "sandbox.paused": ("sandbox.lifecycle.paused", "pause"),
    "sandbox.resumed": ("sandbox.lifecycle.resumed", "resume"),
    "sandbox.timeout.updated": ("sandbox.lifecycle.updated", "update"),
    "sandbox.refreshed": ("sandbox.lifecycle.updated", "update"),
}
# Where E2B has a field for one of ours, and what it holds where nothing is known.
_NAMES = {
    "sandbox_id": ("sandbox_id", ""),
    "execution_id": ("sandbox_execution_id", ""),
    "template_id": ("sandbox_template_id", ""),
    "build_id": ("sandbox_build_id", ""),
    "team_id": ("sandbox_team_id", "00000000-0000-0000-0000-000000000000"),
}


class E2BFormatter(WebhookFormatter):
    """For receivers that were written for E2B's webhooks; new ones had better take another.

    It goes with the scheme ``e2b``, which is weak: see there. Fields that E2B has no place for
    are in ``event_data``. An event that E2B does not know keeps its name.
    """

    scheme = "e2b"
    join = None  # type: ignore[assignment]  # E2B has no body for several events

    def payload(self, event: Event) -> JSONValue:
        """As E2B's own services write it."""
        name = event.name or UNTAGGED
        category, _, last = name.rpartition(".")
        kind, label = _TYPES.get(name, (name, last))
        data = {key: value for key, value in event.fields.items() if key not in _NAMES}
        return {
            "id": event.id,
            "version": "v2",
            "type": kind,
            "timestamp": event.timestamp,
            "event_category": "lifecycle" if name in _TYPES else category or name,
            "event_label": label,
            "event_data": cast(JSONValue, data),  # plain JSON after redaction
            **{
                theirs: _text(event.fields.get(ours)) or unknown
                for ours, (theirs, unknown) in _NAMES.items()
            },
        }


def _text(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        return ""
    return str(value)
